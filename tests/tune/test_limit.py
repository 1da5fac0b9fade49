"""A study's limit of GPUs: asked of a cluster that may grow, changed while it runs, kept from launch to launch."""

import json
import math
import os
import time

import pytest

from ptune.errors import BadInput
from ptune.errors import ConfigError as Refused
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.steer import LimitGpus, Requests, StopStudy
from ptune.tune.places import Places
from ptune.tune.steering import gpus_to_use
from tests.tune.chaos import STUDY, Arena
from tests.tune.test_cluster import ThreeNodes
from tests.tune.test_conductor import EPOCHS, epoch, finished, fitted, opened, study
from tests.tune.test_steering import Ticking, asked_in

LISTED = {"stopping": "none", "budget": {"trials": 6}}
#: A head without cores and a node with a GPU that is none; each line that it reads adds such a node.
GROWING = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1, num_gpus=1)]
cluster.wait_for_nodes()
print(json.dumps([cluster.address, nodes[0].all_processes["raylet"][0].process.pid]), flush=True)
for line in sys.stdin:
    nodes.append(cluster.add_node(num_cpus=1, num_gpus=1))
    cluster.wait_for_nodes()
    print(nodes[-1].all_processes["raylet"][0].process.pid, flush=True)
cluster.shutdown()
"""


def limited(root, max_gpus, gpus_each=1.0, **changes):
    config = study(**LISTED | changes, resources={"max_gpus": max_gpus})
    requests = Requests(Ledger(root), "hand")
    return opened(config, root, requests=requests, clock=Ticking(), places=Places(8, gpus_each)), requests


def taken(conductor):
    """Returns all tasks that may run side by side now."""
    return list(iter(conductor.next_task, None))


@pytest.mark.parametrize(
    ("most", "each", "actors"), [(3, 1.0, 3), (3, 0.5, 6), (2, 2.0, 1), (None, 1.0, 6), (1, 0.0, 6)]
)
def test_as_many_actors_as_the_limit_allows_wherever_the_gpus_are(tmp_path, most, each, actors):
    conductor, _ = limited(tmp_path, most, each)
    trials = [task for task in taken(conductor) if task.fold is None]
    assert len(trials) == actors
    assert conductor.places.taken == min(conductor.places.most, 8)


def test_a_limit_that_rises_lets_more_trials_start(tmp_path):
    conductor, requests = limited(tmp_path, 1)
    assert len(taken(conductor)) == 1
    requests.ask(LimitGpus(3))
    assert len(taken(conductor)) == 2
    assert conductor.places.full


def test_a_limit_that_sinks_pauses_trials_at_the_end_of_a_fold_and_they_go_on_first(tmp_path):
    conductor, requests = limited(tmp_path, 2)
    one, other = taken(conductor)
    requests.ask(LimitGpus(1))
    for step in range(1, EPOCHS + 1):
        assert conductor.reported(one.number, epoch(step, 0.5))
        assert conductor.reported(other.number, epoch(step, 0.5))
    assert not conductor.reported(one.number, fitted(one.number, 0))
    conductor.places.leave()
    assert conductor.next_task() is None
    # There is room for one again: the other goes on.
    assert conductor.reported(other.number, fitted(other.number, 0))
    assert conductor.facts.trials[one.number].state == "running"
    for fold in (1, 2):
        for step in range(fold * EPOCHS + 1, (fold + 1) * EPOCHS + 1):
            assert conductor.reported(other.number, epoch(step, 0.5))
        conductor.reported(other.number, fitted(other.number, fold))
    conductor.ended(other.number, finished(0.5))
    conductor.places.leave()
    assert conductor.next_task().number == one.number


def test_under_the_race_trials_pause_where_nothing_has_to_be_repeated(tmp_path):
    conductor, requests = limited(tmp_path, 4, stopping="race")
    tasks = taken(conductor)
    requests.ask(LimitGpus(1))
    for task in tasks:
        step = 1
        while conductor.reported(task.number, epoch(step, 0.5)):
            step += 1
            assert step <= EPOCHS
        assert step in conductor.rungs
        conductor.places.leave()
    assert conductor.places.taken == 0


def test_a_study_keeps_its_last_limit_until_its_file_says_another(tmp_path):
    conductor, requests = limited(tmp_path, 2)
    asked = LimitGpus(5)
    requests.ask(asked)
    conductor.next_task()
    assert asked_in(tmp_path) == [asked.id]
    assert limited(tmp_path, 2)[0].facts.max_gpus == 5
    log = Ledger(tmp_path).study("hand")
    (event,) = [event for event in log.events() if event["kind"] == "opened"]
    for max_gpus, trials, kept in ((2, 9, 5), (3, 9, 3)):
        event["study"]["resources"]["max_gpus"], event["study"]["budget"]["trials"] = max_gpus, trials
        log.append(**event)
        assert read_study(Ledger(tmp_path), "hand").max_gpus == kept


def test_a_study_without_a_limit_takes_what_is_there(tmp_path):
    conductor = opened(study(**LISTED), tmp_path, places=Places(2, 1.0))
    assert len(taken(conductor)) == conductor.places.most == 2
    assert opened(study(**LISTED), tmp_path / "other").places.most == math.inf


@pytest.mark.parametrize(
    ("resources", "found"),
    [
        ({"gpu": 0, "max_gpus": 2}, "gpu is 0"),
        ({"gpu": 4, "max_gpus": 2}, "more than max_gpus"),
        ({"max_gpus": 0}, "max_gpus"),
        ({"accelerator": "A 100"}, "accelerator"),
    ],
)
def test_limits_that_say_nothing_are_refused(resources, found):
    with pytest.raises(Refused, match=found):
        study(resources=resources)


def test_a_limit_has_room_for_a_trial(tmp_path):
    opened(study(resources={"gpu": 2}), tmp_path)
    with pytest.raises(BadInput, match="needs 2 for one trial"):
        gpus_to_use(read_study(Ledger(tmp_path), "hand"), 1)
    assert gpus_to_use(read_study(Ledger(tmp_path), "hand"), 2).max_gpus == 2


@pytest.mark.skipif(not os.environ.get("PTUNE_FULL"), reason="takes minutes: `make test-full`")
def test_a_cluster_grows_under_a_study_and_a_lower_limit_empties_a_node(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tune.test_cluster.CLUSTER", GROWING)
    cluster = ThreeNodes()
    try:
        arena = Arena(
            tmp_path,
            budget={"trials": 2},
            stopping="none",
            resources={"max_gpus": 2},
            folds={"count": 4},
            fixed={**STUDY["fixed"], "epochs": 30},
        )
        requests = Requests(Ledger(arena.root / "home" / "ledger"), "chaos")
        launch = arena.launch("home", RAY_ADDRESS=cluster.address, RAY_AUTH_MODE="disabled")

        def wait(moment):
            until = time.monotonic() + 120
            while not moment():
                assert launch.process.poll() is None, launch.printed()
                assert time.monotonic() < until
                time.sleep(0.1)

        def told(kind):
            return [event.get("trial") for event in arena.events("home") if event["kind"] == kind]

        wait(lambda: told("reported"))
        # Both were asked for, of one GPU.
        assert told("proposed") == [0, 1]
        cluster.process.stdin.write("one more\n")
        cluster.process.stdin.flush()
        cluster.raylets.append(json.loads(cluster.process.stdout.readline()))
        wait(lambda: set(told("reported")) == {0, 1})
        assert set(cluster.actors()) == {0, 1}
        requests.ask(LimitGpus(1))
        wait(lambda: told("limited"))
        folds = len(told("fitted"))
        wait(lambda: len(told("fitted")) > folds)
        paused = told("fitted")[folds]
        before = told("reported")
        wait(lambda: len(told("reported")) >= len(before) + 10)
        assert set(told("reported")[len(before) :]) == {1 - paused}
        requests.ask(StopStudy())
        launch.finish(1)
        assert arena.facts("home").trials[paused].state == "running"
    finally:
        cluster.close()
