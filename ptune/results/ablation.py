"""The numbers of an ablation become its tables: in the paper's shape, then what a reviewer asks of each cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ptune.config.ablation import AblationConfig
from ptune.ledger import Ledger
from ptune.metrics import majority
from ptune.replay import study_baselines
from ptune.results.ablation_tables import main_table, task_tables
from ptune.results.beside import MEANING
from ptune.results.cells import TaskCells, ablation_cells
from ptune.results.contrasts import Frames, TaskNumbers
from ptune.results.stats import ESTIMABLE_SUBJECTS, class_subjects
from ptune.results.table import Table


@dataclass(frozen=True)
class AblationResult:
    """What an ablation found, task by task."""

    config: AblationConfig
    tasks: tuple[TaskNumbers, ...]

    @cached_property
    def main(self) -> Table | None:
        """The table in the paper's shape; none while no cell is complete."""
        begun = [numbers for numbers in self.tasks if numbers.cells]
        return main_table(self.config, begun) if begun else None

    @cached_property
    def details(self) -> dict[str, dict[str, Table]]:
        """The other tables, by task and a short name."""
        return {numbers.task.task: task_tables(numbers) for numbers in self.tasks if numbers.cells}

    @property
    def tables(self) -> dict[str, Table]:
        """All tables by a name for files."""
        found = {} if self.main is None else {"cells": self.main}
        for task, tables in self.details.items():
            found |= {f"{task}-{name}": table for name, table in tables.items()}
        return found

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before trusting the tables, one sentence each."""
        found = [f"{numbers.task.task}: {text}" for numbers in self.tasks for text in _warnings(numbers)]
        begun = {numbers.task.task for numbers in self.tasks}
        return found + [f"{task}: nothing is trained yet." for task in self.config.tasks if task not in begun]

    def text(self) -> str:
        """Returns the main table, the statistics and the warnings for a terminal; files have the rest."""
        shown = [] if self.main is None else [self.main]
        for tables in self.details.values():
            shown += [tables[name] for name in ("statistics", "columns") if name in tables]
        return "\n".join([*(table.text() for table in shown), *(f"warning: {text}" for text in self.warnings)])

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "ablation": self.config.ablation,
            "metric": self.config.objective.metric,
            "seeds": self.config.seeds,
            "tasks": {numbers.task.task: _facts(numbers) for numbers in self.tasks},
            "warnings": self.warnings,
        }


def ablation_result(config: AblationConfig, ledger: Ledger) -> AblationResult:
    """Returns what the ledger has of an ablation.

    Raises:
        BadInput: cells saw other videos, folds or labels than others of their task; says which.
    """
    tasks = ablation_cells(config, ledger)
    return AblationResult(config, tuple(TaskNumbers(config, cells, *_rows(cells, config, ledger)) for cells in tasks))


def _rows(cells: TaskCells, config: AblationConfig, ledger: Ledger) -> tuple[dict[str, Frames], dict[str, str]]:
    """Returns what stands beside the cells, majority class first, and why a row is missing or wanting."""
    if not cells.complete:
        return {}, {}
    frame, names = cells.complete[0].frames[0], config.grouping.names
    constant = majority(frame["label"].to_numpy(), len(names))
    rows: dict[str, Frames] = {
        f"always {names[int(constant[0].argmax())]}": [frame.assign(probabilities=list(constant))]
    }
    remarks = {}
    for row in study_baselines(ledger, cells.facts):
        if row.frame is not None:
            rows[row.name] = [row.frame]
        if row.note:
            remarks[row.name] = row.note
    return rows, remarks


def _warnings(numbers: TaskNumbers) -> list[str]:
    names, found = numbers.class_names, []
    for cell in numbers.task.cells:
        if cell.problem:
            found.append(f"Cell {cell.name}: {cell.problem}.")
    if not numbers.cells:
        return found
    frame = next(iter(numbers.cells.values()))[0]
    for name, subjects in zip(names, class_subjects(frame, len(names)), strict=True):
        if subjects < ESTIMABLE_SUBJECTS:
            found.append(
                f"Class {name} rests on {subjects} subject{'' if subjects == 1 else 's'}: its own numbers are not "
                "estimable, and macro F1 and balanced accuracy depend on it."
            )
    for row in list(numbers.rows)[1:]:
        contrasts = numbers.against_row(row)
        lost = [name for name, item in contrasts.items() if not (item.supported and item.found.difference > 0)]
        if lost:
            which = "No cell is" if len(lost) == len(contrasts) else f"{len(lost)} of {len(contrasts)} cells are not"
            meaning = next(text for key, text in MEANING.items() if key in row.lower())
            found.append(f"{which} shown to beat {row} (Holm's correction over the cells): {meaning}.")
    found += [f"The row {row}: {note}." for row, note in numbers.remarks.items()]
    return found


def _facts(numbers: TaskNumbers) -> dict[str, Any]:
    cells = {
        name: {
            "metrics": numbers.metrics[name],
            "interval": numbers.intervals[name],
            "fold_mean": numbers.folds[name].mean,
            "fold_deviation": numbers.folds[name].deviation,
        }
        for name in numbers.everything
    }
    families = {"reference": numbers.against_reference.values(), "columns": numbers.across_columns}
    return {
        "study": numbers.task.facts.config.study,
        "reference": numbers.reference,
        "best": numbers.best,
        "cells": cells,
        "problems": {cell.name: cell.problem for cell in numbers.task.cells if cell.problem},
        "comparisons": {name: [item.facts() for item in family] for name, family in families.items()},
    }
