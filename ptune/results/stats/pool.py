"""Candidates of a fusion become arrays, and what a rule chooses from them under any weighting of the subjects.

The choice is a whole: the best trials of each modality first, then which of those are fused and how. Knows nothing of
what is estimated by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptune.errors import BadInput
from ptune.metrics import metric_of, stacked
from ptune.results.stats.cells import why_not_comparable
from ptune.results.stats.intervals import weighted_sums
from ptune.results.stats.rules import CHOOSE, FusionRule, Problem, confusions, set_values

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: A trial: its number, or its study and number where there are several studies.
Key: TypeAlias = int | tuple[str, int]
#: Out-of-fold tables of each modality's finished trials, under a `Key`.
Candidates: TypeAlias = "Mapping[str, Mapping[Any, pd.DataFrame]]"

#: Decimals to which trials of a modality are compared.
DECIMALS = 9
#: Numbers that are in memory at once.
ROOM = 2**21


@dataclass(frozen=True)
class Member:
    """A stream that takes part in a fusion.

    Args:
        name: its modality; `flow 2`, `flow 3` for further trials of one modality.
        trial: number.
        weight: above 0; those of a fusion sum to 1.
        study: where there are several; else "".
    """

    name: str
    trial: int
    modality: str
    weight: float
    study: str = ""

    @property
    def key(self) -> Key:
        """What the trial is called among candidates."""
        return (self.study, self.trial) if self.study else self.trial

    @property
    def title(self) -> str:
        """What the trial is called everywhere: `trial-07 flow`."""
        return f"{self.study} trial-{self.trial:02d} {self.modality}".lstrip()

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {name: value for name, value in vars(self).items() if name != "study" or value}


def members_of(streams: Sequence[tuple[str, Key]], weights: Iterable[float]) -> tuple[Member, ...]:
    """Returns the members of a fusion, named in the order given; streams of weight 0 take no part.

    Args:
        streams: modality and trial of each.
    """
    found: list[Member] = []
    for (modality, key), weight in zip(streams, weights, strict=True):
        if weight > 0:
            before = sum(member.modality == modality for member in found)
            study, trial = key if isinstance(key, tuple) else ("", key)
            name = f"{modality} {before + 1}" if before else modality
            found.append(Member(name, trial, modality, float(weight), study))
    return tuple(found)


@dataclass(frozen=True)
class Choice:
    """What was chosen under each of B weightings of the subjects.

    Args:
        streams_BC: places in the pool of the streams that a fusion was chosen from.
        weights_BC: of those streams in the fusion.
        value_B: its score under the weights it was chosen by.
        left_out_BMM: its confusion counts on subjects of weight 0.
    """

    pool: Pool
    streams_BC: Ints
    weights_BC: Floats
    value_B: Floats
    left_out_BMM: Floats

    def members(self, draw: int) -> tuple[Member, ...]:
        """Returns what one weighting chose."""
        streams = [self.pool.streams[place] for place in self.streams_BC[draw]]
        return members_of(streams, self.weights_BC[draw].tolist())

    def probabilities(self, draw: int) -> Floats:
        """Returns the fused probabilities of all videos, [N,M], in order of their ids."""
        return np.tensordot(self.weights_BC[draw], self.pool.probabilities_TNM[self.streams_BC[draw]], 1)

    def taking_part(self) -> NDArray[np.bool_]:
        """Returns which streams of the pool each weighting fused, [B,T]."""
        found = np.zeros((len(self.streams_BC), len(self.pool.streams)), bool)
        np.put_along_axis(found, self.streams_BC, self.weights_BC > 0, axis=1)
        return found


class Pool:
    """All candidates as arrays.

    Args:
        candidates: finished trials of each modality: number and out-of-fold table, all of the same videos, with columns
            video_id, subject, label, probabilities and, where there is one, fold.
        classes: M.
        how: the rule to choose by.

    Raises:
        BadInput: no candidate, tables of other videos, or more streams than the rule can try.
    """

    def __init__(self, candidates: Candidates, classes: int, how: FusionRule) -> None:
        tables = {
            (modality, key): frames[key].sort_values("video_id", ignore_index=True)
            for modality, frames in candidates.items()
            for key in sorted(frames)
        }
        if not tables:
            raise BadInput("fusion", "no candidate", "a finished trial in at least one modality")
        self.streams: list[tuple[str, Key]] = list(tables)
        self.frame = tables[self.streams[0]]
        for stream, table in tables.items():
            problem = why_not_comparable(self.frame, table, (_called(self.streams[0]), _called(stream)))
            if problem:
                raise BadInput("fusion", problem, "the same videos, subjects, folds and labels in every trial")
        self.classes, self.how = classes, how
        names, self.codes = np.unique(self.frame["subject"].to_numpy(str), return_inverse=True)
        self.subjects, self.labels = len(names), self.frame["label"].to_numpy(np.int64)
        self.probabilities_TNM = np.stack([stacked(table) for table in tables.values()])
        modalities = np.array([modality for modality, _ in self.streams])
        self.groups = [np.flatnonzero(modalities == name) for name in dict.fromkeys(modalities.tolist())]
        self.taking = sum(min(how.per_modality, len(group)) for group in self.groups)
        self.combinations = how.combinations(self.taking)

    def choose(self, weights_BS: NDArray[np.number], metric: str) -> Choice:
        """Returns what the rule chooses under each weighting of the subjects, and its counts on those of weight 0."""
        streams_BC = self.best_trials(weights_BS, metric)
        parts = []
        size = max(1, ROOM // (max(self.combinations, self.taking) * self.probabilities_TNM[0].size))
        for start in range(0, len(weights_BS), size):
            part = slice(start, start + size)
            parts.append(self._choose(streams_BC[part], np.asarray(weights_BS[part], np.float64), metric))
        chosen_BC, value_B, left_out_BMM = (np.concatenate(found) for found in zip(*parts, strict=True))
        return Choice(self, streams_BC, chosen_BC, value_B, left_out_BMM)

    def _choose(self, streams_BC: Ints, weights_BS: Floats, metric: str) -> tuple[Floats, Floats, Floats]:
        problem = self.problem(streams_BC, weights_BS, metric)
        chosen_BC = CHOOSE[self.how.rule](problem)
        fused_B1NM = np.einsum("bc,bcnm->bnm", chosen_BC, problem.streams_BCNM)[:, None]
        left_BN = (problem.weights_BN == 0).astype(np.float64)
        left_out_BMM = confusions(fused_B1NM, self.labels, left_BN)[:, 0]
        return chosen_BC, problem.values(fused_B1NM)[:, 0], left_out_BMM

    def problem(self, streams_BC: Ints, weights_BS: Floats, metric: str) -> Problem:
        """Returns what the rule is asked."""
        fewest = min(self.how.fewest_streams, self.taking)
        return Problem(self.probabilities_TNM[streams_BC], self.labels, weights_BS[:, self.codes], metric, fewest)

    def set_values(self, streams_1C: Ints, sets_GC: Floats, metric: str) -> Floats:
        """Returns the score of the plain averages of sets of streams on all subjects, [G]."""
        values_1G = set_values(self.problem(streams_1C, np.ones((1, self.subjects)), metric), sets_GC)
        return np.asarray(values_1G[0])

    def best_trials(self, weights_BS: NDArray[np.number], metric: str) -> Ints:
        """Returns the places of the best trials of each modality, [B,C], best first; ties go to the lower number."""
        values_TB = np.stack([metric_of(weighted_sums(weights_BS, counts), metric) for counts in self._counts()])
        return np.concatenate([self._best_of(group, values_TB) for group in self.groups], axis=1)

    def _best_of(self, group: Ints, values_TB: Floats) -> Ints:
        order_GB = np.argsort(-np.round(values_TB[group], DECIMALS), axis=0, kind="stable")
        best_BK: Ints = group[order_GB[: self.how.per_modality].T]
        return best_BK

    def _counts(self) -> Floats:
        """Returns each subject's confusion counts under each trial, [T,S,M,M]."""
        streams, subjects, classes = len(self.streams), self.subjects, self.classes
        subject_TN = np.arange(streams)[:, None] * subjects + self.codes
        cells_TN = (subject_TN * classes + self.labels) * classes + self.probabilities_TNM.argmax(-1)
        counts = np.bincount(cells_TN.ravel(), minlength=streams * subjects * classes**2)
        return counts.reshape(streams, subjects, classes, classes).astype(np.float64)


def _called(stream: tuple[str, Key]) -> str:
    _, key = stream
    return f"trial {key[1]} of {key[0]}" if isinstance(key, tuple) else f"trial {key}"
