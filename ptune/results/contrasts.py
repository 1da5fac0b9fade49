"""The cells of one task become numbers with their uncertainty, and declared families of comparisons between them.

A family is named before the data are seen: every cell against the reference, and each row's columns against its first.
Holm's correction runs over each family and task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ptune.config.ablation import AblationConfig
from ptune.results.cells import CellResult, TaskCells
from ptune.results.stats import (
    Difference,
    FoldMean,
    cluster_interval,
    compare_family,
    distinguished,
    fold_mean,
    pooled_metrics,
)

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
Frames = Sequence["pd.DataFrame"]


@dataclass(frozen=True)
class CellNumbers:
    """A cell's metrics.

    Args:
        metrics: pooled over folds, counts summed over seeds.
        interval: of the objective, over resampled subjects.
        folds: mean and standard deviation of the objective over folds and seeds.
    """

    name: str
    metrics: Mapping[str, float]
    interval: tuple[float, float]
    folds: FoldMean


@dataclass(frozen=True)
class Contrast:
    """One comparison of a family; `corrected` is its p value after Holm's correction."""

    one: str
    other: str
    found: Difference
    corrected: float

    @property
    def supported(self) -> bool:
        """Whether the corrected test tells the two apart."""
        return self.corrected <= LEVEL


@dataclass(frozen=True)
class TaskNumbers:
    """All numbers of a task that its tables and figures show.

    Args:
        rows: what a reviewer asks for besides the cells, by name.
    """

    config: AblationConfig
    task: TaskCells
    rows: Mapping[str, Frames]

    @cached_property
    def frames(self) -> dict[str, Frames]:
        """Tables of complete cells by name, then those of the other rows."""
        return {cell.name: cell.frames for cell in self.task.complete} | dict(self.rows)
