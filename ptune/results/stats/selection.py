"""The score of what was chosen as the best, without the optimism of having chosen it on the same videos.

After the bootstrap bias correction of Tsamardinos, Greasidou and Borboudakis 2018: out-of-fold predictions of all
candidates are there already; some subjects are left out, the whole choice (which trial of each modality, which fusion
of those) is made on the others, and what was chosen is scored on those left out, many times. Nothing is trained.

Differs: a sixth of the subjects is left out, and the others count once each. A bootstrap resample leaves out 37 % and
weighs the others by chance, so that it chooses with the noise of half the subjects; where trials differ, its
choices are worse than the one that is to be judged. And the counts of all draws are added up before they become a
metric: F1 of few videos is too low on average. `benchmarks/validity.py` shows both.

Trials that a race stopped have no predictions on all videos and can be chosen in no draw; that the race looked at
the same subjects is not corrected for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptune.errors import BadInput
from ptune.metrics import metric_of, stacked
from ptune.results.stats.cells import why_not_comparable
from ptune.results.stats.intervals import DRAWS, expanded_percentiles, weighted_sums

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Share of subjects that a draw leaves out, to estimate the score.
LEFT_OUT = 1 / 6
#: Share that it leaves out to estimate the score's spread: with fewer, choices differ too little from each other.
LEFT_OUT_FOR_SPREAD = 1 / 4
#: Values this close are a tie.
TIE = 1e-9


@dataclass(frozen=True)
class Corrected:
    """A choice and its score.

    Args:
        members: candidate of each modality that was chosen on all subjects.
        naive: its pooled score on all subjects, which it was chosen by.
        corrected: pooled score of what each draw chose, on the subjects it left out.
        interval: from percentiles of the scores of such draws, scaled from the subjects left out to all of them.
        stability: share of draws that chose the same members.
    """

    members: Mapping[str, int]
    naive: float
    corrected: float
    interval: tuple[float, float]
    stability: float


def bbc_cv(
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
        metric: one of `ptune.metrics.METRICS` of which more is better.
        fewest_streams: smaller sets of modalities are not chosen.
        level: coverage of the interval.
        seed, draws: of subjects that are left out.

    Raises:
        ValueError: an unknown metric.
        BadInput: no candidate, a single subject, or tables of other videos.
    """
    pool = Pool(candidates, len(class_names), fewest_streams)
    if pool.subjects < 2:
        raise BadInput("selection", "one subject", "one to choose by and one to judge by, at least")
    everybody = pool.choose(np.ones((1, pool.subjects)), metric)
    members = everybody.members(0)
    choice = pool.choose(_without(_share(LEFT_OUT, pool.subjects), pool.subjects, draws, seed), metric)
    corrected = float(metric_of(choice.left_out_BMM.sum(0), metric))
    few = _share(LEFT_OUT_FOR_SPREAD, pool.subjects)
    spread = pool.choose(_without(few, pool.subjects, draws, seed), metric)
    interval = _scaled(metric_of(spread.left_out_BMM, metric), corrected, few, pool.subjects, level)
    same = np.mean([choice.members(draw) == members for draw in range(draws)])
    named = {pool.modalities[place]: pool.numbers[place][index] for place, index in members}
    return Corrected(named, float(everybody.value_B[0]), corrected, interval, float(same))


def _share(share: float, subjects: int) -> int:
    return max(1, round(share * subjects))


def _without(few: int, subjects: int, draws: int, seed: int) -> Floats:
    """Returns weights [draws,S]: 0 for so few subjects, drawn anew each time, 1 for the others."""
    order_BS = np.random.default_rng(seed).random((draws, subjects)).argsort(1)
    return (order_BS >= few).astype(np.float64)


def _scaled(scores_B: Floats, centre: float, few: int, subjects: int, level: float) -> tuple[float, float]:
    """Returns percentiles of scores of a few subjects, as far from the centre as those of all subjects would be.

    Means of L of S values, drawn without replacement, have the variance of the mean of all times (S - L) / L.
    Source: Shao and Wu 1989, the delete-d jackknife.
    """
    low, high = expanded_percentiles(scores_B - scores_B.mean(), subjects, level)
    scale = np.sqrt(few / (subjects - few))
    return float(centre + scale * low), float(centre + scale * high)


