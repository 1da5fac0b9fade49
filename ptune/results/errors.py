"""What the best fusion gets wrong, as sections of a page: classes, certainty, subjects, single clips.

Clips appear by their ids, which come from their content; subjects as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ptune import page
from ptune.metrics import PER_CLASS, stacked
from ptune.replay import StudyFacts
from ptune.results import plots
from ptune.results.error_plots import reliability_figure, subjects_figure
from ptune.results.fusion import Fusion
from ptune.results.stats import ESTIMABLE_SUBJECTS, class_subjects, pooled_confusion
from ptune.results.tables import percent

if TYPE_CHECKING:
    import pandas as pd

#: Clips that a table names.
MOST_CLIPS = 8


def errors_section(facts: StudyFacts, fusion: Fusion) -> str:
    """Returns confusion matrix, numbers of each class, reliability and errors by subject."""
    names = facts.config.grouping.names
    figure = plots.confusion_figure(pooled_confusion(fusion.frame, len(names)), names, fusion.name)
    rows = []
    for name, subjects in zip(names, class_subjects(fusion.frame, len(names)), strict=True):
        values = [fusion.metrics[f"{kind}.{name}"] for kind in PER_CLASS[:3]]
        shown = [percent(value) for value in values] if subjects >= ESTIMABLE_SUBJECTS else ["not estimable"] * 3
        rows.append([name, *shown, f"{fusion.metrics[f'support.{name}']:.0f}", str(subjects)])
    table = page.table(["class", "precision", "recall", "F1", "videos", "subjects"], rows)
    order = page.paragraph(
        f"Within one class: {percent(fusion.metrics['within_one'])} % of videos. "
        f"Mean absolute error {fusion.metrics['mae']:.2f} classes, quadratic kappa "
        f"{fusion.metrics['kappa_quadratic']:.2f}, rank correlation with the clinician's class "
        f"{fusion.metrics['spearman']:.2f}.",
        "soft",
    )
    upper = _pair(plots.svg(figure, "confusion", full=False), table + order)
    note = (
        "Left out of training, each video was predicted once. Dots are bins of equally many videos; below the dashed "
        "line predictions are surer than they are right."
    )
    sure = plots.svg(reliability_figure(fusion.frame), "reliability", full=False)
    lower = _pair(sure, page.paragraph(note, "caption"))
    strip = plots.svg(subjects_figure(fusion.frame, names), "subjects")
    below = page.paragraph("Each mark is a video: circles are right, triangles point to where it was seen.", "caption")
    return upper + lower + strip + below


def clips_section(fusion: Fusion, frames: Mapping[int, pd.DataFrame], class_names: Sequence[str]) -> str:
    """Returns the clips that the fusion finds hardest, and those on which its streams disagree most."""
    frame = fusion.frame
    chances = stacked(frame)
    labels = frame["label"].to_numpy(np.int64)
    own = chances[np.arange(len(frame)), labels]
    worst = _clips(frame, class_names, np.argsort(own, kind="stable"), own)
    text = page.paragraph("Lowest probability of the clinician's class:", "soft")
    text += page.table(["clip", "clinician", "predicted", "probability of the clinician's class"], worst)
    members = [frames[member.trial].sort_values("video_id") for member in fusion.members]
    if len(members) > 1:
        grades = np.stack([stacked(member) @ np.arange(len(class_names)) for member in members])
        apart = np.ptp(grades, axis=0)
        disputed = _clips(frame, class_names, np.argsort(-apart, kind="stable"), apart)
        text += page.paragraph("Largest gap between the streams' expected classes:", "soft")
        text += page.table(["clip", "clinician", "predicted", "classes apart"], disputed)
    return text


def _clips(frame: pd.DataFrame, class_names: Sequence[str], order: np.ndarray, value: np.ndarray) -> list[list[str]]:
    predicted = stacked(frame).argmax(1)
    return [
        [
            str(frame["video_id"].iloc[place]),
            class_names[int(frame["label"].iloc[place])],
            class_names[int(predicted[place])],
            f"{value[place]:.2f}",
        ]
        for place in order[:MOST_CLIPS].tolist()
    ]


def _pair(left: str, right: str) -> str:
    return f'<div class="pair"><div>{left}</div><div>{right}</div></div>'
