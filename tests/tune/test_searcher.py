"""What Optuna is shown and what it proposes: no repeats, no growth, nothing lost on the way."""

import itertools

import optuna
import pytest

from ptune.config import StudyConfig
from ptune.errors import BadInput, ConfigError
from ptune.replay import Report, StudyFacts, TrialFacts
from ptune.tune.searcher import BEST, LATEST, Proposals

SPACE = {
    "segments": {"int": [1, 8]},
    "attention": {"choice": [True, False]},
    "attention_width": {"int": [64, 512], "when": {"attention": True}},
    "learning_rate": {"float": [1e-5, 1e-2], "log": True},
}


def study(**changes):
    values = {
        "study": "hand",
        "cohort": "c.csv",
        "task": "hand",
        "init": "random",
        "budget": {"trials": 1000},
        "space": SPACE,
        "fixed": {"modality": "flow"},
    }
    return StudyConfig.parse(values | changes, "test")


def ended(proposal, state="finished", value=0.5, steps=3):
    reports = [Report(0, step, step, value * step / steps, {}) for step in range(1, steps + 1)]
    value = value if state == "finished" else None
    return TrialFacts(proposal.number, proposal.group, proposal.params, state=state, value=value, reports=reports)


def shown(proposals):
    return list(proposals.groups["flow"].shown())


def test_how_trials_ended_is_told_as_it_was():
    proposals = Proposals(study())
    four = [proposals.next() for _ in range(5)]
    for proposal, state in zip(four, ("finished", "stopped", "failed"), strict=False):
        proposals.tell(ended(proposal, state))
    waiting = ended(four[3], "running")
    waiting.waiting = True
    proposals.tell(waiting)
    states = [trial.state.name for trial in shown(proposals)]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "RUNNING"], "a failed point says nothing of its neighbours"
    assert shown(proposals)[0].value == 0.5
    assert shown(proposals)[1].intermediate_values == {3: 0.5}


def test_a_trial_that_goes_on_after_waiting_counts_as_running_again():
    proposals = Proposals(study())
    trial = ended(proposals.next(), "running")
    trial.waiting = True
    proposals.tell(trial)
    trial.waiting = False
    proposals.tell(trial)
    assert [trial.state.name for trial in shown(proposals)] == ["RUNNING"]


def test_unknown_and_repeated_news_change_nothing():
    proposals = Proposals(study())
    trial = ended(proposals.next())
    for _ in range(2):
        proposals.tell(trial)
    proposals.tell(TrialFacts(99, "flow", {}, state="finished", value=1.0))
    proposals.tell(TrialFacts(0, "a modality of an earlier revision", {}, state="finished", value=1.0))
    assert [trial.value for trial in shown(proposals)] == [0.5]


def test_points_to_start_from_come_first_and_optuna_draws_the_rest():
    starts = ["paper", {"segments": 7, "attention": False}]
    proposals = Proposals(study(start_from=starts))
    first, second = proposals.next().params, proposals.next().params
    assert (first["segments"], first["attention"], first["attention_width"]) == (4, True, 256)
    assert (second["segments"], second["attention"]) == (7, False)
    assert "attention_width" not in second
    with pytest.raises(ConfigError, match="'segment', which is not searched"):
        study(start_from=[{"segment": 7}])


def test_a_point_that_somebody_adds_is_checked_and_counted():
    proposals = Proposals(study(budget={"trials": 1}))
    point = {"segments": 2, "attention": False, "learning_rate": 1e-4}
    assert proposals.add(point).params == point
    for wrong in (point, point | {"segments": 9}, point | {"attention_width": 64}, {"segments": 2}):
        with pytest.raises(BadInput):
            proposals.add(wrong)
    assert proposals.next() is None, "it took its place in the budget"


def test_a_grid_is_walked_in_order_and_needs_a_finite_space():
    finite = {"segments": {"int": [1, 3]}, "attention": {"choice": [True, False]}}
    proposals = Proposals(study(search="grid", space=finite))
    points = [proposal.params for proposal in iter(proposals.next, None)]
    expected = [{"segments": one, "attention": other} for one, other in itertools.product((1, 2, 3), (True, False))]
    assert points == expected
    with pytest.raises(ConfigError, match="give floats as choices"):
        study(search="grid")


def test_points_that_make_the_same_stream_are_one_point():
    space = {"focal.gamma": {"choice": [0.0, 0]}, "segments": {"int": [1, 2]}}
    proposals = Proposals(study(space=space))
    assert len(list(iter(proposals.next, None))) == 2


