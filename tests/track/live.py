"""A real MLflow server that can be taken away, and a sweep made of an example study's events, one after another."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ptune.home import Home
from ptune.ledger import Ledger
from tests.example_study import example_study


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server` over a SQLite file, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        files = ["--artifacts-destination", str(self.folder / "files")]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *store, *where, *files],
                start_new_session=True,
                stdout=log,
                stderr=log,
                env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        self._await()

    def _await(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not come up")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def sweep_of_events(
    home: Home, study: str, poke: Callable[[], object], epoch_seconds: float = 0.0, trials: int = 9
) -> list[float]:
    """Writes an example study into the home event by event, as a sweep does, and returns the seconds of each epoch.

    Args:
        poke: called after every event.
        epoch_seconds: how long an epoch trains, elsewhere.
    """
    script = home.root / f"script-{study}"
    if not script.exists():
        example_study(script, study, trials=trials)
        shutil.copytree(script / "fits", home.ledger / "fits", dirs_exist_ok=True)
    log = Ledger(home.ledger).study(study)
    epochs, started = [], time.perf_counter()
    with log.lease():
        for event in Ledger(script).study(study).events():
            reported = event["kind"] == "reported"
            if reported and epoch_seconds:
                time.sleep(epoch_seconds)
            log.append(event.pop("kind"), **event)
            poke()
            if reported:
                epochs.append(time.perf_counter() - started)
                started = time.perf_counter()
    return epochs
