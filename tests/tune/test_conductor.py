"""Proposals, the race and what they record, on plain Python: no Ray."""

import math
import os

import numpy as np
import pytest

from ptune.config import StudyConfig
from ptune.ledger import Ledger
from ptune.replay import TrialFacts, read_study
from ptune.tune.conductor import Conductor
from ptune.tune.evidence import Evidence
from ptune.tune.searcher import Proposals
from tests.example_crashes import Died, failing_at

EPOCHS, FOLDS = 3, 3


def study(**changes):
    values = {
        "study": "hand",
        "cohort": "c.csv",
        "task": "hand",
        "init": "random",
        "folds": {"count": FOLDS},
        "budget": {"trials": 12},
        "finalists": {"count": 1},
        "space": {
            "modality": {"choice": ["rgb", "flow", "mb"]},
            "segments": {"int": [1, 8]},
            "attention": {"choice": [True, False]},
            "attention_width": {"int": [64, 512], "when": {"attention": True}},
        },
        "fixed": {"epochs": EPOCHS},
    }
    return StudyConfig.parse(values | changes, "test")


def quality(params):
    """Stands for training: a smooth function of the settings."""
    base = {"rgb": 0.3, "flow": 0.5, "mb": 0.6}[params.get("modality", "mb")]
    return base + 0.01 * params["segments"] + 0.02 * params.get("attention", False)


def opened(config, root, **settings):
    log = Ledger(root).study("hand")
    past = read_study(Ledger(root), "hand")
    if past is None:
        cohort = {"digest": "d", "videos": 6, "subjects": 3, "class_counts": {}}
        dump = config.model_dump(mode="json", by_alias=True)
        log.append("opened", study=dump, cohort=cohort, folds={"a": 0}, revision=1)
        past = read_study(Ledger(root), "hand")
    return Conductor(past, log, tuple(range(FOLDS)), EPOCHS, no_evidence, **settings)


def no_evidence(fit):
    """Stands for predictions of equal worth."""
    return Evidence(("a", "b"), ("A", "B"), np.zeros(2))


def epoch(step, value, seconds=0.5, **metrics):
    """Returns what an actor reports after an epoch."""
    fold, number = divmod(step - 1, EPOCHS)
    metrics = {"validation.f1_weighted": value, "loss": 1.0} | metrics
    content = {"fold": fold, "epoch": number + 1, "step": step, "value": value, "metrics": metrics}
    return {"kind": "epoch", "seconds": seconds, **content}


def fitted(number, fold, seconds=0.5):
    return {"kind": "fitted", "fold": fold, "fit": f"{number}-{fold}", "reused": False, "seconds": seconds}


def finished(value):
    return {"kind": "finished", "value": value, "metrics": {}, "seconds": 0.0}


def run_trial(conductor, task, value):
    """Plays the actor of one trial; returns False when it was stopped."""
    for fold in range(FOLDS):
        for number in range(EPOCHS):
            if not conductor.reported(task.number, epoch(fold * EPOCHS + number + 1, value)):
                return False
        if not conductor.reported(task.number, fitted(task.number, fold)):
            return False
    conductor.ended(task.number, finished(value))
    return True


def group_of(task):
    return task.params["modality"]


def run_all(conductor):
    order = []
    while (proposal := conductor.next_task()) is not None:
        run_trial(conductor, proposal, quality(proposal.params))
        order.append(proposal)
    return order


def test_every_modality_gets_its_share_and_a_full_cross_validation(tmp_path):
    conductor = opened(study(), tmp_path)
    order = run_all(conductor)
    assert [group_of(task) for task in order[:3]] == ["rgb", "flow", "mb"]
    groups = [trial.group for trial in conductor.facts.trials.values()]
    assert all(groups.count(group) == 4 for group in ("rgb", "flow", "mb"))
    assert {trial.group for trial in conductor.facts.finished()} == {"rgb", "flow", "mb"}
    assert any(trial.state == "stopped" for trial in conductor.facts.trials.values())


def test_settings_whose_condition_does_not_hold_are_left_out(tmp_path):
    for proposal in run_all(opened(study(), tmp_path)):
        assert ("attention_width" in proposal.params) == proposal.params["attention"]


