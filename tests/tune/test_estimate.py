"""What a study would take: its space, what is there already, and hours from steps that were really taken."""

import pytest

from ptune.config import StreamConfig, StudyConfig
from ptune.config.study import Dimension
from ptune.ledger import Ledger, predictions_table
from ptune.replay import read_study
from ptune.tune.estimate import _median, estimate_study, median_point
from ptune.tune.plan import plan_of, read_inputs
from ptune.tune.probe import Pace, measure
from tests.tune.chaos import Arena

SPACE = {
    "modality": {"choice": ["flow", "mb"]},
    "segments": {"int": [1, 3]},
    "attention": {"choice": [True, False]},
    "attention_width": {"choice": [8, 16], "when": {"attention": True}},
}

FIXED = {
    "epochs": 3,
    "batch_size": 4,
    "snippet_frames": 8,
    "width": 0.125,
    "crop": 24,
    "validation": {"snippets": 1, "frames": 8},
    "test": {"snippets": 2, "frames": 8},
}


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    return Arena(tmp_path_factory.mktemp("arena"), space=SPACE, fixed=FIXED, budget={"trials": 50, "gpu_hours": 1e-4})


def estimated(arena, home="home"):
    return estimate_study(StudyConfig.load(arena.study), arena.root, arena.open(home), workers=2)


@pytest.mark.parametrize(
    ("dimension", "middle"),
    [
        ({"int": [2, 8]}, 5),
        ({"float": [1e-6, 1e-2], "log": True}, pytest.approx(1e-4)),
        ({"float": [0.0, 5.0]}, 2.5),
        ({"choice": [64, 16, 32]}, 32),
        ({"choice": [True, False]}, True),
        ({"choice": ["b", "a"]}, "b"),
    ],
)
def test_the_median_is_in_the_middle_of_a_range(dimension, middle):
    assert _median(Dimension.model_validate(dimension)) == middle


def test_the_median_point_leaves_out_what_has_no_condition(arena):
    config = StudyConfig.load(arena.study)
    point = {"modality": "mb", "segments": 2, "attention": True, "attention_width": 16}
    assert median_point(config, "mb") == point
    without = config.model_copy(update={"space": config.space | {"attention": Dimension(choice=(False, True))}})
    assert "attention_width" not in median_point(without, "mb")


def test_a_study_is_counted_before_it_starts_and_nothing_is_written(arena):
    before = sorted(path for path in arena.root.rglob("*") if "home" not in path.parts)
    found = estimated(arena)
    assert [(cost.group, cost.points) for cost in found.costs] == [("flow", 9), ("mb", 9)]
    assert (found.trials, found.folds, found.ended, found.fits_there) == (18, 2, 0, 0)
    assert found.extraction.reused == 12
    assert sorted(path for path in arena.root.rglob("*") if "home" not in path.parts) == before
    files = [path for path in (arena.root / "home").rglob("*") if path.is_file()]
    assert files == []


def test_hours_follow_from_what_was_measured_and_the_tightest_budget_is_named(arena):
    found = estimated(arena)
    stream = StreamConfig.parse({**FIXED, "init": "random"}, "test")
    for cost in found.costs:
        assert cost.pace.step_seconds > 0
        assert cost.fit_seconds == pytest.approx(cost.pace.fit_seconds(stream, 6, 6))
        assert cost.trial_seconds == pytest.approx(2 * cost.fit_seconds)
    each = sum(cost.trial_seconds for cost in found.costs) / 2
    assert found.limits["trials"] == pytest.approx(18 * each / 3600 / 2)
    assert found.limits["gpu_hours"] == pytest.approx(1e-4 / 2)
    assert found.first == ("gpu_hours" if found.limits["gpu_hours"] < found.limits["trials"] else "trials")
    assert "all of the 8 snippets of a training step (4 videos, 8 frames, 24 px)" in found.text()


def test_an_epoch_is_its_steps_and_the_validation():
    stream = StreamConfig.parse({**FIXED, "init": "random"}, "test")
    pace = Pace(step_seconds=2.0, snippet_seconds=0.5, how="by hand")
    assert pace.epoch_seconds(stream, trained=12, held_out=6) == 12 / 4 * 2.0 + 6 * 1 * 0.5
    assert pace.fit_seconds(stream, trained=12, held_out=6) == 3 * 9.0 + 6 * 2 * 0.5


def test_fits_that_the_ledger_has_are_counted(arena):
    home = arena.open("reused")
    config = StudyConfig.load(arena.study)
    manifest, weights = read_inputs(config, arena.root, home)
    plan = plan_of(config, manifest, weights, home)
    spec = plan.spec(config.stream({"modality": "mb", "segments": 2, "attention": False}), 1)
    rows = [video.model_dump() | {"fold": 1, "probabilities": [1.0, 0, 0], "attention": []} for video in spec.held_out]
    Ledger(home.ledger).add_fit(spec, [], predictions_table(rows), b"", {})
    assert estimated(arena, "reused").fits_there == 1
    assert read_study(Ledger(home.ledger), config.study) is None


def test_a_large_step_is_measured_by_some_of_its_snippets(monkeypatch):
    stream = StreamConfig.parse({**FIXED, "init": "random"}, "test")
    whole = measure(stream, 3, 32, 40)
    monkeypatch.setattr("ptune.tune.probe.STEP_PIXELS", 4 * 8 * 24 * 24)
    part = measure(stream, 3, 32, 40)
    assert whole.how.startswith("all of the 16 snippets of a training step")
    assert part.how.startswith("4 of the 16 snippets of a training step")
    assert whole.step_seconds / 4 < part.step_seconds < whole.step_seconds * 4
