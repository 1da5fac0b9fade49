"""Studies submitted from a laptop to a cluster of three hosts, undisturbed and while hosts, network and database fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from ptune.home import Home
from ptune.ledger import Ledger
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
    "budget": {"trials": 4},
    "resources": {"checkpoint_seconds": 1.0},
    "space": {"modality": {"choice": ["flow", "mb"]}, "segments": {"choice": [1, 2]}},
    "fixed": STUDY["fixed"] | {"learning_rate": 2e-3},
}
ABLATION = {
    "ablation": "parts",
    "tasks": ["hand"],
    "rows": {"Flow": ["flow"], "Boundaries": ["mb"], "Both": ["flow", "mb"]},
    "columns": {"2 segments": {"segments": 2}, "1 segment": {"segments": 1}, "cross-entropy": {"focal": {"alpha": 1.0, "gamma": 0.0}}},
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
        timeout=300,
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
        signature: (record.store.read(record.name("predictions")), record.store.read(record.name("weights")))
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
        ("ablate", "parts.yaml"),
        ("register", "hand"),
        ("promote", "hand", "--override", "a test of the way there"),
    ]
    for command in commands:
        print(cluster.submit(*command))
    alone = [[part.replace("/mnt", str(cluster.shared)) for part in command] for command in commands]
    for command in alone:
        on_this_machine(folder, "alone", *command)
    here, there = Home(folder / "alone", folder / "alone" / "features"), Home(cluster.shared / "home", cluster.shared)
    assert fits(there) == fits(here)
    for study in ("hand", "parts-hand"):
        found = read_study(Ledger(there.ledger), study)
        assert outcome(found) == outcome(read_study(Ledger(here.ledger), study))
    assert summarise(there, ("hand",)).facts() == summarise(here, ("hand",)).facts()
