"""A study in the ledger becomes its best fusion, its table and its report, without training anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.errors import BadInput
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, study_baselines
from ptune.results.beside import Beside, beside, remarks
from ptune.results.fusion import Fusion, study_corrected, study_frames, study_fusion
from ptune.results.report import write_report
from ptune.results.stats import AgainstMajority, Corrected, beats_majority
from ptune.results.status import require_study
from ptune.results.table import Table
from ptune.results.tables import study_table, warnings_of


@dataclass(frozen=True)
class Summary:
    """What a study found."""

    study: StudyFacts
    table: Table
    fusion: Fusion
    corrected: Corrected
    test: AgainstMajority
    beside: tuple[Beside, ...]
    warnings: list[str]

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "study": self.study.config.study,
            "fusion": self.fusion.decision(),
            "tried": [{"members": item.members, "metrics": item.metrics} for item in self.fusion.tried],
            "corrected": vars(self.corrected),
            "against_majority": vars(self.test),
            "beside": [item.facts() for item in self.beside],
            "warnings": self.warnings,
        }

    def text(self) -> str:
        """Returns the table, the best fusion and what to be careful about."""
        low, high = self.test.interval
        least, most = self.corrected.interval
        best = (
            f"Best fusion: {self.fusion.name}, {self.fusion.metric} {self.fusion.value:.3f}; corrected for having been "
            f"chosen on the same subjects {self.corrected.corrected:.3f} (95 % interval {least:.3f} to {most:.3f}; "
            f"{self.corrected.stability:.0%} of choices without a sixth of them are the same). Accuracy gained over "
            f"the majority class, per subject: {self.test.difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}), "
            f"p = {self.test.p_value:.4f} (sign-flip test over {self.test.subjects} subjects)."
        )
        compared = [item.text() for item in self.beside]
        return "\n".join([self.table.text(), best, *compared, *(f"warning: {text}" for text in self.warnings)])


def summarise(home: Home, name: str) -> Summary:
    """Searches the fusions of a study.

    Raises:
        BadInput: no such study, or no trial of it has finished.
    """
    facts, ledger = require_study(home, name), Ledger(home.ledger)
    frames = study_frames(facts, ledger)
    fusion = study_fusion(facts, frames)
    if fusion is None:
        raise BadInput(f"study {name!r}", "has no finished trial", "at least one", "Run its sweep on.")
    names, rows = facts.config.grouping.names, study_baselines(ledger, facts)
    test = beats_majority(fusion.frame, len(names))
    compared = beside(fusion.frame, rows, fusion.metric, names)
    table = study_table(facts, frames, fusion, rows)
    warnings = warnings_of(facts, frames, fusion) + remarks(rows, compared)
    return Summary(facts, table, fusion, study_corrected(facts, frames), test, compared, warnings)


def report_study(
    home: Home, name: str, importance: Mapping[str, float] | None = None, with_frames: bool = False
) -> Path:
    """Writes the HTML report of a study and returns its path.

    Args:
        importance: share of the objective's variance by setting.
        with_frames: show some of the videos, in a folder of its own whose files go nowhere else.
    """
    facts = require_study(home, name)
    folder = home.reports / name
    store = None
    if with_frames:
        folder, store = folder / "with-frames", open_store(home.features, facts.config.extraction)
    return write_report(folder, name, facts, Ledger(home.ledger), importance=importance, store=store)