def test_the_papers_settings_run_first_in_every_modality():
    proposals = Proposals(study(start_from=["paper"]))
    first = [proposals.next().params for _ in range(3)]
    assert [params["modality"] for params in first] == ["rgb", "flow", "mb"]
    assert all(
        (params["segments"], params["attention"], params["attention_width"]) == (4, True, 256) for params in first
    )


def test_a_finite_space_is_covered_once_and_then_ends(tmp_path):
    space = {
        "segments": {"int": [1, 6]},
        "snippet_frames": {"choice": [16, 32, 64]},
        "attention": {"choice": [True, False]},
    }
    proposals = Proposals(study(space=space, budget={"trials": 100}))
    seen = []
    while (proposal := proposals.next()) is not None:
        seen.append(tuple(sorted(proposal.params.items())))
        proposals.tell(TrialFacts(proposal.number, proposal.group, proposal.params, state="finished", value=0.5))
    assert len(seen) == len(set(seen)) == 36


@pytest.mark.parametrize("killed_after", [1, 4, 7])
def test_a_study_that_starts_again_proposes_what_it_would_have(tmp_path, killed_after):
    config = study(stopping="none")
    undisturbed = [proposal.params for proposal in run_all(opened(config, tmp_path / "whole"))]
    conductor = opened(config, tmp_path / "parts")
    for _ in range(killed_after):
        proposal = conductor.next_task()
        run_trial(conductor, proposal, quality(proposal.params))
    half_done = conductor.next_task()
    resumed = opened(config, tmp_path / "parts")
    again = [proposal.params for proposal in run_all(resumed)]
    assert again[0] == half_done.params
    assert undisturbed == [trial.params for _, trial in sorted(resumed.facts.trials.items())]
    assert resumed.tally.trials_before == killed_after


def test_events_rebuild_what_the_conductor_knew(tmp_path):
    conductor = opened(study(), tmp_path)
    run_all(conductor)
    told = read_study(Ledger(tmp_path), "hand")
    for trial in told.trials.values():
        assert trial.reports, "the ledger keeps what the conductor need not remember"
        trial.reports.clear()
    assert told.trials == conductor.facts.trials


def test_a_finished_study_proposes_nothing(tmp_path):
    run_all(opened(study(), tmp_path))
    assert opened(study(), tmp_path).next_task() is None


def test_reports_seen_twice_are_recorded_once(tmp_path):
    conductor = opened(study(stopping="none"), tmp_path)
    proposal = conductor.next_task()
    for _ in range(2):
        assert conductor.reported(proposal.number, epoch(1, 0.5, seconds=0.0))
    events = Ledger(tmp_path).study("hand").events()
    assert [event["kind"] for event in events] == ["opened", "proposed", "reported"]


def test_a_stopped_trial_stays_stopped_whatever_is_heard_of_it_later(tmp_path):
    """Ray Tune calls a scheduler's completion hook with the last epoch of a trial that the scheduler stopped."""
    conductor = opened(study(space={"segments": {"int": [1, 8]}}, stopping="asha"), tmp_path)
    for value in (0.9, 0.1):
        proposal = conductor.next_task()
        result = epoch(1, value)
        goes_on = conductor.reported(proposal.number, result)
    assert not goes_on
    events = len(Ledger(tmp_path).study("hand").events())
    conductor.ended(proposal.number, result)
    conductor.failed(proposal.number, "late")
    assert not conductor.reported(proposal.number, epoch(2, 0.9))
    assert len(Ledger(tmp_path).study("hand").events()) == events
    assert conductor.facts.trials[proposal.number].state == "stopped"


def test_a_failed_trial_is_recorded_with_its_reason_and_the_study_goes_on(tmp_path):
    conductor = opened(study(), tmp_path)
    proposal = conductor.next_task()
    conductor.ended(proposal.number, {"kind": "failed", "seconds": 1.0, "reason": "loss is nan"})
    facts = read_study(Ledger(tmp_path), "hand")
    assert (facts.trials[0].state, facts.trials[0].reason) == ("failed", "loss is nan")
    assert conductor.next_task() is not None


