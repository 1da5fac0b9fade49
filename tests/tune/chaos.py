"""A small real study, launches of it in processes of their own, and what must hold however they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from ptune.cohort.manifest import load_manifest
from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import StudyConfig
from ptune.extract.pipeline import extract_video
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, read_study

ROOT = Path(__file__).parents[2]
STUDY: dict[str, Any] = {
    "study": "chaos",
    "cohort": "cohort/cohort.csv",
    "task": "hand",
    "folds": {"count": 2},
    "budget": {"trials": 6},
    "finalists": {"count": 1},
    "init": "random",
    "extraction": {"width": 40, "height": 32},
    "space": {
        "modality": {"choice": ["flow", "mb"]},
        "segments": {"int": [1, 3]},
        "learning_rate": {"float": [1e-4, 1e-2], "log": True},
    },
    "fixed": {
        "epochs": 3,
        "batch_size": 4,
        "snippet_frames": 8,
        "width": 0.125,
        "crop": 24,
        "attention_width": 8,
        "validation": {"snippets": 1, "frames": 8},
        "test": {"snippets": 2, "frames": 8},
    },
}


class Arena:
    """A folder with a cohort and its features, in which studies are launched and disturbed."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root = root
        size = SyntheticConfig(
            subjects=6,
            clips_per_subject=2,
            fps=12.5,
            seconds=(1.2, 1.6),
            width=64,
            height=48,
            score_weights=(2, 1, 1, 1, 1),
        )
        manifest = load_manifest(render_cohort(root / "cohort", size))
        self.study = self.write_study("study.yaml", **changes)
        config = StudyConfig.load(self.study)
        store = open_store(root / "features", config.extraction)
        for video in manifest.videos:
            features, extra = extract_video(video.path, config.extraction)
            store.write(video.id, features.rgb, features.flow, features.fps, extra)

    def write_study(self, name: str, **changes: Any) -> Path:
        path = self.root / name
        path.write_text(yaml.safe_dump(STUDY | changes))
        return path

    def launch(self, home: str, study: Path | None = None, **environment: str) -> Launch:
        return Launch(self.root, self.root / home, study or self.study, environment)

    def facts(self, home: str, study: str = "chaos") -> StudyFacts:
        facts = read_study(Ledger(self.root / home / "ledger"), study)
        assert facts is not None
        return facts

    def events(self, home: str, study: str = "chaos") -> list[dict[str, Any]]:
        return Ledger(self.root / home / "ledger").study(study).events()

    def open(self, home: str) -> Home:
        return Home.open(self.root / home, self.root / "features")


class Launch:
    """One `ptune sweep` on one core, with a Ray of its own."""

    def __init__(self, root: Path, home: Path, study: Path, environment: dict[str, str]) -> None:
        # Ray's socket paths may not exceed 107 bytes.
        self.scratch = tempfile.mkdtemp(prefix="pt", dir="/tmp")
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        places = ["--home", str(home), "--features", str(root / "features")]
        arguments = ["sweep", str(study), *places, "--workers", "1"]
        self.log = open(home.with_suffix(".log"), "a+")  # noqa: SIM115 (closed in `clean`)
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("ptune"), *arguments],
            env=inherited | {"RAY_TMPDIR": self.scratch, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
            cwd=root,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def finish(self, code: int = 0) -> float:
        """Waits for the end; returns the seconds it took."""
        found = self.process.wait(timeout=280)
        seconds = time.monotonic() - self.start
        printed = self.printed()
        self.clean()
        assert found == code, f"exit code {found}\n{printed}"
        assert "Traceback" not in printed, printed
        return seconds

    def kill(self, after: float) -> None:
        """Ends the driver after so many seconds, as a power cut would."""
        time.sleep(max(0.0, after - (time.monotonic() - self.start)))
        end(self.process.pid)
        self.process.wait()
        self.clean()

    def printed(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:]

    def actors(self) -> list[int]:
        """Returns the processes that run trials."""
        return self.processes("ray::TrialRunner")

    def processes(self, name: str = "") -> list[int]:
        """Returns the processes of this launch's Ray whose name begins with `name`."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                ours = f"RAY_TMPDIR={self.scratch}".encode() in (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if ours and name.encode() in command:
                found.append(int(entry.name))
        return found

    def clean(self) -> None:
        """Ends what a killed driver left behind, and only that."""
        for identity in self.processes():
            end(identity)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.log.close()


def end(identity: int) -> None:
    try:
        os.kill(identity, signal.SIGKILL)
    except ProcessLookupError:
        return


def outcome(facts: StudyFacts) -> dict[int, Any]:
    """Returns all that a study found, without what it cost."""
    return {
        trial.number: (trial.params, trial.state, trial.reason, trial.value, trial.metrics, trial.fits)
        for trial in facts.trials.values()
    }


def check_events(events: list[dict[str, Any]]) -> None:
    """Refuses what no study may contain: a trial proposed or ended twice, a step reported twice or out of order."""
    proposed = [event["trial"] for event in events if event["kind"] == "proposed"]
    assert len(proposed) == len(set(proposed))
    ends = [event["trial"] for event in events if event["kind"] in ("finished", "stopped", "failed")]
    assert len(ends) == len(set(ends))
    assert set(ends) == set(proposed), "no trial is left without an end"
    for trial in proposed:
        steps = [event["step"] for event in events if event["kind"] == "reported" and event["trial"] == trial]
        assert steps == sorted(set(steps))
