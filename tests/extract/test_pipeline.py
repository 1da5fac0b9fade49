import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from ptune.cohort.manifest import Video
from ptune.config import ExtractConfig, TVL1Config
from ptune.errors import ConfigError, FeatureError, VideoError
from ptune.extract import pipeline, record, workers
from ptune.extract.pipeline import extract, extract_video
from ptune.extract.record import RecordBuilder
from ptune.extract.report import load_quarantine
from ptune.extract.store import open_store
from ptune.extract.workers import DecodeWorker, FlowWorker, solve_into
from ptune.home import Home
from tests.extract.clips import panning, write_clip

QUICK = ExtractConfig(width=32, height=24, flow=TVL1Config(scales=2, warps=2, outer_iterations=2))


@pytest.fixture
def home(tmp_path):
    return Home.open(tmp_path / "home")


def video(path: Path, line: int) -> Video:
    return Video(hashlib.sha256(path.read_bytes()).hexdigest()[:16], path, f"S{line}", "hand", 0, line)


def clips(folder: Path) -> list[Video]:
    paths = [write_clip(folder / f"S01_{seed}.mp4", panning(frames=9 + seed, seed=seed)) for seed in range(3)]
    (folder / "S01_noise.mp4").write_bytes(b"no video" * 100)
    return [video(path, line) for line, path in enumerate([*paths, folder / "S01_noise.mp4"], 2)]


@pytest.fixture
def without_ray(monkeypatch):
    """Runs the workers in this process."""

    def run(requests, backend, workers, share_videos):
        decoding, flow = DecodeWorker(), FlowWorker()
        return (flow(chunk) for request in requests for chunk in decoding(request))

    monkeypatch.setattr(pipeline, "_run", run)
    monkeypatch.setattr(pipeline, "_quickest", lambda: "cpu")
    monkeypatch.setattr(pipeline, "ray_session", lambda *_: nullcontext())
    return run


SCRIPT = """
import sys
from pathlib import Path
from ptune.extract.pipeline import extract
from ptune.home import Home
from tests.extract.test_pipeline import QUICK, clips
folder = Path(sys.argv[1])
report = extract(clips(folder), QUICK, Home.open(folder / "home"), workers=2)
print(len(report.done), len(report.reused), [tuple(entry) for entry in report.quarantined.values()], report.pairs)
assert "torch" not in sys.modules
"""


@pytest.fixture
def ray_folder():
    folder = Path(tempfile.mkdtemp(prefix="pt", dir="/tmp"))  # Ray's socket paths may not exceed 107 bytes
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_ray_extracts_around_a_malformed_video_and_then_reuses(tmp_path, ray_folder):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "PYTHONPATH": str(root)}
    environment.pop("RAY_ADDRESS", None)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    reason = "(5, 'unreadable', 'invalid data found when processing input')"
    assert run.stdout.strip() == f"3 0 [{reason}] 27"
    assert run.stderr.splitlines()[-1].startswith("extract: 28/28")
    strangers = [
        line for line in run.stderr.splitlines() if not line.startswith("extract:") and "logging.cc" not in line
    ]
    assert not strangers, "Ray Data wrote to the terminal"
    logs = [path for path in ray_folder.rglob("*") if path.is_file() and path.suffix in {".log", ".out", ".err"}]
    assert logs
    assert not [path.name for path in logs if b"S01_" in path.read_bytes()]

    home = Home.open(tmp_path / "home")
    store = open_store(home.features, QUICK)
    videos = clips(tmp_path)
    assert store.ids() == sorted(item.id for item in videos[:3])
    first = videos[0]
    assert np.array_equal(store.video(first.id).flow, extract_video(first.path, QUICK)[0].flow)
    again = extract(videos[:3], QUICK, home)
    assert (again.done, len(again.reused), again.quarantined) == ((), 3, {})
    assert list(load_quarantine(store)) == [videos[3].id]


def test_quarantine_is_tried_again(tmp_path, home, without_ray):
    videos = clips(tmp_path)
    report = extract(videos, QUICK, home)
    assert (len(report.done), len(report.quarantined)) == (3, 1)
    store = open_store(home.features, QUICK)
    assert load_quarantine(store) == {
        videos[3].id: {"reason": "unreadable", "detail": "invalid data found when processing input"}
    }
    videos[3].path.write_bytes(videos[0].path.read_bytes())
    report = extract(videos, QUICK, home)
    assert (report.done, len(report.reused), report.quarantined) == ((videos[3].id,), 3, {})
    assert load_quarantine(store) == {}


def test_what_is_known_of_the_same_bytes_can_stand_without_another_try(tmp_path, home, without_ray, monkeypatch):
    videos = clips(tmp_path)
    first = extract(videos, QUICK, home)
    monkeypatch.setattr(pipeline, "_run", lambda *_: pytest.fail("nothing is left to extract"))
    again = extract(videos, QUICK, home, retry=False)
    assert again.quarantined == first.quarantined
    assert (again.done, len(again.reused)) == ((), 3)
    assert load_quarantine(open_store(home.features, QUICK))


