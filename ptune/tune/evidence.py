"""Out-of-fold predictions become a proper score per video, and two trials are compared on the same videos.

Knows nothing of rungs, trials or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from ptune.errors import FitFailed

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What a trial's predictions on a fold are worth.

    Args:
        videos: ids, N of them.
        subjects: of each video.
        losses: float64 [N], a proper score, lower is better.

    Raises:
        FitFailed: a loss is not finite; it would be neither better nor worse than any other.
    """

    videos: tuple[str, ...]
    subjects: tuple[str, ...]
    losses: Floats

    def __post_init__(self) -> None:
        if not np.isfinite(self.losses).all():
            raise FitFailed("predictions", "not finite", "probabilities of each video")


def evidence_of(rows: Sequence[Mapping[str, Any]], balanced: bool = False) -> Evidence:
    """Returns the ranked probability score of each video.

    Args:
        rows: with the keys video_id, subject, label and probabilities; all of one fold.
        balanced: every class of the fold weighs the same, however many videos it has.

    Source: Epstein 1969; squared differences of cumulated probabilities, so that a near miss on the severity scale
    costs less than a far one.
    """
    probabilities = np.array([row["probabilities"] for row in rows], np.float64)
    labels = np.array([row["label"] for row in rows])
    reached = np.arange(probabilities.shape[1]) >= labels[:, None]
    losses = ((probabilities.cumsum(1) - reached) ** 2)[:, :-1].sum(1)
    if balanced:
        counts = np.bincount(labels)
        losses *= len(labels) / np.count_nonzero(counts) / counts[labels]
    return Evidence(tuple(row["video_id"] for row in rows), tuple(row["subject"] for row in rows), losses)


def joined(parts: Sequence[Evidence]) -> Evidence:
    """Returns the evidence of several folds as one."""
    return Evidence(
        tuple(video for part in parts for video in part.videos),
        tuple(subject for part in parts for subject in part.subjects),
        np.concatenate([part.losses for part in parts]),
    )


def p_worse(mine: Evidence, other: Evidence) -> float:
    """Returns how surprising it would be, were both alike, that mine is this much worse: a one-sided p value.

    A t test over subjects of their mean difference, on the videos that both predicted. 1 where mine is at least as
    good everywhere, 0.5 where there are fewer than two subjects to compare on.
    """
    theirs = dict(zip(other.videos, other.losses.tolist(), strict=True))
    differences: dict[str, list[float]] = {}
    for video, subject, loss in zip(mine.videos, mine.subjects, mine.losses.tolist(), strict=True):
        if video in theirs:
            differences.setdefault(subject, []).append(loss - theirs[video])
    means = np.array([np.mean(values) for values in differences.values()])
    if len(means) < 2:
        return 0.5
    spread = means.std(ddof=1)
    if spread == 0:
        return float(means[0] <= 0)
    return float(special.stdtr(len(means) - 1, -means.mean() / (spread / np.sqrt(len(means)))))
