"""Studies that a laptop submits to a cluster of three hosts, undisturbed and while hosts, network and database fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ptune.home import Home
from ptune.ledger import Ledger
from ptune.ledger.layout import PREDICTIONS, WEIGHTS
from ptune.replay import read_study
from ptune.results.summary import summarise
from tests.cluster.cluster import Cluster, postgres_programs
from tests.cluster.hosts import ROOT, wait_until, why_not
from tests.tune.chaos import STUDY, check_events, outcome

FULL = bool(os.environ.get("PTUNE_FULL"))
SMALL = STUDY | {
    "cohort": "/mnt/cohort/cohort.csv",
    "search": "grid",
    "stopping": "none",
    "budget": {"trials": 4 if FULL else 2},
    "resources": {"checkpoint_seconds": 1.0},
    "space": {"modality": {"choice": ["flow", "mb"]}, "segments": {"choice": [1, 2]}},
    "fixed": STUDY["fixed"] | {"learning_rate": 2e-3},
}
ABLATION = {
    "ablation": "parts",
    "tasks": ["hand"],
    "rows": {"Flow": ["flow"], "Both": ["flow", "mb"]},
    "columns": {"focal": {"segments": 1}, "cross-entropy": {"segments": 1, "focal": {"alpha": 1.0, "gamma": 0.0}}},
} | {name: SMALL[name] for name in ("cohort", "folds", "init", "extraction", "fixed")}
REASON = why_not() or ("" if postgres_programs() else "needs PostgreSQL's programs")
pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=REASON),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def folder():
    # PostgreSQL's user has to pass through it.
    root = Path(tempfile.mkdtemp(prefix="ptune-cluster-"))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def cluster(folder):
    hosts = Cluster(folder)
    try:
        size = ["--subjects", "6", "--clips", "2", "--size", "64x48", "--seconds", "1.2-1.6", "--fps", "12.5"]
        hosts.head.run("ptune", "cohort", "synth", "/mnt/cohort", *size, "--balanced")
        hosts.start()
        yield hosts
    finally:
        hosts.close()


def on_this_machine(folder: Path, home: str, *command: str) -> None:
    """Runs a command of ptune on this machine alone."""
    scratch = tempfile.mkdtemp(prefix="pt", dir="/tmp")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    own = {"RAY_TMPDIR": scratch, "PTUNE_HOME": str(folder / home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [Path(sys.executable).with_name("ptune"), *command],
        env=inherited | own,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(scratch)


def written(path: Path, content: dict) -> str:
    path.write_text(yaml.safe_dump(content))
    return path.name


def fits(home: Home) -> dict[str, tuple[bytes, bytes]]:
    """Returns the predictions and weights of every fit."""
    ledger = Ledger(home.ledger)
    found = {signature: ledger.find_fit(signature) for signature in ledger.fits()}
    return {
        signature: (record.store.read(record.name(PREDICTIONS)), record.store.read(record.name(WEIGHTS)))
        for signature, record in found.items()
        if record is not None
    }


def test_from_videos_to_a_champion_with_the_figures_of_one_machine(cluster, folder):
    config, ablation = SMALL | {"study": "hand"}, ABLATION
    for name, content in (("hand.yaml", config), ("parts.yaml", ablation)):
        written(cluster.laptop.scratch / name, content)
        written(folder / name, content | {"cohort": str(cluster.shared / "cohort" / "cohort.csv")})
    commands = [
        ("extract", "/mnt/cohort/cohort.csv", "--size", "40x32"),
        ("sweep", "hand.yaml"),
        *([("ablate", "parts.yaml")] if FULL else []),
        ("register", "hand"),
        ("promote", "hand", "--override", "a test of the way there"),
    ]
    checked = cluster.submit("doctor", "--cluster")
    print(checked)
    assert all(f"ok  {host}: home" in checked for host in ("head", "worker-1", "worker-2"))
    assert "Ray's dashboard answers 401 without one" in checked
    for command in commands:
        cluster.submit(*command)
    for command in commands:
        on_this_machine(folder, "alone", *(part.replace("/mnt", str(cluster.shared)) for part in command))
    here, there = Home(folder / "alone", folder / "alone" / "features"), Home(cluster.shared / "home", cluster.shared)
    assert fits(there) == fits(here)
    for study in ("hand", *(["parts-hand"] if FULL else [])):
        found = read_study(Ledger(there.ledger), study)
        assert outcome(found) == outcome(read_study(Ledger(here.ledger), study))
    assert summarise(there, ("hand",)).facts() == summarise(here, ("hand",)).facts()


#: How long a host or the database is away.
AWAY_SECONDS = 30
#: Trials take so long that all of this falls into them.
LONG = SMALL | {"fixed": SMALL["fixed"] | {"epochs": 40}}


def lose_a_worker(cluster):
    """Takes the power from a worker while it trains, for good."""
    cluster.workers[1].kill()


def cut_a_worker_off(cluster):
    """Unplugs a worker that goes on training, and writing to what it shares."""
    cluster.workers[1].unplug()
    time.sleep(AWAY_SECONDS)
    cluster.workers[1].plug()


def lose_the_head(cluster):
    """Takes the power from the head, with Ray's control, the driver and MLflow's server, and gives it back."""
    cluster.head.restart()
    cluster.start_head()


def stop_the_database(cluster):
    """Ends PostgreSQL and starts it again."""
    cluster.stop_database()
    time.sleep(AWAY_SECONDS)
    cluster.start_database()


@pytest.fixture(scope="module")
def undisturbed(cluster, folder):
    written(folder / "long.yaml", LONG | {"study": "long", "cohort": str(cluster.shared / "cohort" / "cohort.csv")})
    on_this_machine(folder, "undisturbed", "sweep", "long.yaml")
    return outcome(read_study(Ledger(folder / "undisturbed" / "ledger"), "long"))


@pytest.mark.skipif(not FULL, reason="takes many minutes: `make cluster-test`")
@pytest.mark.parametrize("disturb", [lose_a_worker, cut_a_worker_off, lose_the_head, stop_the_database])
def test_work_completes_and_nothing_is_lost_or_doubled(disturb, cluster, undisturbed):
    name = disturb.__name__.replace("_", "-")
    written(cluster.laptop.scratch / f"{name}.yaml", LONG | {"study": name})
    places = ["--home", f"/mnt/{name}", "--features", "/mnt/home/features"]
    ledger = Ledger(cluster.shared / name / "ledger")
    job = cluster.begin("sweep", f"{name}.yaml", *places)
    wait_until(lambda: job.poll() is not None or trials_under_way(ledger, name) == 2, 200, "both workers train")
    assert job.poll() is None, (cluster.laptop.scratch / "jobs.log").read_text()
    disturb(cluster)
    if disturb is lose_the_head:
        cluster.await_workers(2)
        cluster.submit("sweep", f"{name}.yaml", *places)
    elif disturb is lose_a_worker:
        assert job.wait(timeout=400) == 0
        cluster.workers[1].restart()
        cluster.start_worker(cluster.workers[1])
    assert job.wait(timeout=400) == 0 or disturb is lose_the_head, (cluster.laptop.scratch / "jobs.log").read_text()
    check_events(ledger.study(name).events())
    assert outcome(read_study(ledger, name)) == undisturbed
    points = cluster.head.run("python", "-c", CHECK, f"/mnt/{name}", name)
    print(f"{disturb.__name__}: {points.strip()} points of metrics are each in MLflow once")
    cluster.await_workers(2)


CHECK = """
import sys
from ptune.home import Home
from tests.track.invariants import check_runs
print(check_runs(Home.open(sys.argv[1]), sys.argv[2]))
"""


def trials_under_way(ledger, study):
    """Returns how many unfinished trials have reported five epochs."""
    events = ledger.study(study).events()
    ended = {event["trial"] for event in events if event["kind"] in ("finished", "stopped", "failed")}
    reported = Counter(event["trial"] for event in events if event["kind"] == "reported")
    return sum(number >= 5 for trial, number in reported.items() if trial not in ended)
