"""Predictions become figures of their errors: reliability, errors by subject, expected against true class.

Subjects are numbered in the order of their errors; nothing else of them is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptune.metrics import stacked
from ptune.results.plots import COLOURS, FAINT, INK, OTHER, grid

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BINS = 5
#: How far dots of equal errors lie apart, in subjects.
SPREAD = 0.28


def calibration(frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], float]:
    """Returns how sure predictions are and how often they are right, over bins of equal numbers of videos.

    Returns:
        mean probability of the predicted class and share of right answers, float64 [B]; videos in each bin, int64 [B];
        and the expected calibration error: the mean gap between both, weighted by videos.
    """
    probabilities = stacked(frame)
    sure = probabilities.max(1)
    right = (probabilities.argmax(1) == frame["label"].to_numpy()).astype(np.float64)
    parts = [part for part in np.array_split(np.argsort(sure, kind="stable"), BINS) if len(part)]
    said = np.array([sure[part].mean() for part in parts])
    true = np.array([right[part].mean() for part in parts])
    counts = np.array([len(part) for part in parts], np.int64)
    return said, true, counts, float(np.abs(said - true) @ counts / counts.sum())


def reliability_figure(frame: pd.DataFrame) -> Figure:
    """Draws how often predictions of each certainty are right; on the diagonal they are as sure as they may be."""
    said, true, counts, gap = calibration(frame)
    figure, (axes,) = grid(1, width=4.6, height=3.6, left=0.15, bottom=0.16, top=0.9, right=0.96)
    axes.plot([0, 1], [0, 1], color="#9aa5ae", linewidth=1, linestyle="--")
    axes.plot(said, true, "o-", color=COLOURS["rgb"], linewidth=1.4)
    for x, y, count in zip(said, true, counts, strict=True):
        axes.annotate(f"n={count}", (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    low = min(0.3, float(said.min()) - 0.05)
    axes.set(xlim=(low, 1.02), ylim=(-0.03, 1.12), xlabel="probability of the predicted class", ylabel="share right")
    axes.set_title(f"expected calibration error {gap:.2f}")
    axes.grid(color=FAINT, linewidth=0.6)
    return figure


def subjects_figure(frame: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Draws for each subject the error of each video, predicted minus true class; subjects with least errors first."""
    error = stacked(frame).argmax(1) - frame["label"].to_numpy(np.int64)
    names, codes = np.unique(frame["subject"].to_numpy(str), return_inverse=True)
    share = np.bincount(codes, error != 0, len(names)) / np.bincount(codes, minlength=len(names))
    order = np.argsort(share, kind="stable")
    most = len(class_names) - 1
    figure, (axes,) = grid(1, width=9.4, height=2.5, left=0.09, bottom=0.2, top=0.97, right=0.99)
    for place, code in enumerate(order):
        own = np.sort(error[codes == code])
        for value in np.unique(own):
            count = int((own == value).sum())
            across = place + (np.arange(count) - (count - 1) / 2) * min(SPREAD, 0.8 / count)
            colour = INK if value == 0 else OTHER[0] if value > 0 else COLOURS["flow"]
            mark = "o" if value == 0 else "^" if value > 0 else "v"
            axes.plot(across, np.full(count, value), mark, color=colour, markersize=4)
    axes.axhline(0, color="#9aa5ae", linewidth=0.8, zorder=0)
    axes.set_yticks(range(-most, most + 1), [f"{step:+d}" if step else "right" for step in range(-most, most + 1)])
    axes.set(xlim=(-0.7, len(names) - 0.3), ylim=(-most - 0.5, most + 0.5))
    axes.set(xlabel="subjects, least errors first", ylabel="classes off")
    axes.set_xticks(range(len(names)), [str(place + 1) for place in range(len(names))], fontsize=7)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    return figure
