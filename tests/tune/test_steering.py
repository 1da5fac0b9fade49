"""People steer a running study: requests are checked when they are made, and answered once, whatever crashes."""

import pytest

from ptune.errors import BadInput
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.steer import AddTrial, Requests, StopStudy, StopTrial
from ptune.tune.steering import trial_to_add, trial_to_stop
from tests.tune.test_conductor import epoch, group_of, opened, quality, run_all, run_trial, study

POINT = {"modality": "flow", "segments": 8, "attention": False}
TYPED = ("modality=flow", "segments=8", "attention=false")


class Ticking:
    """A clock on which every look is two seconds after the last."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 2.0
        return self.now


def steered(config, root):
    requests = Requests(Ledger(root), "hand")
    return opened(config, root, requests=requests, clock=Ticking()), requests


def asked_in(root):
    """Returns the requests that events answer."""
    return [event["request"] for event in Ledger(root).study("hand").events() if "request" in event]


def test_requests_are_taken_in_the_order_of_asking_until_they_are_acknowledged(tmp_path):
    requests = Requests(Ledger(tmp_path), "hand")
    asked = [StopTrial(3), AddTrial(POINT), StopStudy(), StopTrial(1)]
    for request in asked:
        requests.ask(request)
    assert requests.take() == asked
    requests.acknowledge(asked[0])
    requests.acknowledge(asked[0])
    assert requests.take() == asked[1:]
    requests.forget_stops()
    assert requests.take() == [asked[1], asked[3]]


def test_an_added_trial_runs_next_and_beyond_the_budget(tmp_path):
    conductor, requests = steered(study(budget={"trials": 3}, stopping="none"), tmp_path)
    for _ in range(3):
        task = conductor.next_task()
        run_trial(conductor, task, quality(task.params))
    requests.ask(AddTrial(POINT))
    task = conductor.next_task()
    assert (task.number, task.params) == (3, POINT)
    assert run_trial(conductor, task, 0.9)
    assert requests.take() == []
    assert conductor.next_task() is None
    assert read_study(Ledger(tmp_path), "hand").finished()[0].params == POINT


def test_a_trial_that_is_stopped_by_hand_ends_and_is_charged_for_what_was_under_way(tmp_path):
    conductor, requests = steered(study(stopping="none"), tmp_path)
    first, second = conductor.next_task(), conductor.next_task()
    assert conductor.reported(first.number, epoch(1, 0.5, seconds=2.0))
    requests.ask(StopTrial(first.number))
    assert conductor.reported(second.number, epoch(1, 0.5))
    assert not conductor.reported(first.number, epoch(2, 0.5, seconds=3.0))
    told = read_study(Ledger(tmp_path), "hand").trials[first.number]
    assert (told.state, told.reason, told.seconds) == ("stopped", "stopped by hand", 5.0)
    assert conductor.reported(second.number, epoch(2, 0.5)), "the other goes on"


def test_a_study_that_is_stopped_leaves_its_trials_for_the_next_launch(tmp_path):
    conductor, requests = steered(study(stopping="none"), tmp_path)
    task = conductor.next_task()
    requests.ask(StopStudy())
    assert not conductor.reported(task.number, epoch(1, 0.5))
    assert conductor.next_task() is None
    assert conductor.leaving
    again, _ = steered(study(stopping="none"), tmp_path)
    assert again.next_task() == task


@pytest.mark.parametrize("kind", ["add", "stop"])
def test_a_crash_between_the_event_and_its_acknowledgement_repeats_nothing(tmp_path, kind):
    config = study(stopping="none")
    conductor, requests = steered(config, tmp_path)
    first = conductor.next_task()
    request = AddTrial(POINT) if kind == "add" else StopTrial(first.number)
    requests.ask(request)
    conductor.next_task()
    assert asked_in(tmp_path) == [request.id]
    requests.ask(request)
    resumed, _ = steered(config, tmp_path)
    run_all(resumed)
    assert asked_in(tmp_path) == [request.id]
    assert requests.take() == []
    points = [trial.params for trial in resumed.facts.trials.values()]
    assert points.count(POINT) == (kind == "add")


def test_a_request_that_no_sweep_has_taken_waits_for_the_next(tmp_path):
    opened(study(), tmp_path)
    _, requests = steered(study(), tmp_path)
    requests.ask(AddTrial(POINT))
    conductor, _ = steered(study(), tmp_path)
    assert conductor.next_task().params == POINT


def test_what_came_true_meanwhile_is_no_request_any_more(tmp_path):
    conductor, requests = steered(study(stopping="none"), tmp_path)
    task = conductor.next_task()
    run_trial(conductor, task, 0.5)
    requests.ask(StopTrial(task.number))
    requests.ask(AddTrial(task.params))
    following = conductor.next_task()
    assert following.params != task.params
    assert requests.take() == []
    assert asked_in(tmp_path) == []


def test_requests_are_looked_for_once_a_second_at_most(tmp_path):
    looks = []

    class Counted(Requests):
        def take(self):
            looks.append(1)
            return super().take()

    now = [0.0]
    conductor = opened(
        study(stopping="none"), tmp_path, requests=Counted(Ledger(tmp_path), "hand"), clock=lambda: now[0]
    )
    task = conductor.next_task()
    for step in range(1, 4):
        conductor.reported(task.number, epoch(step, 0.5))
    assert len(looks) == 1
    now[0] = 1.5
    conductor.reported(task.number, epoch(4, 0.5))
    assert len(looks) == 2


def test_who_asks_within_the_last_second_of_a_study_is_heard(tmp_path):
    requests = Requests(Ledger(tmp_path), "hand")
    config = study(budget={"trials": 1}, stopping="none")
    conductor = opened(config, tmp_path, requests=requests, clock=lambda: 0.0)
    task = conductor.next_task()
    run_trial(conductor, task, 0.5)
    requests.ask(AddTrial(POINT))
    assert conductor.next_task().params == POINT


def test_what_is_typed_becomes_a_point_of_the_space(tmp_path):
    facts = opened(study(), tmp_path).facts
    assert trial_to_add(facts, TYPED).params == POINT
    with_condition = trial_to_add(facts, ("modality=mb", "segments=1", "attention=True", "attention_width=64"))
    assert with_condition.params == {"modality": "mb", "segments": 1, "attention": True, "attention_width": 64}


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (("modality=flow", "segments=9", "attention=no"), "segments is '9', which is not a whole number from 1 to 8"),
        (("modality=flow", "segments=2.5", "attention=false"), "which is not a whole number from 1 to 8"),
        (("modality=audio", "segments=2", "attention=false"), "modality is 'audio', which is not one of rgb, flow, mb"),
        (("modality=flow", "segmants=2"), "'segmants' is not searched (did you mean 'segments'?)"),
        (("modality=flow", "attention=false"), "segments is missing, a whole number from 1 to 8"),
        (
            ("modality=flow", "segments=2", "attention=true"),
            "attention_width is missing, a whole number from 64 to 512",
        ),
        (
            (*TYPED, "attention_width=64"),
            "attention_width is given, but attention true does not hold",
        ),
        (("segments",), "'segments' lacks ="),
        ((*TYPED, "segments=1"), "segments is given twice"),
    ],
)
def test_what_is_no_point_is_refused_with_all_that_is_wrong(tmp_path, typed, found):
    facts = opened(study(), tmp_path).facts
    with pytest.raises(BadInput) as refused:
        trial_to_add(facts, typed)
    assert found in str(refused.value)


def test_a_point_that_a_trial_has_is_refused_by_its_number(tmp_path):
    conductor = opened(study(), tmp_path)
    task = conductor.next_task()
    typed = [f"{name}={value}" for name, value in task.params.items()]
    with pytest.raises(BadInput, match=r"trial 0 has these settings \(running\)"):
        trial_to_add(conductor.facts, typed)


def test_only_trials_that_have_not_ended_can_be_stopped(tmp_path):
    conductor = opened(study(stopping="none"), tmp_path)
    done, running = conductor.next_task(), conductor.next_task()
    run_trial(conductor, done, 0.5)
    assert trial_to_stop(conductor.facts, running.number).number == 1
    with pytest.raises(BadInput, match="is finished; expected one that runs or waits: 1"):
        trial_to_stop(conductor.facts, done.number)
    with pytest.raises(BadInput, match="does not exist"):
        trial_to_stop(conductor.facts, 77)


def test_modalities_of_added_trials_count_as_theirs(tmp_path):
    conductor, requests = steered(study(stopping="none"), tmp_path)
    requests.ask(AddTrial(POINT))
    assert [group_of(conductor.next_task()) for _ in range(3)] == ["flow", "rgb", "mb"]
