"""Opening a study again: the same, extended, revised or refused; and what its fits start from."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from ptune.config import StudyConfig
from ptune.errors import StudyChanged, WeightsError
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.model.weights import FLOW_FILE, KINETICS_FILE, weights_hash
from ptune.replay import read_study
from ptune.tune.plan import Plan, starting_weights
from ptune.tune.searcher import Proposals
from ptune.tune.study import open_study
from tests.example_features import example_videos

BASE = {
    "study": "hand",
    "cohort": "c.csv",
    "task": "hand",
    "init": "random",
    "folds": {"count": 2},
    "budget": {"trials": 2},
    "space": {"segments": {"int": [1, 4]}},
    "fixed": {"epochs": 1},
}


def plan(tmp_path, digest="d" * 64, **changes):
    cohort = {"digest": digest, "videos": 12, "subjects": 6, "class_counts": {}}
    config = StudyConfig.parse(BASE | changes, "test")
    home = Home(tmp_path, tmp_path / "features")
    return Plan(config, home, example_videos(), {f"S{n:02d}": n % 2 for n in range(1, 7)}, cohort, {})


def reopen(tmp_path, **changes):
    ledger = Ledger(tmp_path / "ledger")
    return open_study(ledger, plan(tmp_path, **changes), read_study(ledger, "hand"))


def with_one_finished_trial(tmp_path):
    reopen(tmp_path)
    log = Ledger(tmp_path / "ledger").study("hand")
    log.append("proposed", trial=0, group="rgb", params={"segments": 2})
    log.append("finished", trial=0, value=0.5, metrics={})
    return log


def test_the_same_study_is_opened_once(tmp_path):
    log = with_one_finished_trial(tmp_path)
    assert reopen(tmp_path).finished()[0].number == 0
    assert [event["kind"] for event in log.events()].count("opened") == 1


def test_a_larger_budget_extends_a_study(tmp_path):
    with_one_finished_trial(tmp_path)
    facts = reopen(tmp_path, budget={"trials": 5})
    assert facts.revision == 1
    proposals = Proposals(facts.config)
    proposals.restore(facts)
    assert [proposals.next().number for _ in range(3)] == [1, 2, 3]


def test_another_space_is_a_new_revision_whose_trials_keep_counting(tmp_path):
    with_one_finished_trial(tmp_path)
    facts = reopen(tmp_path, space={"segments": {"int": [4, 8]}}, fixed={"epochs": 3})
    assert facts.revision == 2
    assert facts.stream(facts.trials[0]).epochs == 1, "an old trial keeps the settings it ran with"
    proposals = Proposals(facts.config)
    proposals.restore(facts)
    fresh = [proposals.next() for _ in range(2)]
    assert [proposal.number for proposal in fresh] == [1, 2]
    assert all(proposal.params["segments"] >= 4 for proposal in fresh)
    assert proposals.next() is None, "the budget is that of the new revision"


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"digest": "e" * 64}, "the cohort had 12 videos of 6 subjects (digest dddddddd) and has 12 of 6 (eeeeeeee)"),
        ({"folds": {"count": 3}}, "folds was {'count': 2, 'seed': 0} and is {'count': 3, 'seed': 0}"),
        ({"task": "gait"}, "task was 'hand' and is 'gait'"),
        ({"objective": {"metric": "accuracy"}}, "objective was {'metric': 'f1_weighted'"),
        ({"extraction": {"width": 80}}, "extraction was {'width': 340"),
    ],
)
def test_what_results_cannot_outlive_is_refused_with_the_difference(tmp_path, changes, difference):
    log = with_one_finished_trial(tmp_path)
    before = log.events()
    with pytest.raises(StudyChanged) as refused:
        reopen(tmp_path, **changes)
    assert difference in str(refused.value)
    assert "--as NAME" in str(refused.value)
    assert log.events() == before


def test_fits_name_the_weights_of_their_modality(tmp_path):
    home = Home.open(tmp_path)
    rgb, flow = home.weights / KINETICS_FILE, home.weights / FLOW_FILE
    save_file({"a": np.zeros(1, np.float32)}, rgb)
    modalities = {"space": {"modality": {"choice": ["rgb", "mb"]}}, "fixed": {}}
    config = StudyConfig.parse(BASE | modalities | {"init": "kinetics"}, "test")
    before = starting_weights(config, home)
    assert before == {"rgb": weights_hash(rgb), "mb": weights_hash(rgb)}
    save_file({"a": np.ones(1, np.float32)}, flow)
    after = starting_weights(config, home)
    assert after == {"rgb": weights_hash(rgb), "mb": weights_hash(flow)}
    assert starting_weights(StudyConfig.parse(BASE, "test"), home) == {}

    opened = replace(plan(tmp_path), initial_weights=before)
    assert opened.spec({"modality": "mb", "init": "kinetics"}, 0).initial_weights == weights_hash(rgb)
    assert opened.spec({"modality": "mb", "init": "random"}, 0).initial_weights == ""

    rgb.unlink()
    with pytest.raises(WeightsError, match="ptune weights fetch"):
        starting_weights(config, home)
    motion = StudyConfig.parse(BASE | {"init": "kinetics", "fixed": {"modality": "flow"}}, "test")
    assert starting_weights(motion, home) == {"flow": weights_hash(flow)}
