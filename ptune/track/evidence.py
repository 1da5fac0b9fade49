"""What a study knows of its best fusion becomes the evidence of a registered version.

The table that promotions compare, one row per video, stays in the ledger; MLflow gets its checksum and the numbers.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ptune
from ptune.config import STAGE_VERSIONS, ClassGrouping
from ptune.errors import LedgerError, PromotionRefused, RegistryError
from ptune.ledger import Ledger
from ptune.metrics import METRICS, majority_row
from ptune.replay import StudyFacts
from ptune.results.added import Added
from ptune.results.beside import Beside
from ptune.results.stats import AgainstMajority, Corrected, Member, Rule, class_subjects, cluster_interval
from ptune.results.summary import Summary
from ptune.results.tables import origin, study_signature

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["video_id", "subject", "fold", "score", "label", "probabilities"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """All that a reviewer asks of a version; every number is about subjects that the scoring networks had not seen.

    Args:
        study, signature: which study, and what it measures.
        table: sha256 of the fused out-of-fold predictions, kept beside the study's events.
        members: the fused streams, and by which rule they were chosen.
        metric: what the fusion was chosen by.
        cohort: digest of the manifest and counts.
        class_subjects: how many subjects have a video of each class.
        metrics: pooled over folds; those of `ptune.metrics.METRICS` have an interval over subjects.
        majority: metrics of always answering the most frequent class.
        added: what `metric` has gained from each stream.
        ablation: the latest leave-one-out ablation of this fusion: its name and `contrasts`, each with `one` (what is
            left) minus `other` (the whole); None where there is none.
        code: versions of ptune and its stages, and the commit where ptune lies in a git repository.
    """

    study: str
    signature: str
    table: str
    task: str
    grouping: ClassGrouping
    folds: int
    rule: Rule
    members: tuple[Member, ...]
    metric: str
    cohort: Mapping[str, Any]
    origin: str
    class_subjects: tuple[int, ...]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    majority: Mapping[str, float]
    corrected: Corrected
    against_majority: AgainstMajority
    beside: tuple[Beside, ...]
    added: tuple[Added, ...]
    ablation: Mapping[str, Any] | None
    warnings: tuple[str, ...]
    code: Mapping[str, Any]

    def tags(self) -> dict[str, str]:
        """Returns what a promotion reads, and what people compare in MLflow's lists."""
        low, high = self.intervals[self.metric]
        least, most = self.corrected.interval
        return {
            "ptune.study": self.study,
            "ptune.evidence": self.table,
            "ptune.cohort": str(self.cohort["digest"]),
            "ptune.classes": json.dumps(self.grouping.names),
            "ptune.metric": self.metric,
            "ptune.value": f"{self.metrics[self.metric]:.4f}",
            "ptune.interval": f"{low:.4f} to {high:.4f}",
            "ptune.corrected": f"{self.corrected.corrected:.4f}",
            "ptune.corrected_interval": f"{least:.4f} to {most:.4f}",
            "ptune.majority": f"{self.majority[self.metric]:.4f}",
            "ptune.p_value": f"{self.against_majority.p_value:.4g}",
            "ptune.subjects": str(self.against_majority.subjects),
        }

    def facts(self) -> dict[str, Any]:
        """Returns plain values: counts and numbers, nothing of any one subject."""
        names = self.grouping.names
        return {
            "study": {"name": self.study, "signature": self.signature, "folds": self.folds, "metric": self.metric},
            "data": {
                "cohort": self.cohort["digest"],
                "task": self.task,
                "videos": self.cohort["videos"],
                "subjects": self.cohort["subjects"],
                "videos_by_class": self.cohort["class_counts"],
                "subjects_by_class": dict(zip(names, self.class_subjects, strict=True)),
            },
            "rule": self.rule,
            "streams": [member.facts() for member in self.members],
            "metrics": {
                name: {"value": value, "interval": self.intervals.get(name), "majority": self.majority[name]}
                for name, value in self.metrics.items()
            },
            "corrected": self.corrected.facts(),
            "against_majority": vars(self.against_majority),
            "beside": [item.facts() for item in self.beside],
            "added_by_stream": [item.facts() for item in self.added],
            "ablation": self.ablation,
            "evidence_table": self.table,
            "code": dict(self.code),
            "warnings": list(self.warnings),
        }


