"""Sweeps are killed at random moments and go on as if nothing had been; `make chaos` runs all seeds."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from tests.track.invariants import check_runs
from tests.tune.chaos import Arena, check_events, end, outcome

FULL = bool(os.environ.get("PTUNE_FULL"))
DRIVER_SEEDS = range(50 if FULL else 1)
WORKER_SEEDS = range(10 if FULL else 1)
SIGNALS = (signal.SIGTERM, signal.SIGINT) if FULL else (signal.SIGTERM,)


@pytest.fixture(scope="module")
def arena():
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    yield Arena(root)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def undisturbed(arena):
    """Returns what a study finds that nobody disturbs, and the seconds it takes."""
    seconds = arena.launch("undisturbed").finish()
    check_events(arena.events("undisturbed"))
    return outcome(arena.facts("undisturbed")), seconds


def check_same(arena, home, undisturbed):
    check_events(arena.events(home))
    assert check_runs(arena.open(home), "chaos") > 0
    assert outcome(arena.facts(home)) == undisturbed[0]


@pytest.mark.parametrize("seed", DRIVER_SEEDS)
def test_a_sweep_whose_driver_is_killed_ends_as_an_undisturbed_one(arena, undisturbed, seed):
    random_ = random.Random(seed)
    home = f"driver-{seed}"
    for _ in range(random_.choice((1, 1, 2))):
        arena.launch(home).kill(random_.uniform(0, undisturbed[1]))
    arena.launch(home).finish()
    check_same(arena, home, undisturbed)


@pytest.mark.parametrize("seed", WORKER_SEEDS)
def test_a_trial_whose_actor_is_killed_goes_on_in_another(arena, undisturbed, seed):
    random_ = random.Random(seed)
    home = f"worker-{seed}"
    launch = arena.launch(home)
    while not launch.actors():
        assert launch.process.poll() is None
        time.sleep(0.05)
    time.sleep(random_.uniform(0, 6))
    for identity in launch.actors():
        end(identity)
    launch.finish()
    check_same(arena, home, undisturbed)


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_sweep_that_is_asked_to_stop_says_how_to_go_on(arena, undisturbed, sent):
    home = f"stopped-{sent.name}"
    launch = arena.launch(home)
    while not launch.actors():
        time.sleep(0.05)
    time.sleep(2)
    launch.process.send_signal(sent)
    launch.process.wait(timeout=60)
    printed = launch.printed()
    launch.clean()
    assert launch.process.returncode == 1, printed
    assert "Run the same command again to go on." in printed
    assert "Traceback" not in printed
    arena.launch(home).finish()
    check_same(arena, home, undisturbed)
