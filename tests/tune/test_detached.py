"""A real sweep in a session of its own: it outlives whoever began it, is steered from outside, and ends when asked."""

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ptune.ledger import Ledger
from ptune.replay import read_study
from tests.tune.chaos import ROOT, Arena, check_events


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    return Arena(tmp_path_factory.mktemp("arena"), stopping="none", budget={"trials": 10})


class Shell:
    """Runs ptune as a person would, with a Ray of its own."""

    def __init__(self, arena, home):
        self.arena, self.home = arena, arena.root / home
        self.scratch = tempfile.mkdtemp(prefix="pt", dir="/tmp")

    def __call__(self, *arguments, code=0):
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        own = {
            "PTUNE_HOME": str(self.home),
            "RAY_TMPDIR": self.scratch,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "ptune.cli", *map(str, arguments)],
            env=inherited | own,
            cwd=self.arena.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr + done.stdout

    def facts(self):
        return read_study(Ledger(self.home / "ledger"), "chaos")

    def holder(self):
        return Ledger(self.home / "ledger").study("chaos").holder()

    def events(self):
        return Ledger(self.home / "ledger").study("chaos").events()


def wait_until(true, seconds=120):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_detached_sweep_is_steered_from_outside_and_stopped(arena):
    shell = Shell(arena, "steered")
    sweep = ("sweep", arena.study, "--features", arena.root / "features", "--workers", "1", "--detach", "--json")
    begun = json.loads(shell(*sweep))
    try:
        assert os.getsid(begun["pid"]) == begun["pid"], "a session of its own"
        assert stat.S_IMODE(os.stat(begun["log"]).st_mode) == 0o600
        assert shell.holder().pid == begun["pid"]
        assert "is being run by process" in shell(*sweep, code=2)
        asked = json.loads(shell("trial", "add", "chaos", "modality=mb", "segments=3", "learning_rate=1e-3", "--json"))
        assert asked["running"]
        assert "segments is '9'" in shell("trial", "add", "chaos", "modality=mb", "segments=9", code=2)
        wait_until(lambda: any(event.get("request") == asked["request"] for event in shell.events()))
        added = next(event["trial"] for event in shell.events() if event.get("request") == asked["request"])
        shell("stop", "chaos")
        wait_until(lambda: shell.holder() is None)
    finally:
        wait_until(lambda: not os.path.exists(f"/proc/{begun['pid']}") or ended(begun["pid"]))
    assert "Run the same command again to go on." in Path(begun["log"]).read_text()
    assert "no sweep runs it" in shell("stop", "chaos", code=2)
    shell(*(part for part in sweep if part not in ("--detach", "--json")))
    check_events(shell.events())
    assert shell.facts().trials[added].state == "finished"
    assert shell.facts().trials[added].params == {"modality": "mb", "segments": 3, "learning_rate": 1e-3}


def ended(pid):
    with open(f"/proc/{pid}/stat") as handle:
        return handle.read().rpartition(")")[2].split()[0] == "Z"


def test_a_detached_sweep_that_is_refused_says_why(arena):
    shell = Shell(arena, "refused")
    study = arena.write_study("none.yaml", cohort="none.csv")
    assert "none.csv: 1 problem" in shell("sweep", study, "--detach", code=2)
    assert "is not in this home" in shell("trial", "stop", "chaos", "0", code=2)
    assert not (shell.home / "ledger" / "studies").exists()