def test_training_hours_beyond_the_budget_end_the_study(tmp_path):
    conductor = opened(study(budget={"trials": 12, "gpu_hours": 0.0001}), tmp_path)
    proposal = conductor.next_task()
    run_trial(conductor, proposal, 0.5)
    assert conductor.next_task() is None


def test_an_objective_that_is_not_finite_fails_the_trial_and_nothing_else(tmp_path):
    conductor = opened(study(stopping="none"), tmp_path)
    first, second = conductor.next_task(), conductor.next_task()
    assert not conductor.reported(first.number, epoch(1, math.nan))
    assert conductor.reported(second.number, epoch(1, 0.5, **{"validation.kappa": math.inf}))
    facts = read_study(Ledger(tmp_path), "hand")
    assert facts.trials[0].state == "failed"
    assert facts.trials[0].reason == "validation.f1_weighted is not finite in epoch 1"
    assert facts.trials[1].reports[0].metrics == {"validation.f1_weighted": 0.5, "loss": 1.0}
    assert not conductor.reported(first.number, epoch(2, 0.5)), "it stays failed"


def test_seconds_are_charged_whatever_becomes_of_the_trial(tmp_path):
    conductor = opened(study(stopping="none"), tmp_path)
    done, lost, broken = (conductor.next_task() for _ in range(3))
    run_trial(conductor, done, 0.5)
    conductor.reported(lost.number, epoch(1, 0.5, seconds=2.0))
    conductor.reported(lost.number, epoch(1, 0.5, seconds=3.0))
    conductor.reported(lost.number, epoch(2, 0.5, seconds=1.0))
    conductor.ended(broken.number, {"kind": "failed", "seconds": 4.0, "reason": "loss is nan"})
    seconds = {number: trial.seconds for number, trial in read_study(Ledger(tmp_path), "hand").trials.items()}
    assert seconds == {0: 0.5 * FOLDS * (EPOCHS + 1), 1: 6.0, 2: 4.0}
    assert conductor.account.seconds == sum(seconds.values())


def test_when_there_are_no_more_trials_free_actors_take_the_last_folds_of_running_ones(tmp_path):
    conductor = opened(study(budget={"trials": 1}, stopping="none"), tmp_path)
    trial = conductor.next_task()
    tasks = [conductor.next_task() for _ in range(3)]
    assert [task and (task.number, task.fold) for task in tasks] == [(0, 2), (0, 1), None]
    assert conductor.reported_ahead(0, {"kind": "ahead", "seconds": 7.0})
    conductor.reported_ahead(0, {"kind": "ready", "fit": "0-2", "seconds": 1.0})
    run_trial(conductor, trial, 0.5)
    assert not conductor.reported_ahead(0, {"kind": "ahead", "seconds": 1.0}), "nobody waits for it any more"
    assert read_study(Ledger(tmp_path), "hand").trials[0].seconds == pytest.approx(9.0 + 0.5 * FOLDS * (EPOCHS + 1))
    assert conductor.tally.fits_trained == FOLDS


@pytest.mark.parametrize(("stopping", "decision"), [("asha", "stopped"), ("race", "waiting")])
def test_a_decision_that_a_crash_came_before_is_taken_after_it(tmp_path, stopping, decision):
    config = study(space={"segments": {"int": [1, 8]}}, stopping=stopping)
    conductor = opened(config, tmp_path)
    for value in (0.9, 0.1):
        task = conductor.next_task()
        conductor.reported(task.number, epoch(1, value))
    log = Ledger(tmp_path).study("hand")
    path = tmp_path / "studies" / "hand" / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert log.events()[-1]["kind"] == decision
    path.write_bytes(b"".join(lines[:-1]))
    resumed = opened(config, tmp_path)
    assert log.events()[-1]["kind"] == decision
    assert resumed.running.keys() == conductor.running.keys()
    assert resumed.waiting == conductor.waiting