@dataclass
class Choice:
    """What was chosen under each of B weightings of the subjects.

    Args:
        value_B: its score under the weights it was chosen by.
        set_B: index of its set of modalities in `sets`.
        left_out_BMM: its confusion counts on subjects of weight 0.
        best_PB: index of the best trial of each modality.
    """

    value_B: Floats
    set_B: Ints
    left_out_BMM: Floats
    best_PB: Ints
    sets: list[tuple[int, ...]]

    def members(self, draw: int) -> tuple[tuple[int, int], ...]:
        """Returns pairs of a modality's place and a trial's index in it."""
        return tuple((place, int(self.best_PB[place, draw])) for place in self.sets[self.set_B[draw]])


class Pool:
    """All candidates as arrays: probabilities of each modality's trials, and each subject's confusion counts."""

    def __init__(self, candidates: Mapping[str, Mapping[int, pd.DataFrame]], classes: int, fewest: int) -> None:
        filled = {name: frames for name, frames in candidates.items() if frames}
        if not filled:
            raise BadInput("selection", "no candidate", "a finished trial in at least one modality")
        self.classes, self.modalities = classes, list(filled)
        self.numbers = [sorted(frames) for frames in filled.values()]
        tables = [[frames[number].sort_values("video_id") for number in sorted(frames)] for frames in filled.values()]
        first, first_number = tables[0][0], self.numbers[0][0]
        for numbers, trials in zip(self.numbers, tables, strict=True):
            for number, table in zip(numbers, trials, strict=True):
                problem = why_not_comparable(first, table, (f"trial {first_number}", f"trial {number}"))
                if problem:
                    raise BadInput("selection", problem, "the same videos, subjects, folds and labels in every trial")
        names, self.codes = np.unique(first["subject"].to_numpy(str), return_inverse=True)
        self.subjects, self.labels = len(names), first["label"].to_numpy(np.int64)
        self.probabilities = [np.stack([stacked(table) for table in trials]) for trials in tables]
        places = range(len(filled))
        self.sets = [
            chosen for size in range(min(fewest, len(filled)), len(filled) + 1) for chosen in combinations(places, size)
        ]

    def choose(self, weights_BS: NDArray[np.number], metric: str) -> Choice:
        """Returns the best fusion under each weighting of the subjects; ties go to fewer streams, then to the earlier.

        Source of speed: what several weightings ask of the same trials is computed for them together.
        """
        draws = len(weights_BS)
        left_BS = (np.asarray(weights_BS) == 0).astype(np.float64)
        best_PB = np.stack([self._best_trials(place, weights_BS, metric) for place in range(len(self.modalities))])
        choice = Choice(
            np.full(draws, -np.inf),
            np.zeros(draws, np.int64),
            np.zeros((draws, self.classes, self.classes)),
            best_PB,
            self.sets,
        )
        for index, places in enumerate(self.sets):
            trials_US, asking_B = np.unique(best_PB[list(places)], axis=1, return_inverse=True)
            order = np.argsort(asking_B, kind="stable")
            for trials, asking in zip(trials_US.T, np.split(order, np.cumsum(np.bincount(asking_B))[:-1]), strict=True):
                counts_SMM = self._counts(places, trials)
                values = metric_of(weighted_sums(weights_BS[asking], counts_SMM), metric)
                better = values > choice.value_B[asking] + TIE
                chosen = asking[better]
                choice.value_B[chosen], choice.set_B[chosen] = values[better], index
                choice.left_out_BMM[chosen] = weighted_sums(left_BS[chosen], counts_SMM)
        return choice

    def _best_trials(self, place: int, weights_BS: NDArray[np.number], metric: str) -> Ints:
        """Returns the index of the best trial of one modality under each weighting; ties go to the lower number."""
        best_B, value_B = np.zeros(len(weights_BS), np.int64), np.full(len(weights_BS), -np.inf)
        for index in range(len(self.probabilities[place])):
            values = metric_of(weighted_sums(weights_BS, self._counts((place,), (index,))), metric)
            better = values > value_B
            best_B[better], value_B[better] = index, values[better]
        return best_B

    def _counts(self, places: Sequence[int], trials: Sequence[int] | Ints) -> Floats:
        """Returns each subject's confusion counts [S,M,M] under the average of one trial of each place."""
        mean_NM = np.mean(
            [self.probabilities[place][trial] for place, trial in zip(places, trials, strict=True)], axis=0
        )
        cells = (self.codes * self.classes + self.labels) * self.classes + mean_NM.argmax(1)
        size = self.subjects * self.classes**2
        counts = np.bincount(cells, minlength=size).astype(np.float64)
        return counts.reshape(self.subjects, self.classes, self.classes)
