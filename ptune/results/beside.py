"""Rows beside the trials become statements: by how much the best fusion beats each of them, and what is missing.

Knows nothing of how the rows came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.replay import Baseline
from ptune.results.stats import Difference, paired_bootstrap

if TYPE_CHECKING:
    import pandas as pd

#: Two-sided level at which a gain counts.
ALPHA = 0.05
#: What it means not to beat a row, by its key.
MEANING: Mapping[str, str] = {
    "nuisance": "its score may rest on what has nothing to do with the movement",
    "frozen": "training on these videos may have added nothing to pretraining",
}


@dataclass(frozen=True)
class Beside:
    """The best fusion beside one row.

    Args:
        metric: what both are measured by.
        difference: fusion minus row.
    """

    row: Baseline
    metric: str
    difference: Difference

    @property
    def beaten(self) -> bool:
        """Whether the fusion is better, by a paired test over subjects."""
        return self.difference.difference > 0 and self.difference.p_value < ALPHA

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        found = self.difference
        return {
            "row": self.row.name,
            "metric": self.metric,
            "value": found.other,
            "difference": found.difference,
            "interval": found.interval,
            "p_value": found.p_value,
            "beaten": self.beaten,
        }

    def text(self) -> str:
        """Returns the comparison as a sentence."""
        found, (low, high) = self.difference, self.difference.interval
        return (
            f"{self.metric} gained over {self.row.name}: {found.difference:+.3f} (95 % interval {low:+.3f} to "
            f"{high:+.3f}), p = {found.p_value:.4f} (paired over {found.subjects} subjects)."
        )


def beside(
    frame: pd.DataFrame, rows: Sequence[Baseline], metric: str, class_names: Sequence[str]
) -> tuple[Beside, ...]:
    """Compares a fusion's out-of-fold predictions with each row that is there.

    The value of the best fusion is optimistic, and so are these differences.

    Args:
        frame: columns video_id, subject, fold, label, probabilities.
        metric: one of `ptune.metrics.METRICS`.
    """
    return tuple(
        Beside(row, metric, paired_bootstrap(frame, row.frame, metric, class_names))
        for row in rows
        if row.frame is not None
    )


def remarks(rows: Sequence[Baseline], compared: Sequence[Beside]) -> list[str]:
    """Returns what a reader must know of the rows, one sentence each."""
    if not rows:
        return [
            "There is no row of what predicts without the movement, and none of a frozen network: they are made when "
            "the sweep ends, or is run again."
        ]
    found = [
        f"The best fusion is not shown to beat {item.row.name} (p = {item.difference.p_value:.2g}): "
        f"{MEANING[item.row.key]}."
        for item in compared
        if not item.beaten
    ]
    found += [f"There is no row of {row.name}: {row.note}." for row in rows if row.frame is None]
    return found + [f"The row {row.name} has {row.note}." for row in rows if row.frame is not None and row.note]
