"""The streams of an ablation in the ledger become its cells: predictions on the same videos, fused, one table per seed.

Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptune.config.ablation import AblationConfig, Cell, seeded
from ptune.errors import BadInput
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, TrialFacts, out_of_fold, read_study
from ptune.results.fusion import fuse
from ptune.results.privacy import public_reason
from ptune.results.stats import why_not_comparable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CellResult:
    """A cell and what it predicted.

    Args:
        frames: one table per seed, as `ptune.results.fusion.fuse` returns it; none while a stream is missing.
        problem: why a stream is missing.
    """

    cell: Cell
    frames: tuple[pd.DataFrame, ...]
    problem: str = ""

    @property
    def name(self) -> str:
        """How the cell is called within its task."""
        return self.cell.name


@dataclass(frozen=True)
class TaskCells:
    """The cells of one task, in the order of rows and columns, and the study that trained their streams."""

    task: str
    facts: StudyFacts
    cells: tuple[CellResult, ...]

    @property
    def complete(self) -> tuple[CellResult, ...]:
        """Cells that have all their streams."""
        return tuple(cell for cell in self.cells if cell.frames)


def ablation_cells(config: AblationConfig, ledger: Ledger) -> tuple[TaskCells, ...]:
    """Returns the cells of each task that was begun.

    Raises:
        BadInput: cells of a task saw other videos, folds or labels than the others; says which.
    """
    found = []
    for task in config.tasks:
        facts = read_study(ledger, config.study_name(task))
        if facts is not None:
            cells = _Streams(config, facts, ledger).cells(task)
            require_comparable(cells)
            found.append(TaskCells(task, facts, cells))
    return tuple(found)


def require_comparable(cells: Sequence[CellResult]) -> None:
    """Refuses cells that did not see the same videos, subjects, folds and labels.

    Raises:
        BadInput: names the cells and what differs.
    """
    tables = [(cell, frame) for cell in cells for frame in cell.frames]
    for cell, frame in tables[1:]:
        problem = why_not_comparable(tables[0][1], frame, (tables[0][0].name, cell.name))
        if problem:
            raise BadInput(
                f"cells {tables[0][0].name!r} and {cell.name!r}",
                problem,
                "the same videos, folds and labels in every cell of a table",
                "Run both as one ablation.",
            )


class _Streams:
    """The streams of one task's study, each read once."""

    def __init__(self, config: AblationConfig, facts: StudyFacts, ledger: Ledger) -> None:
        self.config, self.facts, self.ledger = config, facts, ledger
        self.study = facts.config
        self.trials: Mapping[str, TrialFacts] = {
            self.study.identity(trial.params): trial
            for trial in facts.trials.values()
            if trial.revision == facts.revision
        }
        self.frames: dict[int, pd.DataFrame] = {}

    def cells(self, task: str) -> tuple[CellResult, ...]:
        return tuple(self._cell(cell) for cell in self.config.cells(task))

    def _cell(self, cell: Cell) -> CellResult:
        seeds = self.config.seeds
        streams = [[self._trial(seeded(point, seed, seeds)) for point in cell.points] for seed in seeds]
        for trial in (trial for members in streams for trial in members):
            if trial is None:
                return CellResult(cell, (), "not trained yet")
            if trial.state != "finished":
                reason = f": {public_reason(trial.reason, self.facts.folds)}" if trial.reason else ""
                return CellResult(cell, (), f"stream {trial.number} ({trial.group}) is {trial.state}{reason}")
        return CellResult(cell, tuple(fuse([self._frame(trial) for trial in members if trial]) for members in streams))

    def _trial(self, point: dict[str, object]) -> TrialFacts | None:
        return self.trials.get(self.study.identity(point))

    def _frame(self, trial: TrialFacts) -> pd.DataFrame:
        if trial.number not in self.frames:
            self.frames[trial.number] = out_of_fold(self.ledger, trial)
        return self.frames[trial.number]
