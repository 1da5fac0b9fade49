"""The cells of one task become numbers with their uncertainty, and declared families of comparisons between them.

A family is named before the data are seen: every cell against the reference, and each row's columns against its first.
Holm's correction runs over each family of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ptune.config.ablation import AblationConfig
from ptune.results.cells import TaskCells
from ptune.results.stats import (
    Comparison,
    FoldMean,
    best_cell,
    cluster_interval,
    compare_family,
    fold_mean,
    pooled_metrics,
)

if TYPE_CHECKING:
    import pandas as pd

Frames = Sequence["pd.DataFrame"]


@dataclass(frozen=True)
class TaskNumbers:
    """All numbers of a task that its tables and figures show, computed when first asked for.

    Args:
        rows: tables of what stands beside the cells, by name: the majority class, then what a reviewer asks for.
        remarks: what is to be said of a row, or why there is none.
    """

    config: AblationConfig
    task: TaskCells
    rows: Mapping[str, Frames]
    remarks: Mapping[str, str]

    @property
    def class_names(self) -> tuple[str, ...]:
        """From mild to severe."""
        return self.config.grouping.names

    @property
    def metric(self) -> str:
        """The ablation's objective."""
        return self.config.objective.metric

    @cached_property
    def cells(self) -> dict[str, Frames]:
        """Tables of complete cells by name."""
        return {cell.name: cell.frames for cell in self.task.complete}

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of cells and rows, pooled over folds; counts are summed over seeds."""
        return {name: pooled_metrics(frames, self.class_names) for name, frames in self.everything.items()}

    def value(self, name: str) -> float | None:
        """Returns the objective of a cell or row; None where it has no predictions."""
        return self.metrics[name][self.metric] if name in self.everything else None

    @property
    def frame(self) -> pd.DataFrame:
        """A table of the task's videos; there is one while a cell is complete."""
        return next(iter(self.cells.values()))[0]

    @property
    def everything(self) -> dict[str, Frames]:
        """Cells, then rows."""
        return self.cells | dict(self.rows)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % interval of the objective over resampled subjects."""
        return {
            name: cluster_interval(frames, self.metric, self.class_names) for name, frames in self.everything.items()
        }

    @cached_property
    def folds(self) -> dict[str, FoldMean]:
        """Mean and standard deviation of the objective over folds."""
        return {name: fold_mean(frames, self.metric, self.class_names) for name, frames in self.everything.items()}

    @property
    def reference(self) -> str:
        """Name of the cell that the others are compared with."""
        place = self.config.compared_with
        return next(
            item.name for item in self.task.cells if (item.cell.row, item.cell.column) == (place.row, place.column)
        )

    @cached_property
    def against_reference(self) -> dict[str, Comparison]:
        """Every other cell minus the reference, by the cell's name; none while the reference is not complete."""
        if self.reference not in self.cells:
            return {}
        found = self._family([(name, self.reference) for name in self.cells if name != self.reference])
        return {contrast.one: contrast for contrast in found}

    @cached_property
    def across_columns(self) -> list[Comparison]:
        """Each row's first column minus its others."""
        by_row: dict[str, list[str]] = {}
        for item in self.task.cells:
            by_row.setdefault(item.cell.row, []).append(item.name)
        pairs = [(names[0], other) for names in by_row.values() for other in names[1:]]
        return self._family([pair for pair in pairs if set(pair) <= set(self.cells)])

    def against_row(self, row: str) -> dict[str, Comparison]:
        """Returns every cell minus one of the rows, by the cell's name."""
        return {contrast.one: contrast for contrast in self._family([(name, row) for name in self.cells])}

    @cached_property
    def best(self) -> str | None:
        """The cell that is better than every other by Holm's correction over all pairs; None where none is."""
        if len(self.cells) < 2:
            return None
        return best_cell(self.cells, self.metric, self.class_names)

    def _family(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        return compare_family(self.everything, pairs, self.metric, self.class_names)
