"""Proposals, the race and what they record, on plain Python: no Ray."""

import pytest

from ptune.config import StudyConfig
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, TrialFacts, read_study
from ptune.tune.conductor import Conductor
from ptune.tune.race import Race
from ptune.tune.searcher import Proposals

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
    base = {"rgb": 0.3, "flow": 0.5, "mb": 0.6}[params["modality"]]
    return base + 0.01 * params["segments"] + 0.02 * params["attention"]


def opened(config, root):
    log = Ledger(root).study("hand")
    past = read_study(Ledger(root), "hand")
    if past is None:
        cohort = {"digest": "d", "videos": 6, "subjects": 3, "class_counts": {}}
        dump = config.model_dump(mode="json", by_alias=True)
        log.append("opened", study=dump, cohort=cohort, folds={"a": 0}, revision=1)
        past = read_study(Ledger(root), "hand")
    return Conductor(past, log, EPOCHS)


def run_trial(conductor, proposal, value):
    """Plays the worker of one trial; returns False when it was stopped."""
    fitted = None
    for fold in range(FOLDS):
        for epoch in range(1, EPOCHS + 1):
            step = fold * EPOCHS + epoch
            result = {
                "fitted": fitted,
                "fold": fold,
                "epoch": epoch,
                "step": step,
                "value": value,
                "metrics": {"loss": 1.0},
            }
            if not conductor.reported(proposal.number, result):
                return False
            fitted = None
        fitted = {"fold": fold, "fit": f"{proposal.number}-{fold}", "reused": False, "seconds": 1.0}
    conductor.ended(proposal.number, {"kind": "finished", "fitted": fitted, "value": value, "metrics": {}})
    return True


def run_all(conductor):
    order = []
    while (proposal := conductor.propose()) is not None:
        run_trial(conductor, proposal, quality(proposal.params))
        order.append(proposal)
    return order


def test_every_modality_gets_its_share_and_a_full_cross_validation(tmp_path):
    conductor = opened(study(), tmp_path)
    order = run_all(conductor)
    assert [proposal.group for proposal in order[:3]] == ["rgb", "flow", "mb"]
    assert all(sum(proposal.group == group for proposal in order) == 4 for group in ("rgb", "flow", "mb"))
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
        proposal = conductor.propose()
        run_trial(conductor, proposal, quality(proposal.params))
    half_done = conductor.propose()
    resumed = opened(config, tmp_path / "parts")
    again = [proposal.params for proposal in run_all(resumed)]
    assert again[0] == half_done.params
    assert undisturbed == [trial.params for _, trial in sorted(resumed.facts.trials.items())]
    assert resumed.tally.trials_before == killed_after


def test_events_rebuild_what_the_conductor_knew(tmp_path):
    conductor = opened(study(), tmp_path)
    run_all(conductor)
    assert read_study(Ledger(tmp_path), "hand") == conductor.facts


def test_a_finished_study_proposes_nothing(tmp_path):
    run_all(opened(study(), tmp_path))
    assert opened(study(), tmp_path).propose() is None


def test_reports_seen_twice_are_recorded_once(tmp_path):
    conductor = opened(study(stopping="none"), tmp_path)
    proposal = conductor.propose()
    result = {"fitted": None, "fold": 0, "epoch": 1, "step": 1, "value": 0.5, "metrics": {}}
    for _ in range(2):
        assert conductor.reported(proposal.number, result)
    events = Ledger(tmp_path).study("hand").events()
    assert [event["kind"] for event in events] == ["opened", "proposed", "reported"]


def test_a_stopped_trial_stays_stopped_whatever_is_heard_of_it_later(tmp_path):
    """Ray Tune calls a scheduler's completion hook with the last epoch of a trial that the scheduler stopped."""
    conductor = opened(study(space={"segments": {"int": [1, 8]}}), tmp_path)
    for value in (0.9, 0.1):
        proposal = conductor.propose()
        result = {"kind": "epoch", "fitted": None, "fold": 0, "epoch": 1, "step": 1, "value": value, "metrics": {}}
        goes_on = conductor.reported(proposal.number, result)
    assert not goes_on
    events = len(Ledger(tmp_path).study("hand").events())
    conductor.ended(proposal.number, result)
    conductor.failed(proposal.number, "late")
    assert not conductor.reported(proposal.number, {**result, "step": 2})
    assert len(Ledger(tmp_path).study("hand").events()) == events
    assert conductor.facts.trials[proposal.number].state == "stopped"


def test_a_failed_trial_is_recorded_with_its_reason_and_the_study_goes_on(tmp_path):
    conductor = opened(study(), tmp_path)
    proposal = conductor.propose()
    conductor.ended(proposal.number, {"kind": "failed", "fitted": None, "reason": "loss is nan"})
    facts = read_study(Ledger(tmp_path), "hand")
    assert (facts.trials[0].state, facts.trials[0].reason) == ("failed", "loss is nan")
    assert conductor.propose() is not None


def test_training_hours_beyond_the_budget_end_the_study(tmp_path):
    conductor = opened(study(budget={"trials": 12, "gpu_hours": 0.0001}), tmp_path)
    proposal = conductor.propose()
    run_trial(conductor, proposal, 0.5)
    assert conductor.propose() is None


def test_halving_keeps_the_better_half_and_never_fewer_than_the_finalists():
    race = Race(study(finalists={"count": 2}), EPOCHS)
    assert race.rungs == [1, 3, 6]
    assert race.goes_on(0, "flow", 1, 0.9)
    assert race.goes_on(1, "flow", 1, 0.1)
    assert not race.goes_on(2, "flow", 1, 0.05)
    assert race.goes_on(3, "mb", 1, 0.01), "another group has its own finalists"
    assert race.goes_on(2, "flow", 2, 0.0), "nothing is decided between rungs"
    race.restore(StudyFacts(study(), {}, {}))


def test_no_rungs_without_stopping():
    assert Race(study(stopping="none"), EPOCHS).rungs == []
