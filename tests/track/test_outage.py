"""A tracking server that goes away in mid-sweep slows nothing and loses nothing."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from ptune.home import Home
from ptune.track.writer import Pace, projection
from tests.track.invariants import check_runs
from tests.track.live import Server, sweep_of_events

#: One second of an outage as it happens in a cluster, here. An outage is never shorter than a server's start.
SCALE = 0.02
PACE = Pace(between=0.5, sample=1.0, first_pause=0.05, longest_pause=30 * SCALE, at_end=90)
EPOCH_SECONDS = 0.06
TRIALS = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def home(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return Home.open(tmp_path / "home")


@pytest.mark.parametrize("outage_seconds", [0.5, 30, 400] if os.environ.get("PTUNE_FULL") else [400])
def test_an_outage_in_mid_sweep_costs_no_time_and_no_metric(home: Home, server: Server, outage_seconds: float) -> None:
    quiet = Home.open(home.root.parent / "quiet")
    study = f"outage{outage_seconds:g}".replace(".", "-")
    alone = sweep_of_events(quiet, study, lambda: None, EPOCH_SECONDS, TRIALS)

    def outage() -> None:
        time.sleep(1.0)
        server.kill()
        time.sleep(outage_seconds * SCALE)
        server.start()

    vandal = threading.Thread(target=outage)
    pokes: list[float] = []
    with projection(home, study, PACE) as poke:

        def timed() -> None:
            clock = time.perf_counter()
            poke()
            pokes.append(time.perf_counter() - clock)

        vandal.start()
        beside = sweep_of_events(home, study, timed, EPOCH_SECONDS, TRIALS)
        vandal.join()
    overhead = median(beside) / median(alone) - 1
    print(f"epochs of {1000 * median(alone):.1f} ms; beside MLflow {1000 * median(beside):.1f} ms, {overhead:+.1%}")
    print(f"pokes: {sum(pokes) / sum(alone):.2%} of the sweep, longest {1e3 * max(pokes):.2f} ms")
    assert overhead < 0.05
    assert sum(pokes) < 0.05 * sum(alone)
    assert check_runs(home, study) > 500
