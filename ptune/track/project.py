"""The ledger's facts about a study become MLflow runs: one parent run for the study, one child run per trial.

Running it again changes nothing; losing the tracking store loses nothing. MLflow gets digests, counts, settings and
metrics: never rows, subjects, paths or file names.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.errors import BadInput, StorageError
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.metrics import score_frame
from ptune.replay import Follower, StudyFacts, TrialFacts, out_of_fold
from ptune.results import plots
from ptune.results.privacy import public_reason
from ptune.results.stats import pooled_confusion
from ptune.results.tables import trial_name
from ptune.track.store import STUDY_RUN, KnownRun, RunStore, locked
from ptune.track.study_run import StudyRun

from mlflow.entities import Dataset, DatasetInput, InputTag  # isort: skip  # store.py sets MLflow up first

if TYPE_CHECKING:
    import pandas as pd

#: What MLflow calls each state of a trial.
STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
#: Constant or derived per epoch; the final metrics have them.
SKIPPED_PER_EPOCH = re.compile(r"(^|\.)(precision|recall|support)\.")

Points = Iterator[tuple[str, float, int]]


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
        self._store: RunStore | None = None
        self._frames: dict[tuple[str, ...], pd.DataFrame] = {}
        self._follower = Follower(self.ledger.study(study))
        self._study_run = StudyRun(home, study, self.frame)

    def sync(self, live: bool = False) -> SyncReport:
        """Brings MLflow to the state of the ledger.

        Args:
            live: a sweep goes on: its study is running, and its overview may be some seconds old.

        Raises:
            BadInput: there is no such study.
            StorageError: the tracking store's disk is full.
            MlflowException: the tracking store cannot be used; what was sent stays, the next sync sends the rest.
        """
        self._follower.update()
        facts = self._follower.facts
        if facts is None:
            raise BadInput(f"study {self.study!r}", "is not in this home", "", "`ptune status` lists the studies.")
        with locked(self.home.root / f".mlflow-{self.study}.lock"):
            try:
                return self._sync(facts, live)
            except BaseException as error:
                self._store = None
                if "database or disk is full" in str(error):
                    remedy = f"Free some space, then run `ptune sync {self.study}`: nothing is lost."
                    raise StorageError("tracking store", "its disk is full", "", remedy) from error
                raise

    def parent_run_id(self) -> str:
        """Returns the id of the study's own run.

        Raises:
            BadInput: the study was never synced.
        """
        run = self.store.known.get(STUDY_RUN)
        if run is None:
            raise BadInput(f"study {self.study!r}", "has no MLflow run yet", "", f"Run `ptune sync {self.study}`.")
        return run.run_id

    @property
    def store(self) -> RunStore:
        """The study's runs, connected on first use and again after a failure."""
        if self._store is None:
            self._store = RunStore(self.home, self.study)
        return self._store

    def frame(self, trial: TrialFacts) -> pd.DataFrame:
        """Returns a trial's out-of-fold predictions, read once."""
        key = tuple(trial.fits[fold] for fold in sorted(trial.fits))
        if key not in self._frames:
            self._frames[key] = out_of_fold(self.ledger, trial)
        return self._frames[key]

    def _sync(self, facts: StudyFacts, live: bool) -> SyncReport:
        store = self.store
        trials = {str(trial.number): trial for _, trial in sorted(facts.trials.items())}
        missing = store.ensure([STUDY_RUN, *trials])
        if STUDY_RUN in missing:
            self._study_run.create(store, facts)
        parent = store.known[STUDY_RUN]
        self._describe_data(facts, parent)
        changed = set()
        for key, trial in trials.items():
            if key in missing:
                self._create_trial(parent, facts, trial)
            if self._sync_trial(facts, trial, store.known[key]):
                changed.add(key)
        if self._study_run.sync(store, facts, live):
            changed.add(STUDY_RUN)
        return SyncReport(len(missing), len(changed.difference(missing)))

    def _create_trial(self, parent: KnownRun, facts: StudyFacts, trial: TrialFacts) -> None:
        tags = {
            "ptune.group": trial.group,
            "ptune.signature": facts.stream(trial).signature(),
            "mlflow.parentRunId": parent.run_id,
        }
        started = int((time.time() - trial.seconds) * 1000)
        self.store.create(str(trial.number), trial_name(trial), tags, started)

    def _describe_data(self, facts: StudyFacts, run: KnownRun) -> None:
        if "ptune.cohort" not in run.tags:
            self.store.log_dataset(run, _dataset(facts))
            self.store.set_tags(run, {"ptune.cohort": str(facts.cohort["digest"])})

    def _sync_trial(self, facts: StudyFacts, trial: TrialFacts, run: KnownRun) -> bool:
        """Logs what a trial's run lacks; its tags, written last, say how far it has come."""
        folds = ",".join(map(str, sorted(trial.fits)))
        tags = {
            "ptune.logged_reports": str(len(trial.reports)),
            "ptune.logged_folds": folds,
            "ptune.folds": f"{len(trial.fits)} of {facts.config.folds.count}",
            "ptune.state": trial.state,
            "ptune.reason": public_reason(trial.reason, facts.folds) if trial.reason else "",
        }
        self._describe_data(facts, run)
        changed = self.store.log_params(run, trial.params)
        finished = trial.state == "finished" and run.tags.get("ptune.state") != "finished"
        points = list(_curves(trial, int(run.tags.get("ptune.logged_reports", 0))))
        if trial.fits and (finished or run.tags.get("ptune.logged_folds", "") != folds):
            points += self._fold_metrics(facts, trial)
        if finished:
            pooled = trial.metrics or score_frame(self.frame(trial), facts.config.grouping.names)
            step = trial.reports[-1].step if trial.reports else 0
            points += [(name, value, step) for name, value in pooled.items()]
        self.store.log_metrics(run, points)
        if finished:
            self.store.put_files(run, self._pictures(facts, trial))
        changed |= self.store.set_status(run, STATUS[trial.state], trial.seconds)
        return self.store.set_tags(run, tags) or changed

    def _fold_metrics(self, facts: StudyFacts, trial: TrialFacts) -> Points:
        names = facts.config.grouping.names
        for fold, part in self.frame(trial).groupby("fold"):
            for name, value in score_frame(part, names).items():
                yield f"fold{fold}.{name}", value, 0

    def _pictures(self, facts: StudyFacts, trial: TrialFacts) -> dict[str, bytes]:
        if not trial.fits:
            return {}
        names = facts.config.grouping.names
        matrix = pooled_confusion(self.frame(trial), len(names))
        confusion = plots.confusion_figure(matrix, names, trial_name(trial))
        curves = plots.learning_curves(trial, facts.config.objective.metric)
        return {"confusion.png": plots.png(confusion), "learning_curves.png": plots.png(curves)}


def _curves(trial: TrialFacts, logged: int) -> Points:
    for report in trial.reports[logged:]:
        for name, value in {"objective": report.value, **report.metrics}.items():
            if not SKIPPED_PER_EPOCH.search(name):
                yield name, value, report.step


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