def test_after_its_hours_a_launch_ends_and_the_next_one_goes_on(tmp_path):
    time = [0.0]
    config = study(budget={"trials": 12, "hours": 1.0}, stopping="none")
    conductor = opened(config, tmp_path, clock=lambda: time[0])
    task = conductor.next_task()
    assert conductor.reported(task.number, epoch(1, 0.5))
    time[0] = 3601.0
    assert not conductor.reported(task.number, epoch(2, 0.5))
    assert conductor.next_task() is None
    assert read_study(Ledger(tmp_path), "hand").trials[0].state == "running"
    assert opened(config, tmp_path).next_task() == task


def test_a_trial_whose_actor_dies_goes_on_elsewhere_but_not_for_ever(tmp_path):
    conductor = opened(study(stopping="none"), tmp_path)
    task = conductor.next_task()
    for _ in range(3):
        conductor.lost(task.number)
        assert conductor.next_task() == task
    conductor.lost(task.number)
    assert conductor.facts.trials[0].reason == "its actor died 4 times"
    assert conductor.next_task().number == 1


def test_a_trial_whose_node_runs_out_of_memory_again_and_again_is_infeasible_and_one_beside_it_is_not(tmp_path):
    conductor = opened(study(stopping="none"), tmp_path)
    hungry, innocent = conductor.next_task(), conductor.next_task()
    conductor.lost(innocent.number, "infeasible: its node ran out of memory")
    for _ in range(3):
        conductor.lost(hungry.number, "infeasible: its node ran out of memory")
    assert conductor.facts.trials[hungry.number].state == "running"
    conductor.lost(hungry.number, "infeasible: its node ran out of memory")
    assert conductor.facts.trials[hungry.number].reason == "infeasible: its node ran out of memory 4 times"
    assert conductor.facts.trials[innocent.number].state == "running"


def test_what_would_make_every_trial_fail_ends_the_launch_and_no_trial(tmp_path):
    conductor = opened(study(), tmp_path)
    task = conductor.next_task()
    conductor.halt("ledger: no space left on device")
    assert conductor.next_task() is None
    assert not conductor.reported(task.number, epoch(1, 0.5))
    assert read_study(Ledger(tmp_path), "hand").trials[0].state == "running"


def play(config, root):
    """Runs a study on one actor from wherever it is to its end; returns what it found."""
    with Ledger(root).study("hand").lease():
        conductor = opened(config, root)
        run_all(conductor)
    trials = read_study(Ledger(root), "hand").trials
    return {number: (trial.params, trial.state, trial.reason, trial.value) for number, trial in trials.items()}


def dies(*arguments, **options):
    raise Died


@pytest.mark.parametrize("stopping", ["race", "asha"])
def test_a_study_that_dies_at_any_write_of_an_event_ends_as_an_undisturbed_one(tmp_path, stopping):
    config = study(
        budget={"trials": 7},
        stopping=stopping,
        space={"segments": {"int": [1, 8]}},
        fixed={"epochs": 3, "modality": "mb"},
    )
    with failing_at(0, dies, ("write",)) as count:
        whole = play(config, tmp_path / "whole")
    assert {state for _, state, _, _ in whole.values()} == {"finished", "stopped"}
    every = 1 if os.environ.get("PTUNE_FULL") else 5
    for number in range(1, count[0] + 1, every):
        root = tmp_path / str(number)
        with pytest.raises(Died), failing_at(number, dies, ("write",)):
            play(config, root)
        assert play(config, root) == whole
        kinds = [event["kind"] for event in Ledger(root).study("hand").events()]
        assert kinds.count("finished") + kinds.count("stopped") == kinds.count("proposed") == 7


def test_a_fold_without_usable_predictions_fails_its_trial_and_the_study_can_be_resumed(tmp_path):
    def no_numbers(fit):
        return Evidence(("a", "b"), ("A", "B"), np.array([0.0, np.nan]))

    conductor = opened(study(stopping="none"), tmp_path)
    conductor.evidence = no_numbers
    trial = conductor.next_task().number
    for step in range(1, EPOCHS + 1):
        assert conductor.reported(trial, epoch(step, 0.5))
    assert not conductor.reported(trial, fitted(trial, 0))
    assert conductor.facts.trials[trial].state == "failed"
    assert opened(study(stopping="none"), tmp_path).next_task().number == trial + 1
