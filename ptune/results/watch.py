"""Studies are followed through the ledger and shown while they run: a view on a terminal, lines elsewhere.

Whoever runs a study and whoever watches it from another shell see the same.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ptune.home import Home
from ptune.ledger import Ledger
from ptune.progress import PLAIN_INTERVAL_SECONDS
from ptune.replay import Follower, StudyFacts, TrialFacts, out_of_fold
from ptune.results.live import OTHER_LINES, USUAL_ROWS, Interval, study_view
from ptune.results.stats import cluster_interval
from ptune.results.status import plain_line, require_study, status_facts

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESHES_PER_SECOND = 2.0


class Watched:
    """One study as it is followed: its state, and intervals of what has finished, each computed once.

    Args:
        ledger: read, never written.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.name, self.ledger, self.log = name, ledger, ledger.study(name)
        self.follower = Follower(self.log)
        self.intervals: dict[int, Interval] = {}

    def update(self) -> bool:
        """Reads what is new in the ledger and returns whether there was anything."""
        return self.follower.update()

    @property
    def facts(self) -> StudyFacts | None:
        """The state of the study at the last update."""
        return self.follower.facts

    @property
    def launch_seconds(self) -> float | None:
        """How long the launch that runs the study has been running; None where none does."""
        holder = self.log.holder()
        return None if holder is None else time.time() - datetime.fromisoformat(holder.since).timestamp()

    def measure(self, most: int) -> None:
        """Computes up to `most` intervals that are not there yet, those of the best trials first."""
        for trial in self.facts.finished() if self.facts else ():
            if most > 0 and trial.number not in self.intervals:
                self.intervals[trial.number] = self._interval(trial)
                most -= 1

    def _interval(self, trial: TrialFacts) -> Interval:
        assert self.facts is not None
        config = self.facts.config
        return cluster_interval(out_of_fold(self.ledger, trial), config.objective.metric, config.grouping.names)

    def line(self) -> str:
        """Returns the study in one line."""
        return plain_line(self.facts, self.launch_seconds) if self.facts else f"{self.name}: no trial yet"

    def values(self) -> dict[str, Any]:
        """Returns the study as plain values."""
        return status_facts(self.facts, self.launch_seconds) if self.facts else {"study": self.name, "trials": {}}

    def view(self, rows: int) -> RenderableType:
        """Returns what a terminal shows, with at most so many trials."""
        from rich.text import Text

        if self.facts is None:
            return Text(self.line())
        return study_view(self.facts, self.launch_seconds, self.intervals, rows)


class _Screen:
    """Renders watched studies afresh whenever the terminal asks, at most one interval each time."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = watched
        self._one_at_a_time = threading.Lock()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[RenderableType]:
        rows = max(1, (console.size.height // len(self.watched)) - OTHER_LINES) if self.watched else 0
        with self._one_at_a_time:
            for each in self.watched:
                each.update()
                each.measure(1)
                yield each.view(rows)


class _Plain:
    """Prints a line now and then."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.printed = time.monotonic()

    def changed(self) -> None:
        now = time.monotonic()
        if now - self.printed >= PLAIN_INTERVAL_SECONDS:
            self.printed = now
            self.print()

    def print(self) -> None:
        self.watched.update()
        print(self.watched.line(), file=sys.stderr, flush=True)


@contextmanager
def live(ledger: Ledger, name: str, then: Callable[[], object] = lambda: None) -> Iterator[Callable[[], object]]:
    """Shows a study on standard error while the body runs it: a live view on a terminal, else a line now and then.

    Args:
        then: called as well whenever the study has a new event.

    Yields:
        What is to be called then.
    """
    watched = Watched(ledger, name)
    if not sys.stderr.isatty():
        plain = _Plain(watched)

        def changed() -> None:
            plain.changed()
            then()

        yield changed
        plain.print()
        return
    from rich.console import Console
    from rich.live import Live as Display

    console = Console(stderr=True)
    with Display(_Screen([watched]), console=console, refresh_per_second=REFRESHES_PER_SECOND):
        # The display looks into the ledger by itself.
        yield then


def show_studies(home: Home, name: str | None, as_json: bool = False) -> None:
    """Prints where one study or all stand: JSON, or a table for one and a line each for several.

    Raises:
        BadInput: there is no study of that name.
    """
    watched = _followed(home, name)
    if as_json:
        print(json.dumps([each.values() for each in watched], indent=1))
    elif name is None:
        print("\n".join(each.line() for each in watched) or "no study in this home yet")
    else:
        from rich.console import Console

        for each in watched:
            each.measure(USUAL_ROWS)
            Console().print(each.view(USUAL_ROWS))


def watch_studies(home: Home, name: str | None, as_json: bool = False) -> None:
    """Goes on showing one study or all until it is interrupted.

    Prints a JSON line per change with `as_json`; else a view on a terminal, or a line per change.

    Raises:
        BadInput: there is no study of that name.
    """
    watched = _followed(home, name)
    if sys.stdout.isatty() and not as_json:
        from rich.live import Live as Display

        with Display(_Screen(watched), refresh_per_second=REFRESHES_PER_SECOND, screen=True):
            while True:
                time.sleep(1)
    changed = list(watched)
    while True:
        for each in changed:
            print(json.dumps(each.values()) if as_json else each.line(), flush=True)
        time.sleep(1 / REFRESHES_PER_SECOND)
        changed = [each for each in watched if each.update()]


def _followed(home: Home, name: str | None) -> list[Watched]:
    ledger = Ledger(home.ledger)
    if name is not None:
        require_study(home, name)
    watched = [Watched(ledger, each) for each in ([name] if name else ledger.studies())]
    for each in watched:
        each.update()
    return watched