def test_a_search_learns_from_another_study_and_may_repeat_its_points():
    """Optuna draws its first points at random; with the facts of a study it starts where that one was good."""
    source = Proposals(study())
    facts = StudyFacts(study(), {}, {})
    for _ in range(60):
        proposal = source.next()
        trial = ended(proposal, value=1 - abs(proposal.params["segments"] - 6) / 10)
        facts.trials[trial.number] = trial
        source.tell(trial)
    plain, warm = Proposals(study(seed=1)), Proposals(study(seed=1))
    warm.restore(StudyFacts(study(seed=1), {}, {}), [facts])
    near = [sum(abs(one.next().params["segments"] - 6) <= 1 for _ in range(10)) for one in (plain, warm)]
    assert near[1] > near[0] + 2
    assert warm.count == 10


def test_random_search_does_not_look_at_results():
    one, other = Proposals(study(search="random")), Proposals(study(search="random"))
    for _ in range(12):
        first, second = one.next(), other.next()
        assert first == second
        one.tell(ended(first, value=first.params["learning_rate"]))
        other.tell(ended(second, value=0.1))


def test_what_optuna_is_shown_does_not_grow_with_the_study():
    proposals = Proposals(study(search="random"))
    best = None
    for number in range(2 * (BEST + LATEST)):
        proposal = proposals.next()
        proposals.tell(ended(proposal, value=1.0 if number == 3 else number / 1000))
        best = proposal.params if number == 3 else best
    assert len(shown(proposals)) <= BEST + LATEST
    known = {name: value for name, value in best.items() if name != "modality"}
    assert max(shown(proposals), key=lambda trial: trial.value).params == known


def test_optuna_accepts_every_state_that_it_is_shown():
    proposals = Proposals(study())
    for state in ("finished", "stopped", "failed", "running") * 3:
        proposals.tell(ended(proposals.next(), state))
    made = optuna.create_study(direction="maximize")
    made.add_trials(shown(proposals))
    assert made.best_value == 0.5


def test_what_a_study_started_from_is_not_started_again_after_a_restart():
    """Starts that leave settings open are drawn differently each time, so that their repeats would look new."""
    config = study(start_from=["paper", {"segments": 7}, {"segments": 2}])
    before = Proposals(config)
    facts = StudyFacts(config, {}, {})
    for _ in range(2):
        trial = ended(before.next())
        facts.trials[trial.number] = trial
        before.tell(trial)
    after = Proposals(config)
    after.restore(facts)
    assert after.next() == before.next()
    assert before.groups["flow"].open[2].params["segments"] == 2
    assert after.next() == before.next()


def test_a_point_to_start_from_must_lie_in_the_space():
    for wrong in ({"segments": 9}, {"segments": 2.5}, {"attention": "yes"}):
        with pytest.raises(ConfigError, match="start_from"):
            study(start_from=[wrong])


def test_a_search_learns_from_every_study_it_is_given():
    """Two studies number their trials alike; neither hides the other."""
    others = []
    for value in (0.2, 0.8):
        source = Proposals(study(seed=int(10 * value)))
        facts = StudyFacts(study(), {}, {})
        for _ in range(3):
            trial = ended(source.next(), value=value)
            facts.trials[trial.number] = trial
        others.append(facts)
    warm = Proposals(study(seed=1))
    warm.restore(StudyFacts(study(seed=1), {}, {}), others)
    assert sorted(trial.value for trial in shown(warm)) == [0.2] * 3 + [0.8] * 3


def test_a_space_with_a_continuous_part_is_never_exhausted():
    """Nearly all draws fall on the 19 choices that have no width; the one that has goes on for ever."""
    space = {
        "segments": {"int": [1, 20]},
        "attention_width": {"int": [64, 512], "when": {"segments": 20}},
        "focal.gamma": {"float": [0.0, 5.0], "when": {"segments": 20}},
    }
    proposals = Proposals(study(space=space, search="random"))
    assert len(list(itertools.islice(iter(proposals.next, None), 60))) == 60


def test_a_trial_that_failed_after_it_waited_is_not_shown():
    proposals = Proposals(study())
    trial = ended(proposals.next(), "running")
    trial.waiting = True
    proposals.tell(trial)
    trial.waiting, trial.state = False, "failed"
    proposals.tell(trial)
    assert shown(proposals) == []


def test_a_grid_takes_as_long_for_its_last_points_as_for_its_first():
    """Counted, not timed: how many streams are hashed for each point."""
    space = {"segments": {"int": [1, 20]}, "attention_width": {"int": [64, 163]}}
    proposals, hashed = Proposals(study(search="grid", space=space, budget={"trials": 2000})), []
    plain = proposals._key
    proposals._key = lambda params: hashed.append(1) or plain(params)
    points = [proposal.params for proposal in iter(proposals.next, None)]
    assert len(points) == 2000
    assert len(hashed) <= 3 * len(points)
