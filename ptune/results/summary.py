"""A study in the ledger becomes its best fusion, its table and its report, without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts
from ptune.results.fusion import Fusion, study_corrected, study_frames, study_fusion
from ptune.results.report import write_report
from ptune.results.stats import AgainstMajority, Corrected, beats_majority
from ptune.results.status import require_study
from ptune.results.tables import StudyTable, study_table, warnings_of


@dataclass(frozen=True)
class Summary:
    """What a study found."""

    study: StudyFacts
    table: StudyTable
    fusion: Fusion
    corrected: Corrected
    test: AgainstMajority
    warnings: list[str]

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "study": self.study.config.study,
            "fusion": self.fusion.decision(),
            "tried": [{"members": item.members, "metrics": item.metrics} for item in self.fusion.tried],
            "corrected": vars(self.corrected),
            "against_majority": vars(self.test),
            "warnings": self.warnings,
        }

    def text(self) -> str:
        """Returns the table, the best fusion and what to be careful about."""
        low, high = self.test.interval
        least, most = self.corrected.interval
        best = (
            f"Best fusion: {self.fusion.name}, {self.fusion.metric} {self.fusion.value:.3f}; corrected for having been "
            f"chosen on the same subjects {self.corrected.corrected:.3f} (95 % interval {least:.3f} to {most:.3f}; "
            f"{self.corrected.stability:.0%} of choices without a quarter of them are the same). Accuracy gained over "
            f"the majority class, per subject: {self.test.difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}), "
            f"p = {self.test.p_value:.4f} (sign-flip test over {self.test.subjects} subjects)."
        )
        return "\n".join([self.table.text(), best, *(f"warning: {text}" for text in self.warnings)])


def summarise(home: Home, name: str) -> Summary:
    """Searches the fusions of a study.

    Raises:
        BadInput: no such study, or no trial of it has finished.
    """
    facts = require_study(home, name)
    frames = study_frames(facts, Ledger(home.ledger))
    fusion = study_fusion(facts, frames)
    if fusion is None:
        raise BadInput(f"study {name!r}", "has no finished trial", "at least one", "Run its sweep on.")
    test = beats_majority(fusion.frame, len(facts.config.grouping.names))
    table = study_table(facts, frames, fusion)
    return Summary(facts, table, fusion, study_corrected(facts, frames), test, warnings_of(facts, frames, fusion))


def report_study(home: Home, name: str) -> Path:
    """Writes the HTML report of a study and returns its path."""
    facts = require_study(home, name)
    return write_report(home.reports / name, name, facts, Ledger(home.ledger))
