"""The state of a study becomes what a terminal shows of it: budgets, counts and the trials that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ptune.replay import StudyFacts, TrialFacts
from ptune.results.status import (
    Standing,
    amount,
    duration,
    present_trials,
    standing,
    state_of,
)

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType

Interval = tuple[float, float]

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

    short = short_names([name for name in facts.config.varied if name != "modality"])
    legend = ", ".join(f"{brief} {name}" for name, brief in short.items() if brief != name)
    shown = shown_first(trials)[:rows]
    hidden = len(trials) - len(shown)
    caption = "; ".join(
        ([f"{hidden} more trial{'' if hidden == 1 else 's'}"] if hidden else []) + ([legend] if legend else [])
    )
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left", expand=True
    )
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
        found[name] = name if brief in [*found.values(), *names] else brief
    return found


def _brief(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _written(interval: Interval) -> str:
    return "–".join(f"{bound:.2f}" for bound in interval)
