"""The score of what was chosen as the best, without the optimism of having chosen it on the same videos.

After the bootstrap bias correction of Tsamardinos, Greasidou and Borboudakis 2018: out-of-fold predictions of all
candidates are there already; some subjects are left out, the whole choice (which trials of each modality, which fusion
of those, with which weights) is made on the others, and what was chosen is scored on those left out, many times.
Nothing is trained.

Differs: a sixth of the subjects is left out, and the others count once each. A bootstrap resample leaves out 37 % and
weighs the others by chance, so that it chooses with the noise of half the subjects; where trials differ, its
choices are worse than the one that is to be judged. And the counts of all draws are added up before they become a
metric: F1 of few videos is too low on average. `benchmarks/validity.py` shows both.

Trials that a race stopped have no predictions on all videos and can be chosen in no draw; that the race looked at
the same subjects is not corrected for.

The nested estimate leaves out one fold after the other instead: fewer choices, no chance in them, and each video is
scored once. Either repeats the choice and no training: predictions that a choice is made by come from streams that
were trained on some of the subjects that judge it. `ptune.track.nested` trains anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptune.errors import BadInput
from ptune.metrics import metric_of
from ptune.results.stats.intervals import DRAWS, cluster_interval, expanded_percentiles
from ptune.results.stats.pool import Candidates, Member, Pool
from ptune.results.stats.rules import FusionRule, Rule

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

#: Share of subjects that a draw leaves out, to estimate the score.
LEFT_OUT = 1 / 6
#: Share that it leaves out to estimate the score's spread: with fewer, choices differ too little from each other.
LEFT_OUT_FOR_SPREAD = 1 / 4
#: Fusions that all draws together score at most, as far as that leaves enough draws.
MOST_FUSIONS = 200_000
FEWEST_DRAWS = 250


@dataclass(frozen=True)
class Corrected:
    """A choice and its score.

    Args:
        members: what was chosen on all subjects.
        naive: its pooled score on all subjects, which it was chosen by.
        corrected: pooled score of what each draw chose, on the subjects it left out.
        interval: from percentiles of the scores of such draws, scaled from the subjects left out to all of them.
        stability: share of draws that chose the same streams.
        draws: how many there were.
    """

    members: tuple[Member, ...]
    naive: float
    corrected: float
    interval: tuple[float, float]
    stability: float
    draws: int

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return vars(self) | {"members": [member.facts() for member in self.members]}


@dataclass(frozen=True)
class Nested:
    """The score of choosing without each fold and judging by it.

    Args:
        value: pooled over all folds.
        interval: of it, over resampled subjects.
        chosen: what was chosen without each fold, by its number.
        frame: predictions of all folds, columns video_id, subject, fold, label, probabilities.
    """

    value: float
    interval: tuple[float, float]
    chosen: dict[int, tuple[Member, ...]]
    frame: pd.DataFrame

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        chosen = {str(fold): [member.facts() for member in members] for fold, members in self.chosen.items()}
        return {"value": self.value, "interval": self.interval, "chosen": chosen}


def bbc_cv(
    candidates: Candidates,
    metric: str,
    class_names: Sequence[str],
    fewest_streams: int = 1,
    level: float = 0.95,
    seed: int = 0,
    draws: int | None = None,
    rule: Rule = "average",
    per_modality: int = 1,
) -> Corrected:
    """Returns the score of choosing the best trials of each modality and then their best fusion.

    Args:
        candidates: finished trials of each modality: number and out-of-fold table, all of the same videos, with columns
            video_id, subject, label, probabilities.
        metric: one of `ptune.metrics.METRICS` of which more is better.
        fewest_streams: smaller fusions are not chosen.
        level: coverage of the interval.
        seed, draws: of subjects that are left out; by default 10,000, and fewer where each has many fusions to try.
        rule, per_modality: as in `ptune.results.stats.FusionRule`.

    Raises:
        ValueError: an unknown metric.
        BadInput: no candidate, a single subject, tables of other videos, or too many streams for the rule.
    """
    pool = Pool(candidates, len(class_names), FusionRule(rule, per_modality, fewest_streams))
    if pool.subjects < 2:
        raise BadInput("selection", "one subject", "one to choose by and one to judge by, at least")
    draws = draws or min(DRAWS, max(FEWEST_DRAWS, MOST_FUSIONS // pool.combinations))
    everybody = pool.choose(np.ones((1, pool.subjects)), metric)
    choice = pool.choose(_without(_share(LEFT_OUT, pool.subjects), pool.subjects, draws, seed), metric)
    corrected = float(metric_of(choice.left_out_BMM.sum(0), metric))
    few = _share(LEFT_OUT_FOR_SPREAD, pool.subjects)
    spread = pool.choose(_without(few, pool.subjects, draws, seed), metric)
    interval = _scaled(metric_of(spread.left_out_BMM, metric), corrected, few, pool.subjects, level)
    same = (choice.taking_part() == everybody.taking_part()).all(1).mean()
    return Corrected(everybody.members(0), float(everybody.value_B[0]), corrected, interval, float(same), draws)


def nested_choice(
    candidates: Candidates, metric: str, class_names: Sequence[str], how: FusionRule | None = None
) -> Nested:
    """Returns the score of choosing by the subjects of all folds but one and judging by that one, over all folds.

    Args:
        candidates: as in `bbc_cv`, with the column fold.
        metric: one of `ptune.metrics.METRICS` of which more is better.
        how: default the plain average of the best trial of each modality.

    Raises:
        ValueError: an unknown metric.
        BadInput: as in `bbc_cv`, or there is a single fold.
    """
    pool = Pool(candidates, len(class_names), how or FusionRule())
    frame = pool.frame[["video_id", "subject", "fold", "label"]]
    folds = sorted(frame["fold"].unique().tolist())
    if len(folds) < 2:
        raise BadInput("selection", "one fold", "one to choose by and one to judge by, at least")
    fold_S = np.zeros(pool.subjects, np.int64)
    fold_S[pool.codes] = frame["fold"]
    choice = pool.choose((fold_S != np.array(folds)[:, None]).astype(np.float64), metric)
    place_N = np.searchsorted(folds, frame["fold"])
    fused_FNM = np.stack([choice.probabilities(place) for place in range(len(folds))])
    judged = frame.assign(probabilities=list(fused_FNM[place_N, np.arange(len(frame))]))
    value = float(metric_of(choice.left_out_BMM.sum(0), metric))
    chosen = {fold: choice.members(place) for place, fold in enumerate(folds)}
    return Nested(value, cluster_interval(judged, metric, class_names), chosen, judged)


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
