"""The rows that a reviewer asks for are computed once, over Ray, and are facts of the study's ledger."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ptune.cohort.manifest import Manifest, Video
from ptune.config import ClassGrouping, StreamConfig, StudyConfig
from ptune.extract.circumstances import circumstances
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.metrics import stacked
from ptune.model.inception import I3DTrunk
from ptune.model.weights import KINETICS_FILE, load_kinetics
from ptune.replay import read_study, study_baselines
from ptune.sample.dataset import protocol_batches
from ptune.tune.baselines import reviewer_rows
from ptune.tune.plan import Plan
from ptune.tune.study import open_study
from tests.example_features import EXTRACTION, example_videos, write_features
from tests.model.example_weights import example_state

VIDEOS = example_videos(subjects=5)
STUDY = {
    "study": "hand",
    "cohort": "c.csv",
    "task": "hand",
    "init": "random",
    "folds": {"count": 2},
    "extraction": EXTRACTION.model_dump(),
    "space": {"modality": {"choice": ["rgb", "flow"]}},
    "fixed": {"width": 0.125, "crop": 24, "test": {"snippets": 2, "frames": 8}},
}
ROWS = ["frozen", "nuisance"]


@pytest.fixture
def study(tmp_path):
    """A study of ten videos with one trial, as it is when its sweep ends."""
    home = Home.open(tmp_path / "home")
    write_features(home.features, VIDEOS)
    folds = {f"S{number:02d}": number % 2 for number in range(1, 6)}
    cohort = {"digest": "d" * 64, "videos": 10, "subjects": 5, "class_counts": {}}
    plan = Plan(StudyConfig.parse(STUDY, "test"), home, VIDEOS, folds, cohort, {})
    facts = open_study(Ledger(home.ledger), plan, None)
    Ledger(home.ledger).study("hand").append("proposed", trial=0, group="flow", params={"modality": "flow"})
    return read_study(Ledger(home.ledger), "hand") or facts, plan


def manifest_of(tmp_path, sides=("left", "right")):
    videos = tuple(
        Video(video.video_id, tmp_path / "gone.mp4", video.subject, "hand", video.score, 2, side=sides[index % 2])
        for index, video in enumerate(VIDEOS)
    )
    return Manifest(tmp_path / "cohort.csv", videos, ClassGrouping())


def without_ray(monkeypatch, run):
    monkeypatch.setattr("ptune.tune.baselines.run_on_cluster", run)
    monkeypatch.setattr("ptune.tune.baselines.ray_session", lambda *_: nullcontext())


def refuse(*_):
    raise AssertionError("nothing is left to compute")


def test_both_rows_are_made_once_and_read_from_the_ledger_alone(study, tmp_path, monkeypatch):
    facts, plan = study
    weights, manifest, ledger = plan.home.weights / KINETICS_FILE, manifest_of(tmp_path), Ledger(plan.home.ledger)
    save_file(example_state(), weights)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path.parent / "r"))
    rows = reviewer_rows(facts, plan, manifest, workers=1)
    assert [row.key for row in rows] == ROWS
    for row in rows:
        assert row.frame["video_id"].tolist() == [video.video_id for video in VIDEOS]
        assert row.frame["label"].tolist() == [video.label for video in VIDEOS]
        assert (row.frame["fold"] == row.frame["subject"].map(plan.folds)).all()
        assert np.allclose(stacked(row.frame).sum(1), 1)
    assert rows[1].name == "nuisance only (brightness, side)"

    without_ray(monkeypatch, refuse)
    events = len(ledger.study("hand").events())
    again = reviewer_rows(read_study(ledger, "hand"), plan, manifest)
    assert len(ledger.study("hand").events()) == events
    later = study_baselines(ledger, read_study(ledger, "hand"))
    for one, other, third in zip(rows, again, later, strict=True):
        assert one.frame.equals(other.frame)
        assert one.frame.equals(third.frame)

    for path in (plan.home.ledger / "studies/hand/tables").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    mended = reviewer_rows(read_study(ledger, "hand"), plan, manifest)
    assert mended[0].frame.equals(rows[0].frame), "vectors beside the features are kept"

    turned = reviewer_rows(read_study(ledger, "hand"), plan, manifest_of(tmp_path, ("left", "left")))
    assert turned[1].name == "nuisance only (brightness)"
    assert turned[0].frame.equals(rows[0].frame)

    save_file(example_state() | {"head.bias": np.zeros(400, np.float32)}, weights)
    with pytest.raises(AssertionError, match="nothing is left"):
        reviewer_rows(read_study(ledger, "hand"), plan, manifest)

    weights.unlink()
    kept = reviewer_rows(read_study(ledger, "hand"), plan, manifest)
    assert kept[0].frame.equals(rows[0].frame), "a row outlives the weights it was made with"


def test_a_vector_is_the_mean_of_what_the_unchanged_network_says_of_the_snippets(study, tmp_path, monkeypatch):
    facts, plan = study
    save_file(example_state(), plan.home.weights / KINETICS_FILE)

    def here(work, calls, title):
        for call in calls:
            work(*call)

    without_ray(monkeypatch, here)
    reviewer_rows(facts, plan, manifest_of(tmp_path))
    store = write_features(tmp_path / "again", VIDEOS[:1])
    stream = StreamConfig.parse({"modality": "rgb", "crop": 24, "test": {"snippets": 2, "frames": 8}}, "test")
    network = I3DTrunk(3, 1.0).eval()
    load_kinetics(network, plan.home.weights / KINETICS_FILE)
    (batch,) = protocol_batches([store.video(VIDEOS[0].video_id)], stream, stream.test, 16)
    with torch.inference_mode():
        expected = network.encode(batch.network_input(stream)).mean(0).numpy()
    (file,) = (plan.home.features / EXTRACTION.signature() / VIDEOS[0].video_id).glob("i3d-*.npy")
    found = np.load(file)
    assert found.shape == (1024,)
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_without_weights_the_row_is_missing_and_the_ledger_says_why(study, tmp_path):
    facts, plan = study
    frozen, nuisance = reviewer_rows(facts, plan, manifest_of(tmp_path))
    assert nuisance.frame is not None
    assert frozen.frame is None
    assert frozen.note == "the Kinetics weights are missing from the home; `ptune weights fetch` gets them"
    ledger = Ledger(plan.home.ledger)
    events = ledger.study("hand").events()
    reviewer_rows(read_study(ledger, "hand"), plan, manifest_of(tmp_path))
    assert ledger.study("hand").events() == events


def test_circumstances_come_from_the_record_and_the_manifest(tmp_path):
    store = write_features(tmp_path, VIDEOS[:2])
    rgb = np.full((30, 32, 40, 3), 200, np.uint8)
    store.write(VIDEOS[0].video_id, rgb, np.zeros((29, 32, 40, 2), np.int16), 12.5)
    quality = {"quality": {"brightness_mean": 87.5}}
    store.write(VIDEOS[1].video_id, rgb, np.zeros((29, 32, 40, 2), np.int16), 0.0, quality)
    found = circumstances(manifest_of(tmp_path).videos[:2], store)
    first, second = (found[video.video_id] for video in VIDEOS[:2])
    assert (first.duration, first.brightness, first.side, first.visit) == (2.4, 200.0, "left", "")
    assert (second.duration, second.brightness, second.side) == (None, 87.5, "right")
