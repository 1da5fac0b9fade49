"""A dry run counts the space, reads the ledger and says which budget ends the study, and writes nothing."""

import csv
from dataclasses import replace

import pytest

from ptune.config import StudyConfig
from ptune.errors import StudyChanged
from ptune.home import Home
from ptune.ledger import Ledger, predictions_table
from ptune.tune.estimate import estimate_study
from ptune.tune.plan import plan_of, read_inputs
from ptune.tune.space import all_points, count_points, groups, usual_points
from tests.extract.clips import panning, write_clip

FIXED = {
    "epochs": 2,
    "batch_size": 2,
    "snippet_frames": 8,
    "width": 0.125,
    "crop": 24,
    "validation": {"snippets": 1, "frames": 8},
    "test": {"snippets": 2, "frames": 8},
}


def study(**changes):
    values = {
        "study": "hand",
        "cohort": "cohort.csv",
        "task": "hand",
        "init": "random",
        "folds": {"count": 2},
        "budget": {"trials": 10},
        "finalists": {"count": 1},
        "extraction": {"width": 40, "height": 32},
        "space": {
            "modality": {"choice": ["rgb", "flow"]},
            "segments": {"int": [1, 3]},
            "attention": {"choice": [True, False]},
            "attention_width": {"int": [4, 8], "when": {"attention": True}},
        },
        "fixed": FIXED,
    }
    return StudyConfig.parse(values | changes, "test")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    with open(folder / "cohort.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["video", "subject", "task", "score"])
        for number in range(6):
            write_clip(folder / f"{number}.mp4", panning(seed=number))
            writer.writerow([f"{number}.mp4", f"S{number}", "hand", number % 3])
    return folder


@pytest.fixture
def home(tmp_path):
    return Home.open(tmp_path / "home")


def files(home):
    return sorted(path for path in home.root.rglob("*") if path.is_file())


def test_points_are_counted_as_they_would_be_listed():
    config = study()
    for group in groups(config):
        assert count_points(config, group) == len(all_points(config, group)) == 3 * 5 + 3
    assert count_points(study(space={"learning_rate": {"float": [0.1, 0.2]}}), "rgb") is None


def test_a_space_too_large_to_list_is_counted():
    space = {"segments": {"int": [1, 1000]}, "attention_width": {"int": [1, 10**6]}, "batch_size": {"int": [1, 1000]}}
    assert count_points(study(space=space, fixed={}), "rgb") == 10**12


def test_the_middle_of_a_logarithmic_range_is_its_geometric_mean():
    space = {"learning_rate": {"float": [1e-6, 1e-2], "log": True}, "segments": {"choice": [8, 2, 4]}}
    assert usual_points(study(space=space), "rgb") == [{"learning_rate": pytest.approx(1e-4), "segments": 4}]


def test_a_dry_run_of_a_new_study_writes_nothing(cohort, home):
    before = files(home)
    found = estimate_study(study(), cohort, home, workers=2)
    assert files(home) == before
    assert (found.trials, found.ended, found.fits, found.reused) == (10, 0, 20, 0)
    assert found.extraction.videos == 6
    assert found.actors == 2
    least, most = found.raced_hours
    assert 0 < least < most < found.full_hours
    assert found.ends_first == "trials"
    by_hand = sum(5 * 2 * cost.fit_seconds for cost in found.groups.values()) / 3600
    assert found.full_hours == pytest.approx(by_hand)
    for expected in ("rgb: 18 points", "at most 10 trials of 2 folds", "6 videos to extract", "Measured on"):
        assert expected in found.text()


def test_a_finite_space_ends_the_study_before_its_budget(cohort, home):
    found = estimate_study(study(budget={"trials": 500}), cohort, home)
    assert found.trials == 36


def store_fit(plan, params, fold):
    spec = plan.spec(params, fold)
    rows = [video.model_dump() | {"fold": 1, "probabilities": [1.0, 0, 0], "attention": []} for video in spec.held_out]
    return Ledger(plan.home.ledger).add_fit(spec, [], predictions_table(rows), b"", {}).signature


def test_what_the_ledger_has_is_not_paid_again(cohort, home):
    config = study()
    manifest, weights = read_inputs(config, cohort, home)
    plan = plan_of(config, manifest, weights, home)
    log = Ledger(home.ledger).study("hand")
    log.append(
        "opened",
        study=config.model_dump(mode="json", by_alias=True),
        cohort=plan.cohort,
        folds=plan.folds,
        revision=1,
    )
    for number, group in enumerate(["rgb", "flow"]):
        params = {"modality": group, "segments": 1, "attention": False}
        log.append("proposed", trial=number, group=group, params=params)
        log.append("fitted", trial=number, fold=0, fit=store_fit(plan, params, 0), seconds=1800.0)
    log.append("failed", trial=0, reason="its worker failed")
    found = estimate_study(config, cohort, home)
    # Nine trials are left, one of which has a fit; the failed one's half hour was spent all the same.
    assert (found.ended, found.fits, found.reused) == (1, 17, 1)
    assert found.spent_hours == pytest.approx(1.0)
    store_fit(plan, {"modality": "rgb", "segments": 2, "attention": False}, 1)
    assert estimate_study(config, cohort, home).reused == 2, "a point that no trial has tried"
    revised = estimate_study(study(fixed=FIXED | {"epochs": 1}), cohort, home)
    assert (revised.ended, revised.reused, revised.fits) == (0, 0, 20), "another space is a new revision"
    assert revised.spent_hours == pytest.approx(1.0)


def test_hours_are_counted_as_the_budget_counts_them(cohort, home):
    shared = estimate_study(
        study(resources={"gpu": 0, "cpu": 0.5}, budget={"trials": 2, "gpu_hours": 1}), cohort, home, 1
    )
    assert (shared.share, shared.actors) == (1.0, 2)
    assert "gpu_hours: 1, 0 spent, which a CPU's core counts as a GPU" in shared.text()


def test_a_study_with_other_folds_is_refused_as_the_sweep_would(cohort, home):
    config = study()
    manifest, weights = read_inputs(config, cohort, home)
    plan = plan_of(config, manifest, weights, home)
    Ledger(home.ledger).study("hand").append(
        "opened",
        study=study(folds={"count": 3}).model_dump(mode="json", by_alias=True),
        cohort=plan.cohort,
        folds=plan.folds,
        revision=1,
    )
    with pytest.raises(StudyChanged, match=r"folds was .*'count': 3.* and is .*'count': 2"):
        estimate_study(config, cohort, home)


def test_the_tightest_budget_is_named(cohort, home):
    found = replace(
        estimate_study(study(), cohort, home),
        full_hours=100.0, raced_hours=(10.0, 40.0), actors=2, spent_hours=5.0, share=1.0,
    )  # fmt: skip
    assert replace(found, gpu_hours=14.0).ends_first == "gpu_hours", "9 GPU-hours are left, 10 are the least"
    assert replace(found, gpu_hours=30.0).ends_first == "gpu_hours or trials"
    assert replace(found, gpu_hours=45.0).ends_first == "trials"
    assert replace(found, gpu_hours=45.0, hours=4.0).ends_first == "hours", "4 hours of 2 GPUs are 8"


class PerSegment:
    """A machine on which a stream takes a second per segment."""

    scaled = False

    def epoch_seconds(self, stream, trained, held_out):
        return float(stream.segments)

    fit_seconds = epoch_seconds


def test_a_list_of_points_costs_what_its_streams_cost(cohort, home, monkeypatch):
    monkeypatch.setattr("ptune.tune.estimate.measure", lambda *_: PerSegment())
    points = [{"modality": "rgb", "segments": 1}, {"modality": "rgb", "segments": 4, "dropout": 0.1}]
    points += [{"modality": "rgb", "segments": 4}, {"modality": "flow", "segments": 2}]
    found = estimate_study(study(space={}, points=points, stopping="none", budget={"trials": 4}), cohort, home)
    assert (found.trials, found.fits, found.raced_hours) == (4, 8, None)
    assert {name: (cost.points, cost.fit_seconds) for name, cost in found.groups.items()} == {
        "rgb": (3, pytest.approx(3.0)),
        "flow": (1, pytest.approx(2.0)),
    }
