"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere.

Knows nothing of what the work is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_INTERVAL_SECONDS = 10.0


def say(text: str) -> None:
    """Tells people one thing about work that goes on."""
    print(text, file=sys.stderr, flush=True)


class Bar(Protocol):
    """Counts work done."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Adds `count` finished units; `note` replaces the text behind the bar."""


class _PlainBar:
    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.start = self.printed = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.printed < PLAIN_INTERVAL_SECONDS:
            return
        self.printed = now
        elapsed = now - self.start
        left = elapsed / max(self.done, 1) * max(self.total - self.done, 0)
        text = f"{self.title}: {self.done}/{self.total}, {elapsed:.0f} s, {left:.0f} s left"
        say(text + (f", {note}" if note else ""))


@contextmanager
def progress(title: str, total: int) -> Iterator[Bar]:
    """Yields a bar on standard error for `total` units of work."""
    if not sys.stderr.isatty():
        yield _PlainBar(title, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(title, total=total, note="")

        class _RichBar:
            def advance(self, count: int = 1, note: str = "") -> None:
                display.update(task, advance=count, note=note)

        yield _RichBar()
