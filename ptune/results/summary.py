"""Studies in the ledger become their best fusion, their table and a report, without training anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, study_baselines
from ptune.results.added import Added, added_by_each, added_table
from ptune.results.beside import Beside, beside, remarks
from ptune.results.fusion import Fusion, choose_fusion
from ptune.results.report import write_report
from ptune.results.stats import (
    AgainstMajority,
    Corrected,
    Nested,
    Rule,
    bbc_cv,
    beats_majority,
    nested_choice,
)
from ptune.results.status import require_study
from ptune.results.streams import Streams, read_streams
from ptune.results.table import Table

RULE_WORDS: Mapping[Rule, str] = {
    "average": "plain average",
    "weights": "weights of the smallest Brier score",
    "greedy": "greedy selection with replacement",
}


@dataclass(frozen=True)
class Summary:
    """What a study found, or several studies together.

    Args:
        study: the first one.
        streams: what the fusion was chosen from.
    """

    study: StudyFacts
    streams: Streams
    table: Table
    fusion: Fusion
    corrected: Corrected
    nested: Nested
    added: tuple[Added, ...]
    test: AgainstMajority
    beside: tuple[Beside, ...]
    warnings: list[str]

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        tried = self.fusion.tried
        return {
            "study": self.study.config.study,
            "studies": self.streams.names,
            "fusion": self.fusion.decision(),
            "tried": [
                {"members": [member.facts() for member in item.members], "metrics": item.metrics} for item in tried
            ],
            "combinations": self.fusion.combinations,
            "corrected": self.corrected.facts(),
            "nested": self.nested.facts(),
            "added": [item.facts() for item in self.added],
            "against_majority": vars(self.test),
            "beside": [item.facts() for item in self.beside],
            "warnings": self.warnings,
        }

    def text(self) -> str:
        """Returns the table, the best fusion, what each stream adds and what to be careful about."""
        fusion, judged, nested, test = self.fusion, self.corrected, self.nested, self.test
        what = "Named fusion" if self.streams.named else "Best fusion"
        lines = [
            self.table.text(),
            f"{what}: {fusion.name}, {fusion.metric} {fusion.value:.3f} ({RULE_WORDS[fusion.how.rule]}).",
            f"Corrected for having been chosen on the same subjects: {judged.corrected:.3f} "
            f"({_interval(judged.interval)}; {judged.stability:.0%} of {judged.draws:,} choices without a sixth of "
            "them are the same streams).",
            f"Nested estimate, chosen without each fold and scored on it: {nested.value:.3f} "
            f"({_interval(nested.interval)}).",
            f"Accuracy gained over the majority class, per subject: {test.difference:+.3f} "
            f"({_interval(test.interval, '+')}), p = {test.p_value:.4f} (sign-flip test over {test.subjects} "
            "subjects).",
            *(item.text() for item in self.beside),
        ]
        if self.added:
            lines += ["", added_table(self.added).text()]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


def _interval(bounds: tuple[float, float], sign: str = "") -> str:
    return "95 % interval " + " to ".join(f"{bound:{sign}.3f}" for bound in bounds)


def summarise(
    home: Home,
    studies: str | Sequence[str],
    rule: Rule = "average",
    per_modality: int = 1,
    wanted: Sequence[str] = (),
) -> Summary:
    """Searches the fusions of a study, or of several on the same videos, folds and labels.

    Args:
        rule, per_modality: as in `ptune.results.stats.FusionRule`.
        wanted: only these trials: a number, or STUDY:NUMBER where there are several studies.

    Raises:
        BadInput: no such study or trial, none has finished, or the studies do not compare.
    """
    streams = read_streams(home, [studies] if isinstance(studies, str) else studies, wanted)
    facts, candidates = streams.studies[0], streams.candidates
    names, metric = facts.config.grouping.names, facts.config.objective.metric
    how = streams.how(rule, per_modality)
    fusion = choose_fusion(candidates, metric, names, how)
    corrected = bbc_cv(candidates, metric, names, how.fewest_streams, rule=how.rule, per_modality=how.per_modality)
    rows = study_baselines(Ledger(home.ledger), facts)
    compared = beside(fusion.frame, rows, metric, names)
    return Summary(
        facts,
        streams,
        streams.table(fusion, rows),
        fusion,
        corrected,
        nested_choice(candidates, metric, names, how),
        added_by_each(streams.frames, fusion, names),
        beats_majority(fusion.frame, len(names)),
        compared,
        streams.warnings(fusion) + remarks(rows, compared),
    )


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
