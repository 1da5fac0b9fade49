"""Numbers become figures: confusion matrix, learning curves, history of a search, attention over time.

Draws on matplotlib figures of its own, never on a global one; shows counts and metrics, no subject and no pixel.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptune.replay import StudyFacts, TrialFacts
from ptune.results.tables import trial_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"rgb": "#0072b2", "flow": "#d55e00", "mb": "#009e73"}
OTHER = ("#cc79a7", "#7f6a00", "#56b4e9", "#5b5b5b")
INK, FAINT = "#22303c", "#d9dfe4"
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.edgecolor": "#9aa5ae",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "legend.frameon": False,
}
TIME_BINS = 24
#: matplotlib's settings are one per process, and figures are drawn beside a sweep.
_STYLING = threading.RLock()
#: How trials that did not finish are drawn in a history.
MARKS = {"stopped": "x", "failed": "s", "running": "o"}
#: How metrics are called on axes.
WORDS = {
    "f1_weighted": "weighted F1",
    "f1_macro": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "kappa_quadratic": "quadratic kappa",
}


def colour_of(modality: str) -> str:
    """Returns the colour that a modality has in every plot."""
    return COLOURS.get(modality, OTHER[sum(modality.encode()) % len(OTHER)])


def png(figure: Figure) -> bytes:
    """Returns a figure as PNG bytes at 120 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str, full: bool = True) -> str:
    """Returns a figure as an SVG element; `name` keeps its ids apart from those of others on the page.

    Args:
        full: as wide as the page.
    """
    import matplotlib

    buffer = io.StringIO()
    with _STYLING, matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("<svg ", '<svg class="full" ', 1) if full else text
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def confusion_figure(matrix: NDArray[np.int64], class_names: Sequence[str], title: str = "") -> Figure:
    """Draws counts int [M,M] with the share of each true class; rows are true classes."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure, (axes,) = grid(1, width=4.6, height=3.9, left=0.26, bottom=0.17, top=0.88, right=0.97)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names)
    axes.set_yticks(ticks, [f"{name}\n(n={total})" for name, total in zip(class_names, matrix.sum(1), strict=True)])
    for row in ticks:
        for column in ticks:
            share = shares[row, column]
            text = f"{matrix[row, column]}\n{100 * share:.0f} %"
            axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.55 else INK, fontsize=10)
    axes.set(xlabel="predicted", ylabel="clinician", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@dataclass(frozen=True)
class Gain:
    """One row of a forest plot: a difference with its interval, and whether a corrected test supports it."""

    name: str
    difference: float
    low: float
    high: float
    supported: bool


def forest_figure(gains: Sequence[Gain], label: str) -> Figure:
    """Draws differences with their intervals under each other; filled dots are supported by the corrected test."""
    height = 0.3 * len(gains) + 0.75
    figure, (axes,) = grid(
        1, width=9.4, height=height, left=0.36, bottom=0.45 / height, top=1 - 0.1 / height, right=0.98
    )
    for place, gain in enumerate(reversed(gains)):
        axes.plot([gain.low, gain.high], [place, place], color=INK, linewidth=1.2)
        face = COLOURS["rgb"] if gain.supported else "white"
        axes.plot(gain.difference, place, "o", color=COLOURS["rgb"], markerfacecolor=face, markersize=6)
    axes.axvline(0, color="#9aa5ae", linewidth=1)
    axes.set_yticks(range(len(gains)), [gain.name for gain in reversed(gains)])
    axes.set(xlabel=label, ylim=(-0.7, len(gains) - 0.3))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    return figure


def learning_curves(trial: TrialFacts, metric: str) -> Figure:
    """Draws training loss and the validation metric of each fold of one trial over epochs."""
    figure, (left, right) = grid(2, width=7.6, height=2.9, left=0.075, bottom=0.17, top=0.87, right=0.985, gap=0.2)
    for fold in sorted({report.fold for report in trial.reports}):
        reports = [report for report in trial.reports if report.fold == fold]
        shade = OTHER[fold % len(OTHER)] if fold >= 3 else list(COLOURS.values())[fold]
        losses = [(report.epoch, report.metrics["loss"]) for report in reports if "loss" in report.metrics]
        if losses:
            left.plot(*zip(*losses, strict=True), color=shade, label=f"fold {fold}")
        epochs, values = [report.epoch for report in reports], [report.value for report in reports]
        right.plot(epochs, values, color=shade, label=f"fold {fold}")
    for axes in (left, right):
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
    left.set(xlabel="epoch", title=f"{trial_name(trial)}: training loss")
    right.set(xlabel="epoch", title=f"validation {WORDS.get(metric, metric)}")
    if trial.reports:
        right.legend(fontsize=8, frameon=False)
    return figure


def curves_overview(trials: Sequence[TrialFacts], metric: str) -> Figure:
    """Draws one small panel per trial: the validation metric over epochs, folds thin and their mean bold."""
    columns = min(4, max(len(trials), 1))
    rows = -(-max(len(trials), 1) // columns)
    margin = 0.55 / (2.0 * rows + 0.5)
    figure, panels = grid(
        columns, rows, 9.4, 2.0 * rows + 0.5, left=0.06, bottom=margin, top=1 - 0.6 * margin, right=0.99, gap=0.16
    )
    values = [report.value for trial in trials for report in trial.reports]
    for axes, trial in zip(panels, trials, strict=False):
        colour = colour_of(trial.group)
        by_fold: dict[int, dict[int, float]] = {}
        for report in trial.reports:
            by_fold.setdefault(report.fold, {})[report.epoch] = report.value
        for curve in by_fold.values():
            axes.plot(list(curve), list(curve.values()), color=colour, alpha=0.35, linewidth=0.9)
        shared = sorted(set.intersection(*map(set, by_fold.values()))) if by_fold else []
        axes.plot(shared, [np.mean([curve[epoch] for curve in by_fold.values()]) for epoch in shared], color=colour)
        axes.set_title(trial_name(trial))
        if values:
            axes.set_ylim(min(values) - 0.05, max(values) + 0.05)
    for index, axes in enumerate(panels):
        axes.set_visible(index < len(trials))
        axes.locator_params(axis="x", integer=True, nbins=5)
        if index % columns == 0:
            axes.set_ylabel(WORDS.get(metric, metric))
        else:
            axes.tick_params(labelleft=False)
        if index + columns >= len(trials):
            axes.set_xlabel("epoch")
    return figure


def history_figure(facts: StudyFacts) -> Figure:
    """Draws the pooled objective of each finished trial, the best so far, and where the others stood."""
    figure, (axes,) = grid(1, width=9.4, height=3.2, left=0.06, bottom=0.15, top=0.97, right=0.86)
    on_axis = axes.get_xaxis_transform()
    best: list[tuple[int, float]] = []
    for trial in sorted(facts.trials.values(), key=lambda item: item.number):
        colour = colour_of(trial.group)
        if trial.state == "finished" and trial.value is not None:
            axes.plot(trial.number, trial.value, "o", color=colour, markersize=7, zorder=3, label=trial.group)
            best.append((trial.number, max(trial.value, best[-1][1] if best else trial.value)))
        else:
            value, where = (trial.reports[-1].value, axes.transData) if trial.reports else (0.0, on_axis)
            face = colour if trial.state == "stopped" else "white"
            style: dict[str, Any] = {"color": colour, "markerfacecolor": face, "markersize": 6, "alpha": 0.8}
            axes.plot(
                trial.number, value, MARKS[trial.state], transform=where, label=f"{trial.group}, {trial.state}", **style
            )
    if best:
        last = max(facts.trials)
        steps = [*best, (last, best[-1][1])]
        axes.step(*zip(*steps, strict=True), where="post", color=INK, linewidth=1, alpha=0.6, label="best so far")
    metric = facts.config.objective.metric
    axes.set(xlabel="trial", ylabel=f"{WORDS.get(metric, metric)}")
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    unique = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(unique.values(), unique.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return figure


def attention_figure(streams: Mapping[str, pd.DataFrame], class_names: Sequence[str]) -> Figure | None:
    """Draws mean attention over relative time, one panel per stream, one line per true class.

    Args:
        streams: out-of-fold tables with the column attention, by the name of the stream.

    Returns:
        None when no stream has attention that varies.
    """
    found = {name: _attention_curves(frame) for name, frame in streams.items()}
    curves = {name: value for name, value in found.items() if value is not None and np.ptp(value) > 1e-6}
    if not curves:
        return None
    figure, panels = grid(len(curves), width=9.4, height=2.9, left=0.06, bottom=0.17, top=0.87, right=0.86, gap=0.12)
    time = (np.arange(TIME_BINS) + 0.5) / TIME_BINS * 100
    shades = ("#7fb8da", "#3a7ca5", "#16324f", "#d55e00", "#cc79a7")
    for axes, (name, curve_NT) in zip(panels, curves.items(), strict=True):
        labels = streams[name]["label"].to_numpy()
        for index, class_name in enumerate(class_names):
            rows = curve_NT[labels == index]
            if len(rows):
                axes.plot(time, rows.mean(0), color=shades[index % len(shades)], label=f"{class_name} (n={len(rows)})")
        axes.set(xlabel="relative time, percent of the video", title=name, xlim=(0, 100))
        axes.set_xticks([0, 25, 50, 75, 100])
        if axes is not panels[0]:
            axes.tick_params(labelleft=False)
    limits = [limit for axes in panels for limit in axes.get_ylim()]
    for axes in panels:
        axes.set_ylim(min(limits), max(limits))
    panels[0].set_ylabel("mean attention")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return figure


def _attention_curves(frame: pd.DataFrame) -> NDArray[np.float64] | None:
    """Returns the attention of each video on a common relative time, float64 [N,TIME_BINS]."""
    if "attention" not in frame or not all(row is not None and len(row) for row in frame["attention"]):
        return None
    time = (np.arange(TIME_BINS) + 0.5) / TIME_BINS
    rows = [np.asarray(row, np.float64) for row in frame["attention"]]
    return np.stack([np.interp(time, (np.arange(len(row)) + 0.5) / len(row), row) for row in rows])


def grid(
    columns: int,
    rows: int = 1,
    width: float = 7.0,
    height: float = 3.0,
    *,
    left: float,
    bottom: float,
    top: float,
    right: float,
    gap: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Returns a white figure of rows x columns panels in the common style; sizes in inches, margins as shares."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _STYLING, matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=left, bottom=bottom, top=top, right=right, wspace=gap, hspace=0.55)
    return figure, list(axes.flat)
