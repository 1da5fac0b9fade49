"""Sixteen processes that meet over an empty database make its tables once and lose nothing."""

import sqlite3
import subprocess
import sys
from pathlib import Path

from ptune.home import Home
from ptune.track.project import Projector
from tests.example_study import example_study
from tests.track.invariants import check_runs

PROCESSES = 16


def test_sixteen_processes_first_touch_one_empty_store(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    studies = [f"study{number:02d}" for number in range(PROCESSES)]
    for study in studies:
        example_study(home.ledger, study, epochs=2, trials=2)
    code = "import sys; from ptune.home import Home; from ptune.track.store import RunStore\n"
    code += "store = RunStore(Home.open(sys.argv[1]), sys.argv[2])\n"
    code += "run = store.create('', 'touch', {}, 1000)\n"
    code += "store.log_metrics(run, [('loss', step / 10, step) for step in range(100)])\n"
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(home.root), f"touch{study}"], env=environment, stderr=subprocess.PIPE
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
