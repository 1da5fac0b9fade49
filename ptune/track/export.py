"""A study in the ledger becomes files for other tools: CSV and Parquet tables, and an Optuna journal.

The files may be handed out: subjects are ordinals of the study, reasons that name a file or subject are withheld.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ptune.errors import BadInput
from ptune.home import Home, write_atomic
from ptune.results.privacy import public_reason
from ptune.results.view import StudyView
from ptune.track.optuna_study import to_optuna

if TYPE_CHECKING:
    import pandas as pd

JOURNAL = "optuna.journal"


@dataclass(frozen=True)
class Export:
    """What was written where."""

    folder: Path
    trials: int
    predictions: int
    files: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return vars(self) | {"folder": str(self.folder)}

    def text(self) -> str:
        """Returns what was written and how to look at it."""
        lines = [f"{self.trials} trials, {self.predictions} predictions in {self.folder}: {', '.join(self.files)}"]
        return "\n".join([*lines, f"Next: optuna-dashboard {self.folder / JOURNAL}"])


def export_study(home: Home, name: str, folder: Path | None = None) -> Export:
    """Writes the tables `trials` and `predictions` as CSV and Parquet, and the study as an Optuna journal.

    Args:
        folder: default is `exports/NAME` in the home; files of an earlier export are replaced.

    Raises:
        BadInput: there is no such study, or the folder cannot be written.
    """
    view = StudyView(home, name)
    folder = (folder or home.root / "exports" / name).absolute()
    tables = {"trials": _trials(view), "predictions": _predictions(view)}
    try:
        for title, table in tables.items():
            _write(folder, title, table)
        write_atomic(folder / JOURNAL, lambda path: _write_journal(view, path))
    except OSError as error:
        raise BadInput(
            f"folder {str(folder)!r}", f"cannot be written ({error.strerror})", "a folder of yours", "Choose another."
        ) from error
    files = (*(f"{title}.{kind}" for title in tables for kind in ("csv", "parquet")), JOURNAL)
    return Export(folder, len(tables["trials"]), len(tables["predictions"]), files)


def _trials(view: StudyView) -> pd.DataFrame:
    table = view.trials()
    if not table.empty:
        table["reason"] = [public_reason(reason, view.facts.folds) for reason in table["reason"]]
    return table


def _predictions(view: StudyView) -> pd.DataFrame:
    table = view.predictions()
    if table.empty:
        return table
    ordinals = {subject: number for number, subject in enumerate(sorted(view.facts.folds), 1)}
    chances = [f"probability.{name}" for name in view.facts.config.grouping.names]
    for index, name in enumerate(chances):
        table[name] = [row[index] for row in table["probabilities"]]
    table["subject"] = table["subject"].map(ordinals)
    first = ["trial", "video_id", "subject", "fold", "score", "label"]
    return table[[*first, *chances, "attention"]]


def _write(folder: Path, title: str, table: pd.DataFrame) -> None:
    write_atomic(folder / f"{title}.parquet", lambda path: table.to_parquet(path, index=False))
    write_atomic(folder / f"{title}.csv", lambda path: table.map(_flat).to_csv(path, index=False))


def _flat(value: Any) -> Any:
    """Returns what a cell of a CSV table holds; several numbers become JSON."""
    several = hasattr(value, "__len__") and not isinstance(value, str)
    return json.dumps([float(item) for item in value]) if several else value


def _write_journal(view: StudyView, path: Path) -> None:
    to_optuna(view.facts, JournalStorage(JournalFileBackend(str(path))))
