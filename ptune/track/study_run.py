"""A study as a whole becomes the parent run: its description, its best fusion, its overview and its report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ptune.config import signature_of
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, TrialFacts, study_baselines
from ptune.results.fusion import study_fusion
from ptune.results.overview import FILE_NAME as OVERVIEW
from ptune.results.overview import overview_page
from ptune.results.tables import origin, study_signature, study_table
from ptune.track.optuna_study import importances
from ptune.track.store import STUDY_RUN, KnownRun, RunStore

if TYPE_CHECKING:
    import pandas as pd

#: During a sweep the overview is drawn at most this often; it is always drawn at the end.
OVERVIEW_SECONDS = 30.0


class StudyRun:
    """Keeps the parent run of one study equal to the ledger.

    Args:
        frame: gives the out-of-fold predictions of a trial.
    """

    def __init__(self, home: Home, study: str, frame: Callable[[TrialFacts], pd.DataFrame]) -> None:
        self.home, self.study, self.frame = home, study, frame
        self._drawn = -OVERVIEW_SECONDS

    def create(self, store: RunStore, facts: StudyFacts) -> KnownRun:
        """Makes the parent run."""
        seconds = sum(trial.seconds for trial in facts.trials.values())
        tags = {"ptune.signature": study_signature(facts), "mlflow.note.content": description(facts)}
        return store.create(STUDY_RUN, self.study, tags, int((time.time() - seconds) * 1000))

    def sync(self, store: RunStore, facts: StudyFacts, live: bool) -> bool:
        """Brings the parent run to the state of the ledger and returns whether anything changed."""
        run = store.known[STUDY_RUN]
        counts = Counter(trial.state for trial in facts.trials.values())
        tags = {
            "ptune.signature": study_signature(facts),
            "ptune.folds": str(facts.config.folds.count),
            "ptune.state": "running" if live or counts["running"] else "finished",
            "ptune.trials": ", ".join(f"{count} {state}" for state, count in sorted(counts.items())),
            "mlflow.note.content": description(facts),
        }
        files = self._overview(store, run, facts, live, tags) | self._reports(run, tags)
        store.put_files(run, files)
        status = "RUNNING" if live or counts["running"] or not counts else "FINISHED"
        seconds = sum(trial.seconds for trial in facts.trials.values())
        changed = store.set_status(run, status, seconds)
        return store.set_tags(run, tags) or changed

    def _overview(
        self, store: RunStore, run: KnownRun, facts: StudyFacts, live: bool, tags: dict[str, str]
    ) -> dict[str, bytes]:
        shown = [(trial.number, trial.state, *trial.fits.values()) for trial in facts.trials.values()]
        signature = signature_of([sorted(shown), [event["what"] for event in facts.decided]])
        late = live and time.monotonic() < self._drawn + OVERVIEW_SECONDS
        if late or not facts.trials or run.tags.get("ptune.overview") == signature:
            return {}
        self._drawn = time.monotonic()
        tags["ptune.overview"] = signature
        frames = {trial.number: self.frame(trial) for trial in facts.finished()}
        fusion = study_fusion(facts, frames)
        if fusion is not None:
            tags["ptune.fusion"] = ", ".join(f"{member.name} trial {member.trial}" for member in fusion.members)
            store.log_metrics(run, [(name, value, len(frames)) for name, value in fusion.metrics.items()])
        rows = study_baselines(Ledger(self.home.ledger), facts)
        return {
            "overview.md": study_table(facts, frames, fusion, rows).markdown().encode(),
            OVERVIEW: overview_page(facts, frames, fusion, importances(facts), rows).encode(),
        }

    def _reports(self, run: KnownRun, tags: dict[str, str]) -> dict[str, bytes]:
        """Returns what people were given as files of the study, where it has changed."""
        folder = self.home.reports / self.study
        files = {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}
        if not files:
            return {}
        tags["ptune.report"] = signature_of({name: content.hex() for name, content in files.items()})
        return {} if run.tags.get("ptune.report") == tags["ptune.report"] else files


def description(facts: StudyFacts) -> str:
    """Returns what MLflow shows above the study's run, as Markdown."""
    config, cohort = facts.config, facts.cohort
    names = ", ".join(f"`{name}`" for name in config.varied)
    return (
        f"{origin(facts)}Study **{config.study}**: task {config.task}, "
        f"{cohort['videos']} videos of {cohort['subjects']} subjects, "
        f"{config.folds.count} subject-disjoint folds; objective {config.objective.metric}, pooled out of fold.\n\n"
        f"{'Compared' if config.points else 'Searched'}: {names}.\n\n"
        f"One child run per trial: its settings are parameters, its folds are metrics `fold0.*` to "
        f"`fold{config.folds.count - 1}.*`. FINISHED went through all folds, KILLED was stopped by the race, FAILED "
        f"broke. Figures: artifact `{OVERVIEW}`."
    )
