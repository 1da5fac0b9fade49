"""What people do with studies and models, each as one call: run, register, predict."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ptune.config import StudyConfig
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.metrics import majority_row
from ptune.results.fusion import Fusion
from ptune.results.status import require_study
from ptune.results.summary import Summary, report_study, summarise
from ptune.results.watch import live
from ptune.track.bundle import BundleSpec
from ptune.track.optuna_study import importances
from ptune.track.project import Projector
from ptune.track.registry import Evidence, Registry
from ptune.track.writer import projection
from ptune.tune.conductor import Tally
from ptune.tune.study import SweepReport, refit, run_fits, sweep

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


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


def register_study(home: Home, name: str, workers: int | None = None) -> tuple[ModelVersion, Fusion]:
    """Refits the best fused streams of a study on all its subjects and registers them as candidate.

    The same streams on the same data are the same model: registered again, the existing version is returned.

    Raises:
        BadInput: no such study, or no trial of it has finished.
        StudyBusy: it is being run, so that the registration could not be recorded.
    """
    require_study(home, name)
    with Ledger(home.ledger).study(name).lease():
        return _register(home, name, workers)


def _register(home: Home, name: str, workers: int | None) -> tuple[ModelVersion, Fusion]:
    summary = summarise(home, name)
    facts, fusion = summary.study, summary.fusion
    ledger = Ledger(home.ledger)
    specs = []
    for number in fusion.members.values():
        first = ledger.find_fit(facts.trials[number].fits[0])
        if first is None:
            raise BadInput(f"study {name!r}", f"trial {number} has lost its fits", "", "Run its sweep again.")
        specs.append(refit(first.spec))
    records = run_fits(specs, facts.config.extraction, home, workers)
    bundle = BundleSpec(
        study=name,
        task=facts.config.task,
        grouping=facts.config.grouping,
        extraction=facts.config.extraction,
        streams=tuple(spec.stream for spec in specs),
    )
    names = facts.config.grouping.names
    evidence = Evidence(
        metric=fusion.metric,
        value=fusion.value,
        majority=majority_row(fusion.frame["label"].to_numpy(), names)[fusion.metric],
        p_value=summary.test.p_value,
        cohort=facts.cohort["digest"],
    )
    projector = Projector(home, name)
    projector.sync()
    version = Registry(home).register(name, projector.parent_run_id(), bundle, records, evidence)
    log = ledger.study(name)
    if not any(event.get("version") == version.version for event in facts.decided):
        fits = [record.signature for record in records]
        log.append("decided", **fusion.decision() | {"what": "registered", "version": version.version, "fits": fits})
    return version, fusion


@dataclass(frozen=True)
class Answer:
    """Scores of videos, one row each."""

    videos: tuple[Path, ...]
    rows: pd.DataFrame

    @property
    def problems(self) -> int:
        """How many videos could not be scored."""
        return int((self.rows["problem"] != "").sum())

    def facts(self) -> list[dict[str, Any]]:
        """Returns plain values; probabilities of a video with a problem are null."""
        rows = self.rows.astype(object).where(self.rows.notna(), None).to_dict("records")
        return [
            {"video": str(video)} | {str(name): value for name, value in row.items()}
            for video, row in zip(self.videos, rows, strict=True)
        ]

    def text(self) -> str:
        """Returns one line per video."""
        names = [name for name in self.rows.columns if name.startswith("probability.")]
        lines = []
        for video, row in zip(self.videos, self.rows.to_dict("records"), strict=True):
            parts = "  ".join(f"{name.removeprefix('probability.')} {row[name]:.2f}" for name in names)
            lines.append(
                f"{video.name}: "
                + (f"not scored, {row['problem']}" if row["problem"] else f"{row['score_group']}  ({parts})")
            )
        return "\n".join(lines)


def predict_videos(home: Home, name: str, alias: str, videos: Sequence[Path]) -> Answer:
    """Scores video files with a registered model.

    Raises:
        BadInput: a file does not exist, or there is no such model.
    """
    for video in videos:
        if not video.is_file():
            raise BadInput(f"video {video.name!r}", "there is no such file", "a video file", "Check the path.")
    model = Registry(home).load(name, alias)
    rows = model.predict(pd.DataFrame({"video": [str(video.absolute()) for video in videos]}))
    return Answer(tuple(videos), rows)
