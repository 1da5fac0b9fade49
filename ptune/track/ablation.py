"""An ablation as one call: train the streams that are missing, compute its cells, write its tables and its page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.config import StudyConfig
from ptune.config.ablation import AblationConfig, Settings
from ptune.config.leave_one_out import read_ablation
from ptune.errors import BadInput
from ptune.home import Home, write_bytes
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, read_study
from ptune.results.ablation import AblationResult, ablation_result
from ptune.results.ablation_report import ablation_files
from ptune.results.status import require_study
from ptune.results.summary import summarise
from ptune.results.watch import live
from ptune.track.evidence import fused_table
from ptune.track.publish import write_study_report
from ptune.track.writer import projection
from ptune.tune.estimate import StudyEstimate, estimate_study
from ptune.tune.plan import read_inputs
from ptune.tune.study import SweepReport, sweep


@dataclass(frozen=True)
class AblationOutcome:
    """A launch of an ablation: what it trained for each task, and what its cells show; no result while none is done."""

    config: AblationConfig
    sweeps: tuple[SweepReport, ...]
    result: AblationResult
    report: Path

    @property
    def interrupted(self) -> bool:
        """Whether streams are left to train."""
        return any(report.interrupted for report in self.sweeps) or len(self.sweeps) < len(self.config.tasks)

    @property
    def failed(self) -> int:
        """How many cells lack a stream that failed."""
        return sum(bool(cell.problem) for numbers in self.result.tasks for cell in numbers.task.cells)

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return self.result.facts() | {
            "fits": {
                "trained": sum(report.tally.fits_trained for report in self.sweeps),
                "reused": sum(report.tally.fits_reused for report in self.sweeps),
            },
            "interrupted": self.interrupted,
            "report": str(self.report),
        }

    def text(self) -> str:
        """Returns what was done, the tables and where the page is."""
        lines = [line for launch in self.sweeps for line in _told(launch)]
        lines += ["", self.result.text()]
        problems = [launch.problem for launch in self.sweeps if launch.problem]
        if self.interrupted:
            lines.append(f"Interrupted{f': {problems[0]}' if problems else ''}. Run the same command again to go on.")
        lines.append(f"Report and tables: {self.report.parent}")
        return "\n".join(lines)


def _told(report: SweepReport) -> list[str]:
    tally, name = report.tally, report.facts.config.study
    if tally.trials_ended == 0 and not report.interrupted:
        done = f"{name}: nothing to train, all {tally.trials_before} streams were there."
    else:
        done = (
            f"{name}: {tally.trials_ended} streams ended, {tally.trials_before} had before; "
            f"{tally.fits_trained} fits trained, {tally.fits_reused} reused."
        )
    return [report.extraction.text(), done, *(f"warning: {text}" for text in report.plan.warnings)]


def load_ablation(path: Path, home: Home) -> AblationConfig:
    """Reads an ablation from YAML; one that names a study takes the best fusion of it apart.

    Raises:
        BadInput: the file cannot be used, or the study is not there or has no finished trial.
    """
    spec = read_ablation(path)
    if isinstance(spec, AblationConfig):
        return spec
    summary = summarise(home, spec.study)
    facts = summary.study
    members = {member.name: _settings(facts, member.trial) for member in summary.fusion.members}
    return spec.resolve(facts.config, members)


def _settings(facts: StudyFacts, number: int) -> Settings:
    """Returns all settings of a trial, as its own revision of the study has them."""
    trial = facts.trials[number]
    config = facts.configs.get(trial.revision, facts.config)
    return {"init": config.init} | config.fixed | trial.params


def run_ablation(config: AblationConfig, folder: Path, home: Home, workers: int | None = None) -> AblationOutcome:
    """Runs or resumes an ablation, task after task, and writes its tables and its page.

    Args:
        folder: where the ablation's relative paths start.

    Raises:
        BadInput: something the user gave cannot be used; nothing was written.
    """
    ledger = Ledger(home.ledger)
    studies = [config.study(task) for task in config.tasks]
    like = _checked(config, studies, folder, home)
    sweeps = []
    for study in studies:
        with projection(home, study.study) as poke:
            sweeps.append(sweep(study, folder, home, workers, live(ledger, study.study, poke), like))
            write_study_report(home, study.study)
        if sweeps[-1].interrupted:
            break
    result = ablation_result(config, ledger)
    report = home.reports / config.ablation / "report.html"
    for name, content in ablation_files(result).items():
        write_bytes(report.parent / name, content)
        for done in sweeps:
            write_bytes(home.reports / done.facts.config.study / f"ablation-{name}", content)
    for done in sweeps:
        with projection(home, done.facts.config.study):
            pass  # As it ends it sends the tables, or says that MLflow is away.
    if config.like:
        _tell_study(config.like, result, ledger)
    return AblationOutcome(config, tuple(sweeps), result, report)


def _tell_study(name: str, result: AblationResult, ledger: Ledger) -> None:
    """Records with the study that was taken apart what each part is worth, for whoever registers that fusion.

    Raises:
        StudyBusy: the study is being run.
    """
    log = ledger.study(name)
    for numbers in result.tasks:
        if not numbers.against_reference:
            continue
        contrasts = [contrast.facts() for contrast in numbers.against_reference.values()]
        decision = {
            "what": "ablation",
            "ablation": result.config.ablation,
            "metric": numbers.metric,
            "fusion": log.keep(fused_table(numbers.cells[numbers.reference][0])),
            "contrasts": json.loads(json.dumps(contrasts)),
        }
        if not any(decision.items() <= event.items() for event in log.events()):
            log.append("decided", **decision)


@dataclass(frozen=True)
class AblationEstimate:
    """What an ablation would take, task by task."""

    config: AblationConfig
    tasks: tuple[StudyEstimate, ...]

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"ablation": self.config.ablation, "tasks": [task.facts() for task in self.tasks]} | self._counts()

    def text(self) -> str:
        """Returns a page for a terminal."""
        counts = self._counts()
        head = (
            f"{self.config.ablation}: {counts['cells']} cells of {counts['streams']} streams; {counts['missing']} fits "
            f"to train, {counts['there']} are there"
        )
        return "\n\n".join([head, *(task.text() for task in self.tasks)])

    def _counts(self) -> dict[str, int]:
        folds = self.config.folds.count
        streams = sum(task.trials for task in self.tasks)
        missing = sum(task.fits for task in self.tasks)
        cells = sum(len(self.config.cells(task)) for task in self.config.tasks)
        return {"cells": cells, "streams": streams, "missing": missing, "there": streams * folds - missing}


def estimate_ablation(config: AblationConfig, folder: Path, home: Home, workers: int | None = None) -> AblationEstimate:
    """Returns what each task's streams would take that the ledger does not have.

    Raises:
        BadInput: something the user gave cannot be used.
    """
    studies = [config.study(task) for task in config.tasks]
    _checked(config, studies, folder, home)
    return AblationEstimate(config, tuple(estimate_study(study, folder, home, workers) for study in studies))


def _checked(config: AblationConfig, studies: list[StudyConfig], folder: Path, home: Home) -> StudyFacts | None:
    """Reads every input before anything is written, and returns the study whose folds are kept."""
    like = require_study(home, config.like) if config.like else None
    for study in studies:
        manifest, _ = read_inputs(study, folder, home)
        if like is not None and read_study(Ledger(home.ledger), study.study) is None:
            lacking = set(like.folds) - set(manifest.subjects())
            if lacking:
                raise BadInput(
                    f"ablation {config.ablation!r}",
                    f"its cohort lacks {len(lacking)} subjects of study {config.like!r}",
                    "the cohort of the study",
                    "Name the manifest that the study was run with.",
                )
    return like
