"""Streams become one prediction: the plain average of their probabilities on the same videos.

Knows nothing of training; a fusion is computed from what the ledger holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ptune.config import Modality
from ptune.errors import BadInput
from ptune.ledger import Ledger
from ptune.metrics import score_frame, stacked
from ptune.replay import StudyFacts, out_of_fold
from ptune.results.stats import Corrected, bbc_cv, why_not_comparable

if TYPE_CHECKING:
    import pandas as pd

MODALITIES: tuple[str, ...] = get_args(Modality)
#: Values this close are a tie.
TIE = 1e-9


@dataclass(frozen=True)
class Combination:
    """One fusion that was tried: the trial of each modality and the metrics of their average."""

    members: dict[str, int]
    metrics: dict[str, float]

    @property
    def name(self) -> str:
        """The modalities, as in the paper's tables: `flow + mb`."""
        return " + ".join(self.members)


@dataclass(frozen=True)
class Fusion:
    """The best fusion of a study and all others that were tried.

    Args:
        members: trial number of each modality that takes part.
        frame: its out-of-fold predictions, as `fuse` returns them.
        value: the metric it was chosen by.
        tried: every combination, in the order of the paper's table: single streams first.
        missing: modalities without a finished trial.
    """

    members: dict[str, int]
    frame: pd.DataFrame
    metric: str
    value: float
    tried: tuple[Combination, ...]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The modalities: `flow + mb`."""
        return " + ".join(self.members)

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of the chosen combination."""
        return next(item.metrics for item in self.tried if item.members == self.members)

    def decision(self) -> dict[str, Any]:
        """Returns the content of the `decided` event that records this choice."""
        return {"what": "fusion", "members": self.members, "metric": self.metric, "metrics": self.metrics}


def fuse(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Returns the late fusion of streams: columns video_id, subject, fold, score, label and mean probabilities.

    Rows are sorted by video id. Attention belongs to one stream and is left out.

    Args:
        frames: one table per stream, as `ptune.replay.out_of_fold` returns it.

    Raises:
        BadInput: the streams saw different videos, folds or labels; says which.

    Source: section 4.2 and figure 4, "average over all predicted scores".
    """
    if not frames:
        raise BadInput("fusion", "no stream", "at least one")
    ordered = [frame.sort_values("video_id", ignore_index=True) for frame in frames]
    first = ordered[0]
    for number, other in enumerate(ordered[1:], 2):
        problem = why_not_comparable(first, other, ("stream 1", f"stream {number}"))
        if problem:
            raise BadInput(
                "fusion",
                problem,
                "the same videos, subjects, folds and labels in every stream, each video once",
                "Fuse trials of one study that finished on the same cohort.",
            )
    mean = np.mean([stacked(frame) for frame in ordered], axis=0)
    return first[["video_id", "subject", "fold", "score", "label"]].assign(probabilities=list(mean))


def choose_fusion(
    candidates: Mapping[str, Sequence[tuple[int, pd.DataFrame]]],
    metric: str,
    class_names: Sequence[str],
    fewest_streams: int = 1,
) -> Fusion:
    """Returns the best fusion over all non-empty sets of modalities, each represented by its own best trial.

    Three modalities give the paper's seven combinations. Ties go to fewer streams, then to the earlier modality.
    The value of the chosen fusion is optimistic: it was picked on the data that it is measured on. The
    bias-corrected estimate is a matter of statistics over the whole search, not of this function.

    Args:
        candidates: finished trials of each modality, as (trial number, out-of-fold table).
        metric: a key of `ptune.metrics.score`; larger is better.
        class_names: M names.
        fewest_streams: smaller sets are tried, and not chosen; where there are fewer modalities, all of them are.

    Raises:
        BadInput: there is no candidate at all, or streams differ in videos, folds or labels.
    """
    best: dict[str, tuple[int, pd.DataFrame]] = {}
    known = [*MODALITIES, *(name for name in candidates if name not in MODALITIES)]
    for modality in known:
        scored = [
            (score_frame(frame, class_names)[metric], number, frame) for number, frame in candidates.get(modality, ())
        ]
        if scored:
            _, number, frame = min(scored, key=lambda item: (-item[0], item[1]))
            best[modality] = number, frame
    if not best:
        raise BadInput("fusion", "no finished trial", "one in at least one modality", "Let the sweep finish a trial.")
    tried, frames = [], []
    for size in range(1, len(best) + 1):
        for members in combinations(best, size):
            frame = fuse([best[modality][1] for modality in members])
            frames.append(frame)
            tried.append(Combination({name: best[name][0] for name in members}, score_frame(frame, class_names)))
    smallest = min(fewest_streams, len(best))
    chosen = next(index for index, item in enumerate(tried) if len(item.members) >= smallest)
    for index, item in enumerate(tried[chosen:], chosen):
        if item.metrics[metric] > tried[chosen].metrics[metric] + TIE:
            chosen = index
    value = tried[chosen].metrics[metric]
    missing = tuple(name for name in known if name not in best)
    return Fusion(tried[chosen].members, frames[chosen], metric, value, tuple(tried), missing)


def study_frames(facts: StudyFacts, ledger: Ledger) -> dict[int, pd.DataFrame]:
    """Returns the out-of-fold table of every finished trial by its number, best trial first."""
    return {trial.number: out_of_fold(ledger, trial) for trial in facts.finished()}


def study_fusion(facts: StudyFacts, frames: Mapping[int, pd.DataFrame]) -> Fusion | None:
    """Returns the best fusion of a study by its own objective, or None while no trial has finished.

    Args:
        frames: as `study_frames` returns them.
    """
    if not frames:
        return None
    config = facts.config
    candidates = {modality: list(trials.items()) for modality, trials in by_modality(facts, frames).items()}
    return choose_fusion(candidates, config.objective.metric, config.grouping.names, config.ensemble.fewest_streams)


def by_modality(facts: StudyFacts, frames: Mapping[int, pd.DataFrame]) -> dict[str, dict[int, pd.DataFrame]]:
    """Returns the tables of trials by number under their modality, in the order of the paper's table."""
    found: dict[str, dict[int, pd.DataFrame]] = {modality: {} for modality in MODALITIES}
    for number, frame in frames.items():
        found[facts.stream(facts.trials[number]).modality][number] = frame
    return {modality: trials for modality, trials in found.items() if trials}


def study_corrected(facts: StudyFacts, frames: Mapping[int, pd.DataFrame]) -> Corrected:
    """Returns the corrected score of the fusion that `study_fusion` chooses, by the study's own objective.

    Args:
        frames: as `study_frames` returns them, at least one.
    """
    config = facts.config
    fewest = config.ensemble.fewest_streams
    return bbc_cv(by_modality(facts, frames), config.objective.metric, config.grouping.names, fewest)
