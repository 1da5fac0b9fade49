"""A study that lists its trials trains each once, and a longer list trains only what is new."""

import pytest

from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config.ablation import AblationConfig
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.results.cells import ablation_cells, require_comparable
from ptune.tune.steering import trial_to_add
from ptune.tune.study import sweep
from tests.tune.chaos import STUDY

ABLATION = {
    "ablation": "two",
    "cohort": "cohort/cohort.csv",
    "tasks": ["hand"],
    "init": "random",
    "folds": {"count": 2},
    "extraction": STUDY["extraction"],
    "fixed": STUDY["fixed"] | {"epochs": 1},
    "rows": {"Flow": ["flow"], "Flow + MBs": ["flow", "mb"]},
    "columns": {"+attention": {}, "-attention": {"attention": False}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("ablation")
    size = SyntheticConfig(
        subjects=6,
        clips_per_subject=2,
        fps=12.5,
        seconds=(1.2, 1.6),
        width=64,
        height=48,
        score_weights=(2, 1, 1, 1, 1),
    )
    render_cohort(root / "cohort", size)
    return root, Home.open(root / "home")


def ablation(**changes):
    return AblationConfig.parse(ABLATION | changes, "test")


def run(place, config):
    root, home = place
    return sweep(config.study("hand"), root, home, workers=2).tally


@pytest.fixture(scope="module")
def trained(place):
    return run(place, ablation())


def test_cells_that_saw_something_else_are_refused_with_the_reason(place, trained):
    (task,) = ablation_cells(ablation(), Ledger(place[1].ledger))
    whole, other = task.cells[0], task.cells[1]
    frame = other.frames[0]
    altered = {
        "lacks": frame.iloc[1:],
        "another fold": frame.assign(fold=1 - frame["fold"]),
        "another label": frame.assign(label=(frame["label"] + 1) % 3),
    }
    for reason, table in altered.items():
        with pytest.raises(BadInput, match=reason):
            require_comparable([whole, type(other)(other.cell, (table,))])
    require_comparable([whole, other])


def test_a_cell_whose_stream_is_missing_says_so(place, trained):
    wider = ablation(rows=ABLATION["rows"] | {"RGB": ["rgb"]})
    (task,) = ablation_cells(wider, Ledger(place[1].ledger))
    assert [cell.problem for cell in task.cells if not cell.frames] == ["not trained yet"] * 2


def test_a_new_seed_trains_only_its_own_streams(place, trained):
    assert (trained.fits_trained, trained.fits_reused) == (4 * 2, 0), "four streams of two folds for four cells"
    again = run(place, ablation())
    assert (again.fits_trained, again.fits_reused, again.trials_before) == (0, 0, 4)
    seeds = run(place, ablation(seeds=[0, 7]))
    assert (seeds.fits_trained, seeds.fits_reused) == (8, 8)

    ledger = Ledger(place[1].ledger)
    (task,) = ablation_cells(ablation(seeds=[0, 7]), ledger)
    assert [cell.name for cell in task.cells] == [
        "Flow, +attention",
        "Flow, -attention",
        "Flow + MBs, +attention",
        "Flow + MBs, -attention",
    ]
    assert all(len(cell.frames) == 2 and len(cell.frames[0]) == 12 for cell in task.complete)
    one, other = task.cells[0].frames
    assert list(one["probabilities"].iloc[0]) != list(other["probabilities"].iloc[0]), "seeds are trained apart"

    facts = read_study(ledger, "two-hand")
    with pytest.raises(BadInput, match="listed, not searched"):
        trial_to_add(facts, ["modality=rgb"])
