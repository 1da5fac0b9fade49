"""Processes that meet over an empty database make its tables once and lose nothing; `PTUNE_FULL=1` has sixteen."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ptune.home import Home
from ptune.track.project import Projector
from ptune.track.store import connect
from tests.example_study import example_study
from tests.track.invariants import check_runs

PROCESSES = 16 if os.environ.get("PTUNE_FULL") else 5
ENVIRONMENT = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_process_that_dies_while_it_makes_the_tables_leaves_a_store_that_can_be_used(
    tmp_path: Path, seconds: float
) -> None:
    home = Home.open(tmp_path / "home")
    code = "import sys; from ptune.home import Home; from ptune.track.store import connect\n"
    code += "connect(Home.open(sys.argv[1]))\n"
    process = subprocess.Popen([sys.executable, "-c", code, str(home.root)], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not list(home.root.glob(".mlflow.db.*.part")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.wait()
    assert not (home.root / "mlflow.db").exists(), "killed too late to tell anything"
    assert connect(home).create_experiment("one")


def test_many_processes_first_touch_one_empty_store(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    studies = [f"study{number:02d}" for number in range(PROCESSES)]
    for study in studies:
        example_study(home.ledger, study, epochs=2, trials=2)
    code = "import sys; from ptune.home import Home; from ptune.track.store import RunStore\n"
    code += "store = RunStore(Home.open(sys.argv[1]), sys.argv[2])\n"
    code += "run = store.create('', 'touch', {}, 1000)\n"
    code += "store.log_metrics(run, [('loss', step / 10, step) for step in range(100)])\n"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(home.root), f"touch{study}"], env=ENVIRONMENT, stderr=subprocess.PIPE
        )
        for study in studies
    ]
    errors = [process.communicate(timeout=240)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES, errors
    with sqlite3.connect(home.root / "mlflow.db") as database:
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)
        assert database.execute("select count(*) from metrics").fetchone() == (PROCESSES * 100,)
        assert database.execute("select count(*) from runs").fetchone() == (PROCESSES,)
    assert Projector(home, studies[0]).sync().created == 3
    assert check_runs(home, studies[0]) > 0
