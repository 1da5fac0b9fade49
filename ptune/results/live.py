"""The state of a study becomes what a terminal shows of it: budgets, counts and the trials that fit.

Reads the ledger only: whoever runs the study and whoever watches it from another shell see the same.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ptune.home import Home
from ptune.ledger import Ledger
from ptune.progress import PLAIN_INTERVAL_SECONDS
from ptune.replay import Follower, StudyFacts, TrialFacts, out_of_fold
from ptune.results.stats import cluster_interval
from ptune.results.status import (
    Standing,
    amount,
    duration,
    plain_line,
    present_trials,
    require_study,
    standing,
    state_of,
    status_facts,
)

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType

Interval = tuple[float, float]

REFRESHES_PER_SECOND = 2.0
#: Lines of a view without its trials, and rows where the height of the terminal is not known.
OTHER_LINES, USUAL_ROWS = 12, 20
#: Headings and the width of each, 0 for what takes the rest.
COLUMNS = (
    ("#", 3),
    ("data", 4),
    ("settings", 0),
    ("state", 8),
    ("fold", 4),
    ("epoch", 7),
    ("objective", 9),
    ("95 %", 9),
)
STYLES = {"running": "cyan", "finished": "green", "waiting": "", "stopped": "dim", "failed": "red"}


def study_view(
    facts: StudyFacts,
    launch_seconds: float | None = None,
    intervals: Mapping[int, Interval] | None = None,
    rows: int = USUAL_ROWS,
) -> RenderableType:
    """Returns what a terminal shows of a study.

    Args:
        launch_seconds: as in `standing`.
        intervals: of the objective of finished trials, by number.
        rows: at most so many trials.
    """
    from rich.console import Group
    from rich.text import Text

    intervals = intervals or {}
    config, found = facts.config, standing(facts, launch_seconds)
    cohort = facts.cohort
    lines: list[RenderableType] = [
        Text.assemble(
            (config.study, "bold"),
            f"  {config.task}: {cohort['videos']} videos of {cohort['subjects']} subjects, {config.folds.count} folds",
        ),
        _best_line(facts, intervals),
        _bars(found),
        _counts_line(found),
        *(
            Text(f"last {state}: {reason}", style="dim", no_wrap=True, overflow="ellipsis")
            for state, reason in found.last_reasons.items()
        ),
    ]
    trials = present_trials(facts)
    if trials:
        lines += [_table(facts, trials, intervals, rows)]
    return Group(*lines)


def shown_first(trials: list[TrialFacts]) -> list[TrialFacts]:
    """Returns running trials, then finished ones best first, then waiting ones, then the latest that ended early."""
    places = {"running": 0, "finished": 1, "waiting": 2, "stopped": 3, "failed": 3}

    def rank(trial: TrialFacts) -> tuple[float, ...]:
        state = state_of(trial)
        last = trial.reports[-1].value if trial.reports else 0.0
        within = {"running": trial.number, "finished": -(trial.value or 0.0), "waiting": -last}
        return places[state], within.get(state, -trial.number), trial.number

    return sorted(trials, key=rank)


def _best_line(facts: StudyFacts, intervals: Mapping[int, Interval]) -> RenderableType:
    from rich.text import Text

    best = facts.finished()[:1]
    if not best:
        return Text("no trial has finished yet", style="dim")
    trial = best[0]
    text = Text.assemble("best ", (f"{facts.config.objective.metric} {trial.value:.3f}", "bold green"))
    if trial.number in intervals:
        text.append(f" (95 % interval {_written(intervals[trial.number])})")
    return text.append(f", trial {trial.number} {trial.group}")


def _bars(found: Standing) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for budget in found.budgets:
        bar = (
            ProgressBar(total=budget.limit, completed=min(budget.used, budget.limit), width=28) if budget.limit else ""
        )
        table.add_row(budget.unit, bar, amount(budget).removesuffix(f" {budget.unit}"))
    return table


def _counts_line(found: Standing) -> RenderableType:
    from rich.text import Text

    text = Text()
    for state, style in STYLES.items():
        if found.counts.get(state):
            text.append(f"{', ' if text else ''}{found.counts[state]} {state}", style)
    if found.hours_left is not None:
        text.append(f"{'; ' if text else ''}about {duration(found.hours_left)} left")
    return text or Text("no trial yet", style="dim")


def _table(facts: StudyFacts, trials: list[TrialFacts], intervals: Mapping[int, Interval], rows: int) -> RenderableType:
    from rich import box
    from rich.table import Table

    short = short_names([name for name in facts.config.space if name != "modality"])
    legend = ", ".join(f"{brief} {name}" for name, brief in short.items() if brief != name)
    shown = shown_first(trials)[:rows]
    hidden = len(trials) - len(shown)
    caption = "; ".join(([f"{hidden} more trials"] if hidden else []) + ([legend] if legend else []))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left", expand=True)
    for heading, width in COLUMNS:
        justify: JustifyMethod = "left" if heading in ("data", "settings", "state") else "right"
        share = None if width else 1
        table.add_column(
            heading, justify=justify, no_wrap=True, overflow="ellipsis", min_width=width or None, ratio=share
        )
    for trial in shown:
        state = state_of(trial)
        fold, epoch = _place(facts, trial)
        value = trial.value if trial.value is not None else trial.reports[-1].value if trial.reports else None
        number = "" if value is None else f"{value:.3f}"
        interval = _written(intervals[trial.number]) if trial.number in intervals else ""
        settings = " ".join(f"{short[name]} {_brief(value)}" for name, value in trial.params.items() if name in short)
        table.add_row(
            str(trial.number), trial.group, settings, state, fold, epoch, number, interval, style=STYLES[state]
        )
    return table


def _place(facts: StudyFacts, trial: TrialFacts) -> tuple[str, str]:
    """Returns which of its folds a trial is in, counted in the order in which it runs them, and which epoch."""
    folds = facts.config.folds.count
    if trial.state == "finished":
        return f"{folds}/{folds}", ""
    begun = min(len(trial.fits) + 1, folds)
    epoch = trial.reports[-1].epoch if trial.reports and trial.reports[-1].fold not in trial.fits else 0
    return f"{begun}/{folds}", f"{epoch}/{facts.stream(trial).epochs}"


def short_names(names: list[str]) -> dict[str, str]:
    """Returns what settings are called where there is little room: initials, or three letters; all differ."""
    found: dict[str, str] = {}
    for name in names:
        words = name.replace(".", "_").split("_")
        brief = "".join(word[0] for word in words) if len(words) > 1 else name[:3]
        found[name] = name if brief in found.values() else brief
    return found


def _brief(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _written(interval: Interval) -> str:
    return "–".join(f"{bound:.2f}" for bound in interval)


class Watched:
    """One study as it is followed: its state, and intervals of what has finished, each computed once.

    Args:
        ledger: read, never written.
        launched: gives when the launch that runs the study began, in seconds of `clock`; None where none runs.
        clock: seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        launched: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.ledger, self.launched, self.clock = name, ledger, launched, clock
        self.follower = Follower(ledger.study(name))
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
        """How long the present launch runs."""
        launched = self.launched()
        return None if launched is None else self.clock() - launched

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


class Live:
    """Shows a study while it runs."""

    def changed(self) -> None:
        """Tells that the ledger has something new; may be called after every event."""


class _Plain(Live):
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
def live(ledger: Ledger, name: str) -> Iterator[Live]:
    """Shows a study on standard error while the body runs it: a live view on a terminal, else a line now and then."""
    start = time.time()
    watched = Watched(ledger, name, lambda: start)
    if not sys.stderr.isatty():
        plain = _Plain(watched)
        yield plain
        plain.print()
        return
    from rich.console import Console
    from rich.live import Live as Display

    console = Console(stderr=True)
    with Display(_Screen([watched]), console=console, refresh_per_second=REFRESHES_PER_SECOND):
        # The display looks into the ledger by itself.
        yield Live()


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