def test_ten_more_videos_are_ten_more_to_extract(tmp_path, home, without_ray):
    videos = clips(tmp_path)[:3]
    assert len(extract(videos[:1], QUICK, home).done) == 1
    report = extract(videos, QUICK, home)
    assert (len(report.done), len(report.reused), report.pairs) == (2, 1, 9 + 10)


def test_an_interrupted_video_goes_on_at_the_chunk_where_it_was(tmp_path, home, without_ray, monkeypatch):
    monkeypatch.setattr(record, "CHUNK_PAIRS", 4)
    videos = clips(tmp_path)[:1]
    solved = []

    def dying(builder, chunk, *rest):
        if chunk.first == 4 and len(solved) == 1:
            raise KeyboardInterrupt
        solved.append(chunk.first)
        return solve_into(builder, chunk, *rest)

    monkeypatch.setattr(workers, "solve_into", dying)
    with pytest.raises(KeyboardInterrupt):
        extract(videos, QUICK, home)
    assert not open_store(home.features, QUICK).ids()
    solved.append("again")
    assert extract(videos, QUICK, home).done == (videos[0].id,)
    assert solved == [0, "again", 4]
    assert np.array_equal(
        open_store(home.features, QUICK).video(videos[0].id).flow, extract_video(videos[0].path, QUICK)[0].flow
    )


def test_a_worker_reports_what_it_could_not_write(tmp_path, home, without_ray, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordBuilder, "write_chunk", full)
    with pytest.raises(FeatureError, match=r"3 of 4 records could not be made \(OSError \(No space left on device\)\)"):
        extract(clips(tmp_path), QUICK, home)


def test_a_lost_video_is_noticed(tmp_path, home, without_ray, monkeypatch):
    monkeypatch.setattr(pipeline, "_run", lambda requests, *rest: without_ray(requests[1:], *rest))
    with pytest.raises(FeatureError, match="1 of 4 videos got lost"):
        extract(clips(tmp_path), QUICK, home)


def test_a_damaged_video_is_kept_only_on_request_and_says_so(tmp_path, home, without_ray):
    whole = write_clip(tmp_path / "whole.avi", panning(frames=60)).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    videos = [video(tmp_path / "cut.avi", 2)]
    store = open_store(home.features, QUICK)
    assert extract(videos, QUICK, home).quarantined[videos[0].id].reason == "truncated"
    assert not store.ids()
    assert not list(store.path.glob(".building/*"))
    report = extract(videos, QUICK, home, allow_damaged=True)
    assert report.done == (videos[0].id,)
    assert report.notes[0].startswith("line 2 of the manifest is damaged and was allowed: ")
    assert 10 < len(store.video(videos[0].id).rgb) < 60


def test_the_same_recording_under_two_subjects_is_named(tmp_path, home, without_ray):
    frames = panning(frames=40, step=2)
    one = video(write_clip(tmp_path / "one.mp4", frames), 2)
    other = video(write_clip(tmp_path / "other.avi", frames[:, ::-1][:, ::-1], fps=30), 3)
    different = video(write_clip(tmp_path / "different.mp4", panning(frames=40, step=2, seed=5)), 4)
    report = extract([one, other, different], ExtractConfig(width=64, height=48, flow=QUICK.flow), home)
    assert report.notes == ("lines 2 and 3 of the manifest show the same recording under two subjects",)


def test_an_unknown_backend_is_refused_before_any_work(tmp_path, home):
    with pytest.raises(ConfigError, match="flow backend"):
        extract(clips(tmp_path), QUICK, home, backend="fast")


def test_features_of_one_video_equal_their_pan(tmp_path):
    path = write_clip(tmp_path / "a.mp4", panning(frames=9, step=2))
    features, facts = extract_video(path, ExtractConfig(width=64, height=48))
    assert features.rgb.shape == (9, 48, 64, 3)
    assert features.flow.shape == (8, 48, 64, 2)
    assert np.median(features.flow[..., 0]) / 1024 == pytest.approx(2, abs=0.2)
    assert facts["video"]["codec"] == "mpeg4"
    with pytest.raises(VideoError):
        extract_video(tmp_path / "b.mp4", QUICK)


def test_a_long_video_is_solved_in_chunks_without_a_seam(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", panning(frames=12))
    whole, facts = extract_video(path, QUICK)
    monkeypatch.setattr(record, "CHUNK_PAIRS", 4)
    chunked, chunked_facts = extract_video(path, QUICK)
    assert np.array_equal(chunked.flow, whole.flow)
    assert chunked_facts == facts
