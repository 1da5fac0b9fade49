"""A study in the ledger becomes one HTML page of figures: how the search went and what its settings did.

Shows counts, metrics and settings; no subject, path or file name. Knows nothing of Optuna or MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ptune import page
from ptune.replay import Baseline, StudyFacts, TrialFacts
from ptune.results import plots
from ptune.results.fusion import Fusion
from ptune.results.tables import caption, study_table, trial_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FILE_NAME = "overview.html"
MOST_CURVES = 12
OUTCOMES = ("finished", "stopped", "failed", "running")
MEANING = {
    "finished": "all folds",
    "stopped": "by the race, before all folds",
    "failed": "by an error",
    "running": "not ended yet",
}


def overview_page(
    facts: StudyFacts,
    frames: Mapping[int, pd.DataFrame],
    fusion: Fusion | None,
    importance: Mapping[str, float] | None,
    baselines: Sequence[Baseline] = (),
) -> str:
    """Returns the page.

    Args:
        frames: out-of-fold tables by trial number.
        importance: share of the objective's variance by setting; None where it cannot be estimated.
        baselines: rows to compare them with.
    """
    metric = facts.config.objective.metric
    ranked = [*facts.finished(), *(trial for trial in facts.trials.values() if trial.state != "finished")]
    sections = [
        ("Search", plots.svg(plots.history_figure(facts), "history") + _HISTORY),
        ("Which settings matter", importance_section(facts, importance)),
        ("Settings of each trial", _parallel(facts, metric)),
        ("Learning curves", plots.svg(plots.curves_overview(ranked[:MOST_CURVES], metric), "curves") + _CURVES),
        ("Time", _outcomes(facts)),
    ]
    if frames:
        sections.append(("Finished trials and fusions", study_table(facts, frames, fusion, baselines).html()))
    return page.page(f"Study {facts.config.study}: overview", caption(facts, frames), sections)


_HISTORY = page.paragraph(
    "Filled: pooled over all folds. Crosses were stopped and squares failed, at their last validation value, which is "
    "not comparable with a pooled one; open circles are running. A mark on the axis broke before its first epoch.",
    "caption",
)
_CURVES = page.paragraph(
    f"Validation by epoch, thin per fold, bold their mean. Finished trials first, at most {MOST_CURVES}.", "caption"
)


def importance_section(facts: StudyFacts, importance: Mapping[str, float] | None) -> str:
    """Returns the share of the objective's variance that each setting has, or why there is none."""
    done = len(facts.finished())
    if not importance:
        text = f"Not estimable from {done} finished trials: at least 8 with settings that differ are needed."
        return page.paragraph(text)
    note = (
        f"Share of the objective's variance over {done} finished trials (fANOVA); with so few trials a hint, "
        "no more. Settings that only some trials have are left out."
    )
    return plots.svg(_importance_figure(importance), "importance", full=False) + page.paragraph(note, "caption")


def _importance_figure(importance: Mapping[str, float]) -> Figure:
    names = list(importance)[::-1]
    height = 0.34 * len(names) + 0.6
    figure, (axes,) = plots.grid(1, width=7.0, height=height, left=0.22, bottom=0.42 / height, top=0.98, right=0.95)
    axes.barh(names, [100 * importance[name] for name in names], color=plots.COLOURS["rgb"], height=0.6)
    for row, name in enumerate(names):
        axes.text(100 * importance[name] + 0.8, row, f"{100 * importance[name]:.0f}", va="center", fontsize=8)
    axes.set(xlabel="percent of variance")
    axes.tick_params(axis="y", length=0)
    return figure


def _parallel(facts: StudyFacts, metric: str) -> str:
    done = facts.finished()
    if not done:
        return page.paragraph("No trial has finished yet.")
    figure = _parallel_figure(done, facts.config.varied, plots.WORDS.get(metric, metric))
    note = "One line per finished trial, coloured by the objective; a line ends where a setting does not apply."
    return plots.svg(figure, "parallel") + page.paragraph(note, "caption")


def _parallel_figure(trials: Sequence[TrialFacts], names: Sequence[str], objective: str) -> Figure:
    from matplotlib import colormaps

    columns: list[tuple[str, list[Any]]] = [
        (name, [trial.params.get(name) for trial in trials])
        for name in names
        if any(name in trial.params for trial in trials)
    ]
    columns.append((objective, [trial.value for trial in trials]))
    figure, (axes,) = plots.grid(1, width=9.4, height=3.6, left=0.06, bottom=0.12, top=0.94, right=0.94)
    heights = np.array([_axis(axes, place, values) for place, (_, values) in enumerate(columns)])
    shade = colormaps["viridis_r"]
    for trial in range(len(trials) - 1, -1, -1):
        colour = shade(0.1 + 0.85 * heights[-1, trial])
        axes.plot(range(len(columns)), heights[:, trial], color=colour, linewidth=1.4, alpha=0.85)
    axes.set_xticks(range(len(columns)), [name for name, _ in columns])
    axes.set(yticks=[], ylim=(-0.05, 1.05), xlim=(-0.35, len(columns) - 0.65))
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=6)
    return figure


def _axis(axes: Any, place: int, values: Sequence[Any]) -> list[float]:
    """Draws one vertical axis with its labels and returns the height of each value in 0 to 1, NaN for none."""
    present = [value for value in values if value is not None]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    axes.axvline(place, 0.045, 0.955, color=plots.FAINT, linewidth=1, zorder=0)
    if numeric:
        low, high = min(present), max(present)
        log = low > 0 and high / low > 50
        scaled = [np.nan if value is None else np.log(value) if log else float(value) for value in values]
        bottom, span = np.nanmin(scaled), np.ptp([value for value in scaled if not np.isnan(value)])
        heights = [0.5 if span == 0 and not np.isnan(value) else (value - bottom) / (span or 1) for value in scaled]
        ticks = [(0.5, low)] if span == 0 else [(0.0, low), (1.0, high)]
        labels = [(height, f"{value:.3g}") for height, value in ticks]
    else:
        order = sorted(set(present), key=str)
        where = {value: index / max(len(order) - 1, 1) for index, value in enumerate(order)}
        heights = [np.nan if value is None else where[value] for value in values]
        words = {True: "yes", False: "no"}
        labels = [(where[value], words.get(value, str(value))) for value in order]
    for height, text in labels:
        axes.text(place + 0.02, height, text, va="center", fontsize=8, color=plots.INK, backgroundcolor="#ffffffb0")
    return heights


def _outcomes(facts: StudyFacts) -> str:
    total = sum(trial.seconds for trial in facts.trials.values())
    rows = []
    for state in OUTCOMES:
        found = [trial for trial in facts.trials.values() if trial.state == state]
        if found:
            seconds = sum(trial.seconds for trial in found)
            fits = sum(len(trial.fits) for trial in found)
            share = f"{100 * seconds / total:.0f}" if total else ""
            rows.append([f"{state} ({MEANING[state]})", str(len(found)), str(fits), f"{seconds / 3600:.2f}", share])
    headings = ["outcome", "trials", "whole fits", "GPU-hours", "percent"]
    slow = max(facts.trials.values(), key=lambda trial: trial.seconds)
    note = "Hours that fits held their device, one per fit; on a machine without GPU they are hours of its processor."
    if slow.seconds:
        note += f" Longest: {trial_name(slow)}, {slow.seconds / 3600:.2f} hours."
    return page.table(headings, rows) + page.paragraph(note, "caption")
