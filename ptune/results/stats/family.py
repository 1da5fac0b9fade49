"""The cells of one table become a declared family of differences, each corrected for all others of the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ptune.errors import BadInput
from ptune.metrics import LOWER_IS_BETTER, metric_of
from ptune.results.stats.cells import Cell
from ptune.results.stats.comparison import Difference, differences, matrices_of
from ptune.results.stats.permutation import exchange_tests

#: A corrected p value up to this one counts.
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """One difference of a family.

    Args:
        one, other: names of the cells.
        found: their difference, with its own interval and p value.
        corrected: the p value after Holm's correction over the family.
    """

    one: str
    other: str
    found: Difference
    corrected: float

    @property
    def supported(self) -> bool:
        """Whether the corrected test tells the two apart."""
        return self.corrected <= LEVEL

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "one": self.one,
            "other": self.other,
            "difference": self.found.difference,
            "interval": self.found.interval,
            "p_value": self.found.p_value,
            "corrected": self.corrected,
        }


def compare_family(
    cells: Mapping[str, Cell],
    pairs: Sequence[tuple[str, str]],
    metric: str,
    class_names: Sequence[str],
    level: float = 0.95,
    seed: int = 0,
) -> list[Comparison]:
    """Returns the differences of the declared pairs, in their order, with p values corrected for all of them.

    The family is what was declared before looking: picking pairs by their cells' scores needs all pairs.
    Intervals are of one difference each and are not corrected.

    Args:
        cells: by name; see `paired_bootstrap`.
        pairs: names of cells that are compared.
        metric: one of `ptune.metrics.METRICS`.

    Raises:
        ValueError: the metric is unknown.
        BadInput: cells differ in videos, subjects, labels or folds, or a pair names no cell.
    """
    unknown = sorted({name for pair in pairs for name in pair} - cells.keys())
    if unknown:
        raise BadInput("comparison", f"no cell is named {unknown[0]!r}", ", ".join(cells))
    if not pairs:
        return []
    places = {name: place for place, name in enumerate(cells)}
    indexed = [(places[one], places[other]) for one, other in pairs]
    found = differences(matrices_of(dict(cells), len(class_names)), indexed, metric, level, seed)
    corrected = holm([difference.p_value for difference in found])
    return [
        Comparison(one, other, difference, p_value)
        for (one, other), difference, p_value in zip(pairs, found, corrected, strict=True)
    ]


def best_cell(
    cells: Mapping[str, Cell], metric: str, class_names: Sequence[str], level: float = 0.95, seed: int = 0
) -> str | None:
    """Returns the cell that is better than every other one, or None where the data do not say which that is.

    Holm's correction is over all pairs of cells, because which cell is best is seen only afterwards. Where no cell is
    better, one is named in at most 1 - `level` of tables.

    Args:
        cells: by name, at least two; see `paired_bootstrap`.
        metric: one of `ptune.metrics.METRICS`.

    Raises:
        ValueError: the metric is unknown.
        BadInput: cells differ in videos, subjects, labels or folds.
    """
    if len(cells) < 2:
        return None
    place = best_place(matrices_of(dict(cells), len(class_names)), metric, level, seed)
    return None if place is None else list(cells)[place]


def best_place(cells_CSMM: ArrayLike, metric: str, level: float = 0.95, seed: int = 0) -> int | None:
    """Returns the index of `best_cell` from each subject's confusion counts under each cell."""
    cells = np.asarray(cells_CSMM, np.float64)
    value_C = metric_of(cells.sum(1), metric)
    best = int((-value_C if metric in LOWER_IS_BETTER else value_C).argmax())
    pairs = list(combinations(range(len(cells)), 2))
    corrected = holm(exchange_tests(cells, pairs, metric, seed))
    beaten = all(p_value <= 1 - level for pair, p_value in zip(pairs, corrected, strict=True) if best in pair)
    return best if beaten else None


def holm(p_values: ArrayLike) -> list[float]:
    """Returns p values corrected for a family of tests, in the order given. Source: Holm 1979."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1.0)
    return [float(value) for value in corrected]
