"""Why ptune has a searcher and a race of its own: what Ray Tune's do in the same situations.

A test that fails here after an upgrade says that a fault was mended upstream, not that ptune is broken.
"""

import math

import optuna
import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket
from ray.tune.search.optuna import OptunaSearch

from ptune.config import StudyConfig
from ptune.replay import Report, TrialFacts
from ptune.tune.race import FoldRace
from ptune.tune.searcher import Proposals

optuna.logging.set_verbosity(optuna.logging.ERROR)
CELLS = {"segments": range(1, 7), "snippet_frames": (16, 32, 64), "attention": (True, False)}


def theirs(space=None, **settings):
    space = space or {"x": tune.uniform(0, 1)}
    return OptunaSearch(space, metric="score", mode="max", **settings)


def ours(**space):
    values = {"study": "s", "cohort": "c.csv", "task": "hand", "init": "random", "budget": {"trials": 100}}
    space = space or {"learning_rate": {"float": [1e-5, 1e-2], "log": True}}
    return Proposals(StudyConfig.parse(values | {"space": space}, "test"))


def facts(proposal, state, value):
    report = Report(0, 1, 1, value, {})
    return TrialFacts(proposal.number, proposal.group, proposal.params, state=state, reports=[report])


def test_a_stopped_trial_is_told_to_optuna_as_complete_with_its_truncated_value():
    search = theirs()
    search.suggest("a")
    search.on_trial_complete("a", result={"score": 0.1, "training_iteration": 1})
    told = search._ot_study.trials[0]
    assert (told.state.name, told.value, told.intermediate_values) == ("COMPLETE", 0.1, {})

    proposals = ours()
    proposals.tell(facts(proposals.next(), "stopped", 0.1))
    told = next(iter(proposals.groups.values())).shown()
    assert [(trial.state.name, trial.value, trial.intermediate_values) for trial in told] == [
        ("PRUNED", None, {1: 0.1})
    ]


def test_a_value_that_is_not_a_number_leaves_a_trial_running_in_optuna_for_ever():
    search = theirs()
    search.suggest("a")
    search.on_trial_complete("a", result={"score": math.nan, "training_iteration": 1})
    assert search._ot_study.trials[0].state.name == "RUNNING"

    proposals = ours()
    proposals.tell(facts(proposals.next(), "failed", math.nan))
    assert not list(next(iter(proposals.groups.values())).shown())


def test_a_value_that_is_not_a_number_is_immortal_in_asha():
    bracket = _Bracket(min_t=1, max_t=100, reduction_factor=3, s=0)
    scheduler = ASHAScheduler(metric="score", mode="max", max_t=100)
    assert scheduler.CONTINUE == TrialScheduler.CONTINUE
    for number, value in enumerate((0.9, 0.8, 0.7)):
        bracket.on_result(Trial("x", stub=True, trial_id=str(number)), 1, value)
    diverged = Trial("x", stub=True, trial_id="diverged")
    decisions = {bracket.on_result(diverged, step, math.nan) for step in (1, 3, 9, 27, 81)}
    assert decisions == {TrialScheduler.CONTINUE}

    race = FoldRace(1, epochs=9, folds=2)
    race.epoch(0, "flow", 0, 1, 1, 0.9)
    race.ended(0, "flow", "failed")
    assert (race.next(), race.close(), race.hopeless()) == (None, None, [])


def test_a_space_of_36_cells_is_searched_with_repeats():
    space = {name: tune.choice(list(values)) for name, values in CELLS.items()}
    search, seen = theirs(space, seed=0), []
    for number in range(36):
        seen.append(tuple(sorted(search.suggest(str(number)).items())))
        search.on_trial_complete(str(number), result={"score": 0.5, "training_iteration": 1})
    assert len(set(seen)) < 36

    proposals = ours(
        segments={"int": [1, 6]}, snippet_frames={"choice": [16, 32, 64]}, attention={"choice": [True, False]}
    )
    points = [tuple(sorted(proposal.params.items())) for proposal in iter(proposals.next, None)]
    assert len(set(points)) == len(points) == 36


def test_a_trial_that_was_restarted_is_unknown_and_ends_the_search():
    """`Tuner.restore(restart_errored=True)` gives a trial a new id, of which its searcher has never heard."""
    search = theirs()
    search.suggest("a")
    with pytest.raises(KeyError):
        search.on_trial_result("b", {"score": 0.1, "training_iteration": 1})

    proposals = ours()
    proposals.tell(TrialFacts(7, "rgb", {}, state="finished", value=0.5))
