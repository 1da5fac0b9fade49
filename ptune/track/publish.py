"""What people do with studies and models, each as one call: run, register, predict."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptune.config import StudyConfig
from ptune.errors import BadInput
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import FitRecord, Ledger
from ptune.replay import StudyFacts
from ptune.results.fusion import Fusion
from ptune.results.stats import Rule
from ptune.results.status import require_study
from ptune.results.summary import Summary, report_study, summarise
from ptune.results.watch import live
from ptune.track.bundle import BundleSpec, BundleStream
from ptune.track.evidence import gather_evidence
from ptune.track.optuna_study import importances
from ptune.track.project import Projector
from ptune.track.registry import MODEL_NAME, Registry
from ptune.track.seen import Seen
from ptune.track.team import in_team
from ptune.track.writer import projection
from ptune.tune.conductor import Tally
from ptune.tune.study import SweepReport, refit, run_fits, sweep

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

#: Which networks a registered model has.
Weights = Literal["refit", "folds"]


@dataclass(frozen=True)
class StudyOutcome:
    """A launch of a study: what it did, what the study shows, where the report is."""

    sweep: SweepReport
    summary: Summary | None
    report: Path

    @property
    def tally(self) -> Tally:
        """What was trained and what was reused."""
        return self.sweep.tally

    @property
    def fusion(self) -> Fusion | None:
        """The best fusion, where a trial has finished."""
        return self.summary.fusion if self.summary else None

    @property
    def interrupted(self) -> bool:
        """Whether trials are left to run."""
        return self.sweep.interrupted

    @property
    def failed(self) -> int:
        """How many trials failed."""
        return sum(trial.state == "failed" for trial in self.sweep.facts.trials.values())

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        found = self.summary.facts() if self.summary else {}
        extraction = self.sweep.extraction
        return found | {
            "fits": {"trained": self.tally.fits_trained, "reused": self.tally.fits_reused},
            "trials": {"ended_now": self.tally.trials_ended, "ended_before": self.tally.trials_before},
            "failed": self.failed,
            "quarantined": len(extraction.quarantined),
            "report": str(self.report),
        }

    def text(self) -> str:
        """Returns what was done, the study's table and what to do next."""
        name = self.sweep.facts.config.study
        tally = self.tally
        lines = [self.sweep.extraction.text()]
        if tally.trials_ended == 0 and not self.interrupted:
            lines.append(f"Nothing to train: all {tally.trials_before} trials of {name} had ended; all was reused.")
        else:
            lines.append(
                f"{tally.trials_ended} trials ended, {tally.trials_before} had before; "
                f"{tally.fits_trained} fits trained, {tally.fits_reused} reused."
            )
        lines += [f"warning: {text}" for text in self.sweep.plan.warnings]
        lines.append("")
        if self.summary:
            lines.append(self.summary.text())
        failures = [trial for trial in self.sweep.facts.trials.values() if trial.state == "failed"]
        lines += [f"failed: trial {trial.number}, {trial.reason}" for trial in failures]
        if self.interrupted:
            lines.append(f"Interrupted{f': {problem}' if (problem := self.sweep.problem) else ''}.")
            lines.append("Run the same command again to go on.")
        lines += [f"Report: {self.report}", f"Next: ptune register {name}"]
        return "\n".join(lines)


def run_study(
    config: StudyConfig,
    folder: Path,
    home: Home,
    workers: int | None = None,
    subjects: Container[str] | None = None,
) -> StudyOutcome:
    """Runs or resumes a study, keeps MLflow up to date as trials end, and writes the report.

    Args:
        folder: where the study's relative paths start.
        subjects: who takes part; default everybody in the manifest.

    Raises:
        BadInput: something the user gave cannot be used.
    """
    with projection(home, config.study) as poke:
        report = sweep(config, folder, home, workers, live(Ledger(home.ledger), config.study, poke), subjects=subjects)
        summary = summarise(home, config.study) if report.facts.finished() else None
        page = write_study_report(home, config.study)
    return StudyOutcome(report, summary, page)


def write_study_report(home: Home, name: str, with_frames: bool = False) -> Path:
    """Writes the HTML report of a study and returns its path.

    Args:
        with_frames: show some of the videos, in a folder of its own whose files go nowhere else.
    """
    return report_study(home, name, importances(require_study(home, name)), with_frames)


def register_study(
    home: Home,
    name: str,
    workers: int | None = None,
    rule: Rule = "average",
    per_modality: int = 1,
    weights: Weights = "refit",
    model: str | None = None,
) -> tuple[ModelVersion, Fusion]:
    """Registers the best fused streams of a study as candidate.

    The same streams on the same data are the same model: registered again, the existing version is returned.

    Args:
        rule, per_modality: how the fusion is chosen, as in `ptune.results.stats.FusionRule`.
        weights: `refit` trains each stream once more, on all subjects; `folds` takes the networks of all folds, whose
            probabilities are averaged: nothing is trained, and scoring takes as many times as long as there are folds.

    Raises:
        BadInput: no such study, no trial of it has finished, or no model can be called so.
        StudyBusy: it is being run, so that the registration could not be recorded.
    """
    require_study(home, name)
    model = in_team(name if model is None else model)
    if not re.fullmatch(MODEL_NAME, model):
        allowed = "at most 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        raise BadInput("--model", f"is {model!r}", allowed, "Choose another.")
    with Ledger(home.ledger).study(name).lease(inherits=True):
        return _register(home, summarise(home, name, rule, per_modality), model, workers, weights)


def _register(
    home: Home, summary: Summary, model: str, workers: int | None, weights: Weights
) -> tuple[ModelVersion, Fusion]:
    name = summary.study.config.study
    facts, fusion = summary.study, summary.fusion
    ledger = Ledger(home.ledger)
    folds = {member.name: _fits_of(ledger, facts, member.trial) for member in fusion.members}
    if weights == "folds":
        records = [record for fits in folds.values() for record in fits]
    else:
        records = run_fits([refit(fits[0].spec) for fits in folds.values()], facts.config.extraction, home, workers)
    bundle = BundleSpec(
        study=name,
        task=facts.config.task,
        grouping=facts.config.grouping,
        extraction=facts.config.extraction,
        streams=tuple(
            BundleStream(
                name=member.name,
                weight=member.weight,
                stream=folds[member.name][0].spec.stream,
                models=len(folds[member.name]) if weights == "folds" else 1,
            )
            for member in fusion.members
        ),
        seen=Seen.of(open_store(home.features, facts.config.extraction), fusion.frame["video_id"]),
    )
    evidence = gather_evidence(summary, ledger)
    projector = Projector(home, name)
    projector.sync()
    version = Registry(home).register(model, projector.parent_run_id(), bundle, records, evidence)
    log = ledger.study(name)
    made = {"model": model, "version": int(version.version), "evidence": evidence.table}
    made |= {"fits": [record.signature for record in records]}
    if not any(made.items() <= event.items() for event in facts.decided):
        log.append("decided", **fusion.decision() | {"what": "registered"} | made)
    return version, fusion


def _fits_of(ledger: Ledger, facts: StudyFacts, trial: int) -> list[FitRecord]:
    """Returns a trial's fits in the order of folds."""
    found = [ledger.find_fit(signature) for _, signature in sorted(facts.trials[trial].fits.items())]
    fits = [record for record in found if record is not None]
    if not fits or len(fits) < len(found):
        raise BadInput(f"study {facts.config.study!r}", f"trial {trial} has lost its fits", "", "Run its sweep again.")
    return fits
