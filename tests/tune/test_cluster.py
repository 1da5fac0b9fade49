"""The same study on a cluster of three nodes, one of which is lost on the way."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.tune.chaos import ROOT, STUDY, Arena, check_events, outcome

CHECKPOINT_SECONDS = 1.0
#: Runs a head without cores and two nodes with one each; loses the node that it reads the number of.
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps([cluster.address, *raylets]), flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("lost", flush=True)
cluster.shutdown()
"""


class ThreeNodes:
    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="pt", dir="/tmp")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=environment
            | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": self.folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address, *self.raylets = json.loads(self.process.stdout.readline())

    def actors(self) -> dict[int, int]:
        """Returns the process that runs a trial on each node that has one."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().decode()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if re.match("ray::(TrialRunner|ResourceTrainable)", command) and parent in self.raylets:
                found[self.raylets.index(parent)] = int(entry.name)
        return found

    def lose(self, node: int) -> None:
        self.process.stdin.write(f"{node}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "lost\n"

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def cluster():
    nodes = ThreeNodes()
    yield nodes
    nodes.close()


@pytest.fixture(scope="module")
def arena():
    root = Path(tempfile.mkdtemp(prefix="cluster-"))
    yield Arena(
        root,
        budget={"trials": 3},
        stopping="none",
        resources={"checkpoint_seconds": CHECKPOINT_SECONDS},
        fixed={**STUDY["fixed"], "epochs": 40},
    )
    shutil.rmtree(root)


def trials_that_reported(events, epochs):
    """Returns how many unfinished trials have reported so many epochs."""
    ended = {event["trial"] for event in events if event["kind"] in ("finished", "stopped", "failed")}
    reported = Counter(event["trial"] for event in events if event["kind"] == "reported")
    return sum(number >= epochs for trial, number in reported.items() if trial not in ended)


def test_a_study_survives_the_loss_of_a_node_and_loses_a_checkpoint_interval(arena, cluster):
    arena.launch("undisturbed").finish()
    launch = arena.launch("cluster", RAY_ADDRESS=cluster.address, RAY_AUTH_MODE="disabled")
    while not (1 in cluster.actors() and trials_that_reported(arena.events("cluster"), 5) >= 2):
        assert launch.process.poll() is None, f"no moment with both nodes at work: {launch.printed()}"
        time.sleep(0.1)
    cluster.lose(1)
    launch.finish()
    events = arena.events("cluster")
    check_events(events)
    assert outcome(arena.facts("cluster")) == outcome(arena.facts("undisturbed"))
    reported = [*arena.events("undisturbed"), *events]
    longest_epoch = max(event["seconds"] for event in reported if event["kind"] == "reported")
    repeated = sum(event["seconds"] for event in events if event["kind"] == "charged")
    print(f"{repeated:.1f} s of training repeated; an epoch takes up to {longest_epoch:.1f} s")
    assert 0 < repeated <= CHECKPOINT_SECONDS + 2 * longest_epoch
