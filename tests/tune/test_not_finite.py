"""A third of the trials has a learning rate at which nothing can be learnt: they fail, and nobody else notices."""

import pytest
from optuna.trial import TrialState

from ptune.track.optuna_study import to_optuna
from tests.track.invariants import check_runs
from tests.tune.chaos import Arena, check_events

RATES = (1e-4, 3e-3)
#: The first step leaves no weight that a second could start from.
ABSURD = 1e30


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    return Arena(tmp_path_factory.mktemp("arena"))


def space(*rates):
    return {"modality": {"choice": ["flow", "mb"]}, "learning_rate": {"choice": list(rates)}}


def found(facts):
    """Returns what became of each point, whatever its number."""
    return {
        (trial.params["modality"], trial.params["learning_rate"]): (trial.state, trial.value, trial.fits)
        for trial in facts.trials.values()
    }


def test_trials_whose_loss_is_not_finite_fail_everywhere_and_change_nothing_else(arena):
    healthy = arena.write_study("healthy.yaml", search="grid", space=space(*RATES), budget={"trials": 4})
    rates = (RATES[0], ABSURD, RATES[1])
    mixed = arena.write_study("mixed.yaml", search="grid", space=space(*rates), budget={"trials": 6})
    arena.launch("healthy", healthy).finish()
    arena.launch("mixed", mixed).finish(code=1)
    check_events(arena.events("mixed"))
    facts = arena.facts("mixed")
    failed = [trial for trial in facts.trials.values() if trial.state == "failed"]
    assert [trial.params["learning_rate"] for trial in failed] == [ABSURD, ABSURD]
    assert all("loss is nan" in trial.reason for trial in failed), failed
    alone = found(arena.facts("healthy"))
    assert {point: end for point, end in found(facts).items() if point[1] != ABSURD} == alone
    states = [trial.state for trial in to_optuna(facts).trials]
    assert states.count(TrialState.FAIL) == 2
    assert TrialState.RUNNING not in states
    assert check_runs(arena.open("mixed"), "chaos") > 0
