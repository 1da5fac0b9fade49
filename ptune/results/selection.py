"""The score of what was chosen as the best, without the optimism of having chosen it on the same videos.

Bootstrap bias correction (Tsamardinos, Greasidou and Borboudakis 2018): out-of-fold predictions of all candidates are
there already; subjects are resampled, the whole choice (which trial of each modality, which fusion of those) is made
on the resample, and what was chosen is scored on the subjects that the resample left out. Nothing is trained.

Trials that a race stopped have no predictions on all videos and can be chosen in no resample; that the race looked at
the same subjects is not corrected for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptune.metrics import METRICS, from_confusion, stacked
from ptune.replay import StudyFacts
from ptune.results.fusion import by_modality

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

DRAWS = 10_000
CHUNK = 500
TIE = 1e-9


@dataclass(frozen=True)
class Corrected:
    """A choice and its score.

    Args:
        members: candidate of each modality that was chosen on all subjects.
        naive: its pooled score on all subjects, which it was chosen by.
        corrected: mean score of what each resample chose, on the subjects it left out.
        interval: percentiles of those scores.
        stability: share of resamples that chose the same members.
    """

    members: Mapping[str, int]
    naive: float
    corrected: float
    interval: tuple[float, float]
    stability: float


def corrected_score(
    candidates: Mapping[str, Mapping[int, pd.DataFrame]],
    metric: str,
    class_names: Sequence[str],
    fewest_streams: int = 1,
    level: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
) -> Corrected:
    """Returns the score of choosing the best trial of each modality and then their best fusion.

    Args:
        candidates: finished trials of each modality: number and out-of-fold table, all of the same videos, with columns
            video_id, subject, label, probabilities.
        metric: one of `ptune.metrics.METRICS`.
        fewest_streams: smaller sets of modalities are not chosen.
        level: coverage of the interval.
        seed, draws: of resampled subjects.

    Raises:
        ValueError: no candidate, an unknown metric, or tables of other videos.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}, expected one of {', '.join(METRICS)}")
    pool = _Pool(candidates, metric, len(class_names), fewest_streams)
    everybody = np.ones((1, pool.subjects), np.int64)
    members = pool.choose(everybody)[0]
    naive = float(from_confusion(pool.matrices(members).sum(0))[metric])
    drawn_BS = np.random.default_rng(seed).multinomial(pool.subjects, np.full(pool.subjects, 1 / pool.subjects), draws)
    drawn_BS = drawn_BS[(drawn_BS == 0).any(1)]
    scores, same = [], 0
    for start in range(0, len(drawn_BS), CHUNK):
        part_BS = drawn_BS[start : start + CHUNK]
        chosen = pool.choose(part_BS)
        same += sum(other == members for other in chosen)
        out_BMM = np.stack(
            [np.tensordot(left, pool.matrices(other), 1) for left, other in zip(part_BS == 0, chosen, strict=True)]
        )
        scores.append(from_confusion(out_BMM)[metric])
    scores_B = np.concatenate(scores)
    low, high = np.quantile(scores_B, [(1 - level) / 2, (1 + level) / 2])
    named = {pool.modalities[place]: pool.numbers[place][index] for place, index in members}
    return Corrected(named, naive, float(scores_B.mean()), (float(low), float(high)), same / len(drawn_BS))


def study_corrected(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], draws: int = DRAWS) -> Corrected:
    """Returns the corrected score of the fusion that `study_fusion` chooses, by the study's own objective.

    Args:
        frames: as `study_frames` returns them, at least one.
    """
    config = facts.config
    fewest = config.ensemble.fewest_streams
    candidates = by_modality(facts, frames)
    return corrected_score(candidates, config.objective.metric, config.grouping.names, fewest, draws=draws)


Members = tuple[tuple[int, int], ...]


class _Pool:
    """All candidates as arrays: probabilities of each modality's trials, and each subject's confusion counts.

    Members are pairs of a modality's place and a trial's index in it.
    """

    def __init__(
        self, candidates: Mapping[str, Mapping[int, pd.DataFrame]], metric: str, classes: int, fewest: int
    ) -> None:
        filled = {name: frames for name, frames in candidates.items() if frames}
        if not filled:
            raise ValueError("no candidate, expected a finished trial in at least one modality")
        self.metric, self.classes = metric, classes
        self.modalities = list(filled)
        self.fewest = min(fewest, len(filled))
        self.numbers = [sorted(frames) for frames in filled.values()]
        tables = [[frames[number].sort_values("video_id") for number in sorted(frames)] for frames in filled.values()]
        first = tables[0][0]
        for table in (table for trials in tables for table in trials):
            for column in ("video_id", "subject", "label"):
                if table[column].tolist() != first[column].tolist():
                    raise ValueError(f"candidates have other values of {column}, expected the same videos in each")
        names, self.codes = np.unique(first["subject"].to_numpy(str), return_inverse=True)
        self.subjects, self.labels = len(names), first["label"].to_numpy(np.int64)
        self.probabilities = [np.stack([stacked(table) for table in trials]) for trials in tables]
        self.single_TSMM = [
            np.stack([self._counts(chances) for chances in trials_TNM]) for trials_TNM in self.probabilities
        ]
        self._fused: dict[Members, NDArray[np.int64]] = {}

    def choose(self, drawn_BS: NDArray[np.int64]) -> list[Members]:
        """Returns the members of the best fusion on each resample; ties go to fewer streams, then to the earlier."""
        best_of = np.stack([self._best_trials(drawn_BS, single) for single in self.single_TSMM])
        sets = [
            places
            for size in range(self.fewest, len(self.modalities) + 1)
            for places in combinations(range(len(self.modalities)), size)
        ]
        found: list[Members] = []
        for row_S, best in zip(drawn_BS, best_of.T.tolist(), strict=True):
            tried = [tuple((place, best[place]) for place in places) for places in sets]
            total_KMM = np.stack([np.tensordot(row_S, self.matrices(members), 1) for members in tried])
            values = from_confusion(total_KMM)[self.metric]
            chosen = 0
            for index in range(1, len(tried)):
                if values[index] > values[chosen] + TIE:
                    chosen = index
            found.append(tried[chosen])
        return found

    def matrices(self, members: Members) -> NDArray[np.int64]:
        """Returns each subject's confusion counts under a fusion."""
        if len(members) == 1:
            ((place, index),) = members
            counts: NDArray[np.int64] = self.single_TSMM[place][index]
            return counts
        if members not in self._fused:
            mean_NM = np.mean([self.probabilities[place][index] for place, index in members], axis=0)
            self._fused[members] = self._counts(mean_NM)
        return self._fused[members]

    def _best_trials(self, drawn_BS: NDArray[np.int64], single_TSMM: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the index of the best trial of one modality on each resample; ties go to the lower number."""
        trials = len(single_TSMM)
        flat_SX = single_TSMM.transpose(1, 0, 2, 3).reshape(self.subjects, -1)
        total_BTMM = (drawn_BS @ flat_SX).reshape(len(drawn_BS), trials, self.classes, self.classes)
        best: NDArray[np.int64] = from_confusion(total_BTMM)[self.metric].argmax(1)
        return best

    def _counts(self, chances_NM: Floats) -> NDArray[np.int64]:
        cells = (self.codes * self.classes + self.labels) * self.classes + chances_NM.argmax(1)
        size = self.subjects * self.classes**2
        return np.bincount(cells, minlength=size).reshape(self.subjects, self.classes, self.classes)
