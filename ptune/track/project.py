"""The ledger's facts about a study become MLflow runs: one parent run for the study, one child run per trial.

Running it again changes nothing; losing the tracking store loses nothing. MLflow gets digests, counts, settings and
metrics: never rows, subjects, paths or file names. One process writes at a time, the driver.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.cluster import stay_quiet
from ptune.config import signature_of
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.metrics import score_frame
from ptune.replay import StudyFacts, TrialFacts, out_of_fold, read_study
from ptune.results import plots
from ptune.results.fusion import study_fusion
from ptune.results.privacy import public_reason
from ptune.results.report import FILE_NAME
from ptune.results.stats import pooled_confusion
from ptune.results.tables import study_signature, study_table, trial_name

stay_quiet()
for _name, _value in (("MAX_RETRIES", "2"), ("TIMEOUT", "10")):
    os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{_name}", _value)

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

if TYPE_CHECKING:
    import pandas as pd

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.ERROR)

log = logging.getLogger(__name__)

#: What MLflow calls each state of a trial.
STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
BATCH = 1000
#: After a failure, syncs are skipped for this long, so that a sweep does not wait for a dead server at each trial.
PAUSE_SECONDS = 60.0
#: Constant or derived per epoch; the final metrics have them.
SKIPPED_PER_EPOCH = re.compile(r"(^|\.)(precision|recall|support)\.")


@dataclass(frozen=True)
class SyncReport:
    """How many runs a sync made, and how many that existed it changed."""

    created: int
    updated: int


class Projector:
    """Keeps the MLflow runs of one study equal to the ledger.

    Args:
        home: whose ledger is read and whose tracking store is written.
        study: name of the study, and of the MLflow experiment.
    """

    def __init__(self, home: Home, study: str) -> None:
        self.home, self.study, self.ledger = home, study, Ledger(home.ledger)
        self._client: MlflowClient | None = None
        self._frames: dict[tuple[str, ...], pd.DataFrame] = {}
        self._warned, self._paused_until = False, 0.0

    def sync(self) -> SyncReport:
        """Brings MLflow to the state of the ledger.

        Raises:
            BadInput: there is no such study.
            MlflowException: the tracking store cannot be used.
        """
        facts = read_study(self.ledger, self.study)
        if facts is None:
            raise BadInput(f"study {self.study!r}", "is not in this home", "", "`ptune status` lists the studies.")
        experiment = self._experiment()
        runs = self._runs(experiment)
        found = set(runs)
        parent = runs.get("") or self._create(
            experiment, self.study, {"ptune.signature": study_signature(facts)}, facts
        )
        changed = []
        for trial in sorted(facts.trials.values(), key=lambda item: item.number):
            key = str(trial.number)
            run = runs.get(key) or self._create_trial(experiment, parent.info.run_id, facts, trial)
            if self._sync_trial(facts, trial, run):
                changed.append(key)
        if self._sync_parent(facts, parent):
            changed.append("")
        present = {"", *map(str, facts.trials)}
        return SyncReport(len(present - found), len(found & set(changed)))

    def try_sync(self) -> bool:
        """Syncs, and returns whether that worked: a tracking store that is away never stops a sweep.

        The first failure is logged as a warning; for a minute after a failure nothing is tried.
        """
        if time.monotonic() < self._paused_until:
            return False
        try:
            self.sync()
        except Exception as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            self._client = None
            if not self._warned:
                self._warned = True
                log.warning(
                    "MLflow runs of study %s are behind (%s). Training goes on; `ptune sync %s` catches up.",
                    self.study,
                    type(error).__name__,
                    self.study,
                )
            return False
        return True

    def parent_run_id(self) -> str:
        """Returns the id of the study's own run.

        Raises:
            BadInput: the study was never synced.
        """
        run = self._runs(self._experiment()).get("")
        if run is None:
            raise BadInput(f"study {self.study!r}", "has no MLflow run yet", "", f"Run `ptune sync {self.study}`.")
        return str(run.info.run_id)

    @property
    def client(self) -> MlflowClient:
        """The tracking client, connected on first use."""
        if self._client is None:
            self._client = MlflowClient(tracking_uri=self.home.tracking_uri)
        return self._client

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.study)
        if found is None:
            embedded = self.home.tracking_uri == f"sqlite:///{self.home.root / 'mlflow.db'}"
            location = (self.home.artifacts / self.study).as_uri() if embedded else None
            return str(self.client.create_experiment(self.study, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _runs(self, experiment: str) -> dict[str, Run]:
        """Returns the study's runs by trial number, its own run under ""; of doubles the oldest."""
        runs: dict[str, Run] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [experiment],
                f"tags.`ptune.study` = '{self.study}'",
                max_results=BATCH,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                runs.setdefault(run.data.tags.get("ptune.trial", ""), run)
            token = page.token
            if not token:
                return runs

    def _create(
        self, experiment: str, name: str, tags: Mapping[str, str], facts: StudyFacts, seconds: float = 0.0
    ) -> Run:
        started = int((time.time() - seconds) * 1000)
        every = {"ptune.study": self.study, **tags}
        run = self.client.create_run(experiment, start_time=started, tags=every, run_name=name)
        self.client.log_inputs(run.info.run_id, datasets=[_dataset(facts)])
        return run

    def _create_trial(self, experiment: str, parent: str, facts: StudyFacts, trial: TrialFacts) -> Run:
        tags = {
            "ptune.trial": str(trial.number),
            "ptune.group": trial.group,
            "ptune.signature": facts.stream(trial).signature(),
            "mlflow.parentRunId": parent,
        }
        return self._create(experiment, trial_name(trial), tags, facts, trial.seconds)

    def _sync_trial(self, facts: StudyFacts, trial: TrialFacts, run: Run) -> bool:
        """Logs what a trial's run lacks; its tags say how far it has come, its timestamps make repeats harmless."""
        had, started = run.data.tags, run.info.start_time
        logged, folds = int(had.get("ptune.logged_reports", 0)), had.get("ptune.logged_folds", "")
        fresh = trial.reports[logged:]
        metrics = [
            Metric(_key(name), value, started + report.step, report.step)
            for report in fresh
            for name, value in {"objective": report.value, **report.metrics}.items()
            if not SKIPPED_PER_EPOCH.search(name)
        ]
        now_folds = ",".join(map(str, sorted(trial.fits)))
        status = STATUS[trial.state]
        tags = {
            "ptune.logged_reports": str(len(trial.reports)),
            "ptune.logged_folds": now_folds,
            "ptune.folds": f"{len(trial.fits)} of {facts.config.folds.count}",
            "ptune.state": trial.state,
        }
        if trial.reason:
            tags["ptune.reason"] = public_reason(trial.reason, facts.folds)
        tags = {name: value for name, value in tags.items() if had.get(name) != value}
        params = [Param(name, str(value)) for name, value in trial.params.items() if name not in run.data.params]
        if not tags and not params and run.info.status == status:
            return False
        finished = trial.state == "finished" and had.get("ptune.state") != "finished"
        if trial.fits and (now_folds != folds or finished):
            metrics += self._fold_metrics(facts, trial, started)
        if trial.state == "finished":
            pooled = trial.metrics or score_frame(self._frame(trial), facts.config.grouping.names)
            step = trial.reports[-1].step if trial.reports else 0
            metrics += [Metric(_key(name), value, started + step, step) for name, value in pooled.items()]
        self._log(run.info.run_id, metrics, params)
        if finished:
            self._trial_artifacts(facts, trial, run.info.run_id)
        if run.info.status != status:
            end = None if trial.state == "running" else started + int(trial.seconds * 1000)
            self._set_status(run.info.run_id, status, end)
        self.client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        return True

    def _sync_parent(self, facts: StudyFacts, run: Run) -> bool:
        states = [trial.state for trial in facts.trials.values()]
        waiting = facts.config.budget.gpu_hours is None and len(states) < facts.config.budget.trials
        status = "RUNNING" if waiting or "running" in states else "FINISHED"
        report = self.home.reports / self.study / FILE_NAME
        content = report.read_bytes() if report.is_file() else b""
        done = sorted((trial.number, *sorted(trial.fits.values())) for trial in facts.finished())
        tags = {
            "ptune.signature": study_signature(facts),
            "ptune.cohort": str(facts.cohort["digest"]),
            "ptune.folds": str(facts.config.folds.count),
            "ptune.trials": ", ".join(f"{states.count(state)} {state}" for state in STATUS if state in states),
            "ptune.overview": signature_of([done, [event["what"] for event in facts.decided]]),
            "ptune.report": signature_of(content.hex()) if content else "",
        }
        tags = {name: value for name, value in tags.items() if run.data.tags.get(name, "") != value}
        if not tags and run.info.status == status:
            return False
        files: dict[str, bytes] = {}
        if "ptune.overview" in tags:
            frames = {trial.number: self._frame(trial) for trial in facts.finished()}
            fusion = study_fusion(facts, frames)
            files["overview.md"] = study_table(facts, frames, fusion).markdown().encode()
            if fusion is not None:
                tags["ptune.fusion"] = ", ".join(f"{name} trial {number}" for name, number in fusion.members.items())
                step, moment = len(done), run.info.start_time + len(done)
                pairs = fusion.metrics.items()
                self._log(run.info.run_id, [Metric(_key(name), value, moment, step) for name, value in pairs])
        if "ptune.report" in tags:
            files[FILE_NAME] = content
        self._store(run.info.run_id, files)
        if run.info.status != status:
            seconds = sum(trial.seconds for trial in facts.trials.values())
            end = run.info.start_time + int(seconds * 1000)
            self._set_status(run.info.run_id, status, None if status == "RUNNING" else end)
        self.client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        return True

    def _fold_metrics(self, facts: StudyFacts, trial: TrialFacts, started: int) -> Iterable[Metric]:
        names = facts.config.grouping.names
        for fold, part in self._frame(trial).groupby("fold"):
            for name, value in score_frame(part, names).items():
                yield Metric(_key(f"fold{fold}.{name}"), value, started, 0)

    def _trial_artifacts(self, facts: StudyFacts, trial: TrialFacts, run_id: str) -> None:
        names = facts.config.grouping.names
        matrix = pooled_confusion(self._frame(trial), len(names))
        confusion = plots.confusion_figure(matrix, names, trial_name(trial))
        curves = plots.learning_curves(trial, facts.config.objective.metric)
        self._store(run_id, {"confusion.png": plots.png(confusion), "learning_curves.png": plots.png(curves)})

    def _frame(self, trial: TrialFacts) -> pd.DataFrame:
        key = tuple(trial.fits[fold] for fold in sorted(trial.fits))
        if key not in self._frames:
            self._frames[key] = out_of_fold(self.ledger, trial)
        return self._frames[key]

    def _log(self, run_id: str, metrics: list[Metric], params: list[Param] | None = None) -> None:
        if params:
            self.client.log_batch(run_id, params=params[:100])
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _store(self, run_id: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return
        with tempfile.TemporaryDirectory(prefix="ptune-") as scratch:
            for name, content in files.items():
                path = Path(scratch) / name
                path.write_bytes(content)
                self.client.log_artifact(run_id, str(path))

    def _set_status(self, run_id: str, status: str, end: int | None) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status, end_time=end)


def _key(name: str) -> str:
    """Returns a metric's name with what MLflow refuses replaced by underscores."""
    return re.sub(r"[^\w\-. ]", "_", name)


def _dataset(facts: StudyFacts) -> DatasetInput:
    """Describes the cohort by digest and counts."""
    cohort: dict[str, Any] = facts.cohort
    counts = {name: cohort[name] for name in ("videos", "subjects", "class_counts")}
    dataset = Dataset(
        name=f"cohort of {facts.config.study}",
        digest=str(cohort["digest"])[:32],
        source_type="ptune",
        source=json.dumps({"manifest_sha256": cohort["digest"]}),
        profile=json.dumps(counts, sort_keys=True),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "cross-validation")])
