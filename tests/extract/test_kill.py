"""Extraction is killed at random times, its driver or one of its workers, and run again."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ptune.config import ExtractConfig, TVL1Config
from ptune.extract.store import open_store
from ptune.home import Home
from tests.extract.clips import panning, write_clip

ROOT = Path(__file__).parents[2]
SEEDS = range(10 if os.environ.get("PTUNE_FULL") else 1)
CONFIG = ExtractConfig(width=160, height=120, flow=TVL1Config(scales=3, warps=3, outer_iterations=4))

SCRIPT = """
import sys
from pathlib import Path
from ptune.extract.pipeline import extract
from ptune.home import Home
from tests.extract.test_kill import CONFIG, cohort
folder = Path(sys.argv[1])
print(extract(cohort(Path(sys.argv[2])), CONFIG, Home.open(folder), workers=2).text())
"""


def cohort(folder: Path):
    from tests.extract.test_pipeline import video

    return [video(path, line) for line, path in enumerate(sorted(folder.iterdir()), 2)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(4):
        write_clip(folder / f"{seed}.mp4", panning(frames=30 + 40 * seed, height=120, width=160, seed=seed))
    (folder / "noise.mp4").write_bytes(b"no video" * 100)
    return folder


class Extraction:
    """One run of extraction in a process of its own, with its own Ray."""

    def __init__(self, home: Path, clips: Path) -> None:
        self.scratch = tempfile.mkdtemp(prefix="pt", dir="/tmp")  # Ray's socket paths may not exceed 107 bytes
        environment = {**os.environ, "RAY_TMPDIR": self.scratch, "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(home), str(clips)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> tuple[str, float]:
        """Returns what was printed and the seconds it took."""
        out, error = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, error[-3000:]
        seconds = time.monotonic() - self.start
        self.clean()
        return out, seconds

    def clean(self) -> None:
        """Ends what the killed driver left behind, and only that."""
        for identity in self.processes():
            end(identity)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def processes(self, name: str = "") -> list[int]:
        """Returns the processes of this run's Ray whose name begins with `name`."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"RAY_TMPDIR={self.scratch}".encode() in environment and command.startswith(name.encode()):
                found.append(int(entry.name))
        return [identity for identity in found if identity != self.process.pid or self.process.poll() is None]


def end(identity: int) -> None:
    try:
        os.kill(identity, signal.SIGKILL)
    except ProcessLookupError:
        return


def content(home: Path) -> dict[str, str]:
    folder = open_store(Home.open(home).features, CONFIG).path
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    run = Extraction(home, clips)
    printed, seconds = run.finish()
    assert printed.startswith("4 videos extracted, 0 reused, 1 quarantined")
    assert len(content(home)) == 4 * 3 + 1
    return content(home), seconds


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_extraction_run_again_gives_the_same_store(tmp_path, clips, undisturbed, seed):
    expected, seconds = undisturbed
    run = Extraction(tmp_path, clips)
    time.sleep(random.Random(seed).uniform(0.1, 0.95) * seconds)
    run.process.kill()
    run.process.communicate()
    run.clean()
    printed, _ = Extraction(tmp_path, clips).finish()
    assert "1 quarantined" in printed
    assert content(tmp_path) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_an_extraction_survives_the_death_of_a_worker(tmp_path, clips, undisturbed, seed):
    expected, seconds = undisturbed
    run = Extraction(tmp_path, clips)
    chance = random.Random(seed)
    while not (workers := run.processes("ray::MapWorker")) and run.process.poll() is None:
        time.sleep(0.1)
    time.sleep(chance.uniform(0, 0.4) * seconds)
    end(chance.choice(run.processes("ray::MapWorker") or workers))
    printed, _ = run.finish()
    assert "4 videos extracted, 0 reused, 1 quarantined" in printed
    assert content(tmp_path) == expected