def gather_evidence(summary: Summary, ledger: Ledger) -> Evidence:
    """Returns the evidence for a study's best fusion, its table stored durably in the ledger."""
    facts, fusion = summary.study, summary.fusion
    config, frame = facts.config, fusion.frame
    names = config.grouping.names
    table = ledger.study(config.study).keep(fused_table(frame))
    return Evidence(
        study=config.study,
        signature=study_signature(facts),
        table=table,
        task=config.task,
        grouping=config.grouping,
        folds=config.folds.count,
        rule=fusion.how.rule,
        members=fusion.members,
        metric=fusion.metric,
        cohort=facts.cohort,
        origin=origin(facts),
        class_subjects=tuple(class_subjects(frame, len(names))),
        metrics=fusion.metrics,
        intervals={metric: cluster_interval(frame, metric, names) for metric in METRICS},
        majority=majority_row(frame["label"].to_numpy(), names),
        corrected=summary.corrected,
        against_majority=summary.test,
        beside=summary.beside,
        added=summary.added,
        ablation=_ablation(facts, table),
        warnings=tuple(summary.warnings),
        code=code_identity(),
    )


def fused_table(frame: pd.DataFrame) -> Any:
    """Returns a fused out-of-fold table as Arrow, its rows in order of their videos."""
    import pyarrow as pa

    ordered = frame.sort_values("video_id", ignore_index=True)[COLUMNS]
    return pa.Table.from_pandas(ordered, preserve_index=False).replace_schema_metadata(None)


@dataclass(frozen=True)
class Recorded:
    """Where the evidence of a version lies, and what it is about, as its tags say."""

    study: str
    table: str
    metric: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Recorded:
        """Reads the tags of a version.

        Raises:
            RegistryError: the version was not registered by ptune.
        """
        try:
            classes = tuple(json.loads(tags["ptune.classes"]))
            return cls(tags["ptune.study"], tags["ptune.evidence"], tags["ptune.metric"], classes)
        except KeyError as missing:
            raise RegistryError("model version", f"has no tag {missing}", "one registered by ptune") from None

    def frame(self, ledger: Ledger, whose: str) -> pd.DataFrame:
        """Returns the fused out-of-fold predictions.

        Args:
            whose: what messages call the version.

        Raises:
            PromotionRefused: they are not in this ledger.
        """
        try:
            table: pd.DataFrame = ledger.study(self.study).table(self.table).to_pandas()
        except LedgerError:
            raise PromotionRefused(
                whose,
                f"its evidence, table {self.table[:16]} of study {self.study!r}, is not whole in this ledger",
                "the predictions that it was registered with",
                f"Use the ledger that it was registered from, or register it again: ptune register {self.study}",
            ) from None
        return table


def code_identity() -> dict[str, Any]:
    """Returns which code this is: version, stages, and the commit where the package is part of a git repository."""
    return {"ptune": ptune.__version__, "stages": STAGE_VERSIONS, "commit": _commit(Path(ptune.__file__).parent)}


def _commit(package: Path) -> str | None:
    """Returns the last commit that touched a folder, with a plus sign where it has changed since."""
    try:
        found = _git(package, "log", "-1", "--format=%H", "--", ".")
        return found + ("+" if _git(package, "status", "--porcelain", "--", ".") else "") if found else None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _ablation(facts: StudyFacts, table: str) -> dict[str, Any] | None:
    """Returns what an ablation has recorded of the fusion whose predictions are this table."""
    found = [event for event in facts.decided if event["what"] == "ablation" and event["fusion"] == table]
    return {name: found[-1][name] for name in ("ablation", "metric", "contrasts")} if found else None
