"""A sweep's ledger events reach MLflow beside the sweep: one thread catches up whenever it is poked.

The ledger is the spool: what a missing server could not take is read from there when it is back. Nothing that goes
wrong here reaches the sweep, and nothing makes it wait, but for a bounded time at its end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ptune.errors import BadInput
from ptune.home import Home
from ptune.track.machine import Machine
from ptune.track.project import Projector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often the writer does what, in seconds.

    Args:
        between: least time from one catch-up to the next.
        sample: time from one sample of the machine to the next.
        first_pause, longest_pause: waiting time after a failure; it doubles from the first to the longest.
        at_end: how long the end of a sweep waits for MLflow.
    """

    between: float = 2.0
    sample: float = 10.0
    first_pause: float = 1.0
    longest_pause: float = 30.0
    at_end: float = 60.0


@contextmanager
def projection(home: Home, study: str, pace: Pace | None = None) -> Iterator[Callable[[], None]]:
    """Keeps MLflow up to the ledger while the body runs, and yields what the body calls after it wrote an event.

    At the end it waits for the last facts to arrive, at most `pace.at_end` seconds; what is missing then is named in a
    warning, and `ptune sync` sends it.

    Raises:
        HomeError: the home has no place for MLflow's runs.
    """
    # Asked here, so that who has no place for runs is told before anything is trained, and not by the thread.
    log.debug("runs of study %s go to %s", study, home.tracking_uri.partition(":")[0])
    writer = _Writer(home, study, pace or Pace())
    writer.thread.start()
    try:
        yield writer.wake.set
    finally:
        writer.close()


class _Writer:
    def __init__(self, home: Home, study: str, pace: Pace) -> None:
        self.study, self.pace = study, pace
        self.projector = Projector(home, study)
        self.machine = Machine()
        self.wake, self.ending = threading.Event(), threading.Event()
        self.behind = False
        self.deadline = float("inf")
        self.thread = threading.Thread(target=self._run, name=f"mlflow-{study}", daemon=True)

    def close(self) -> None:
        self.deadline = time.monotonic() + self.pace.at_end
        self.ending.set()
        self.wake.set()
        self.thread.join(self.pace.at_end)
        if self.behind or self.thread.is_alive():
            log.warning(
                "MLflow does not have all of study %s; nothing is lost. `ptune sync %s` sends the rest.",
                self.study,
                self.study,
            )

    def _run(self) -> None:
        pause = self.pace.first_pause
        while not self.ending.is_set():
            self.wake.wait(self.pace.sample)
            self.wake.clear()
            if self.ending.is_set():
                break
            if self._catch_up(live=True):
                pause = self.pace.first_pause
                self.ending.wait(self.pace.between)
            else:
                self.ending.wait(pause)
                pause = min(2 * pause, self.pace.longest_pause)
        pause = self.pace.first_pause
        while not self._catch_up(live=False) and time.monotonic() + pause < self.deadline:
            time.sleep(pause)
            pause = min(2 * pause, self.pace.longest_pause)

    def _catch_up(self, live: bool) -> bool:
        self.machine.sample(self.pace.sample)
        try:
            self.projector.sync(live)
            self.machine.send(self.projector.store)
        except BadInput:
            return True  # The sweep has not opened the study yet, or refused to.
        except Exception as error:
            if not self.behind:
                log.warning(
                    "MLflow is away (%s). The sweep of %s goes on; its runs catch up when MLflow is back.",
                    type(error).__name__,
                    self.study,
                )
                log.debug("the first failure", exc_info=error)
            self.behind = True
            return False
        self.behind = False
        return True
