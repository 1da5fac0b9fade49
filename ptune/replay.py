"""Study events become the present state of a study: its configuration and its trials.

Reads the ledger only; knows nothing of Ray, Optuna or MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ptune.config import StreamConfig, StudyConfig
from ptune.ledger import Ledger, StudyLog

if TYPE_CHECKING:
    import pandas as pd

State = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Report:
    """One epoch of one fold as the race saw it; `value` is the objective on the cheap validation protocol."""

    fold: int
    epoch: int
    step: int
    value: float
    metrics: dict[str, float]


@dataclass
class TrialFacts:
    """One trial as the events tell it.

    Args:
        seconds: what it has cost so far, whatever became of it.
        waiting: it is at a rung and goes on when it is among the best there.
    """

    number: int
    group: str
    params: dict[str, Any]
    revision: int = 1
    state: State = "running"
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    fits: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    reports: list[Report] = field(default_factory=list)
    reason: str = ""
    waiting: bool = False


@dataclass(frozen=True)
class Baseline:
    """A row that stands beside the trials of every study, to compare them with.

    Args:
        key: which one it is: `nuisance` or `frozen`.
        name: what tables call it.
        frame: out-of-fold predictions, columns video_id, subject, fold, score, label, probabilities; None where the
            row is missing.
        note: why it is missing, or what it does without.
    """

    key: str
    name: str
    frame: pd.DataFrame | None
    note: str = ""


@dataclass
class StudyFacts:
    """A study as the events tell it.

    Args:
        cohort: digest and counts of the manifest, no rows.
        folds: fold of each subject.
        revision: rises when the search space or its fixed settings change; older trials keep theirs.
        decided: later decisions (baselines, registration) in order.
        configs: configuration of each revision.
        ended: numbers of trials that have ended, in that order.
        max_gpus: so many GPUs at once at most: as its file says, or as was asked since.
    """

    config: StudyConfig
    cohort: dict[str, Any]
    folds: dict[str, int]
    revision: int = 1
    trials: dict[int, TrialFacts] = field(default_factory=dict)
    decided: list[dict[str, Any]] = field(default_factory=list)
    configs: dict[int, StudyConfig] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    max_gpus: int | None = None

    def stream(self, trial: TrialFacts) -> StreamConfig:
        """Returns the stream that a trial trained."""
        return self.configs.get(trial.revision, self.config).stream(trial.params)

    def finished(self) -> list[TrialFacts]:
        """Returns fully cross-validated trials, best first; ties go to the earlier one."""
        done = [trial for trial in self.trials.values() if trial.state == "finished" and trial.value is not None]
        return sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number))

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        """The latest event of each row that stands beside the trials, by the row's key."""
        return {event["row"]: event for event in self.decided if event["what"] == "baseline"}


def replay(events: list[dict[str, Any]]) -> StudyFacts | None:
    """Returns the state after `events`, or None when the study was never opened."""
    facts: StudyFacts | None = None
    for event in events:
        facts = after(facts, event)
    return facts


def after(facts: StudyFacts | None, event: dict[str, Any]) -> StudyFacts | None:
    """Returns the state after one more event; `facts` may be changed."""
    if event["kind"] == "opened":
        config = StudyConfig.parse(event["study"], "ledger")
        trials, decided, ended = (facts.trials, facts.decided, facts.ended) if facts else ({}, [], [])
        revision = event.get("revision", 1)
        configs = {**(facts.configs if facts else {}), revision: config}
        limit = config.resources.max_gpus
        if facts and facts.config.resources.max_gpus == limit:
            limit = facts.max_gpus
        return StudyFacts(config, event["cohort"], event["folds"], revision, trials, decided, configs, ended, limit)
    if facts is not None:
        _apply(facts, event["kind"], event)
    return facts


class Follower:
    """Keeps up with the events of a study: each `update` reads what is new since the last.

    Args:
        log: of the study, which may not exist yet.
    """

    def __init__(self, log: StudyLog) -> None:
        self.log = log
        self.facts: StudyFacts | None = None
        self._position = 0

    def update(self) -> bool:
        """Brings `facts` up to date and returns whether there was anything new.

        Raises:
            LedgerError: a whole line does not match its checksum.
        """
        events, self._position = self.log.news(self._position)
        for event in events:
            self.facts = after(self.facts, event)
        return bool(events)


def _apply(facts: StudyFacts, kind: str, event: dict[str, Any]) -> None:
    if kind == "decided":
        facts.decided.append(event)
        return
    if kind == "limited":
        facts.max_gpus = event["max_gpus"]
        return
    number = int(event["trial"])
    if kind == "proposed":
        facts.trials[number] = TrialFacts(number, event["group"], event["params"], facts.revision)
        return
    trial = facts.trials[number]
    trial.seconds += float(event.get("seconds", 0.0))
    if kind != "charged":
        trial.waiting = kind == "waiting"
    if kind == "reported":
        fields = {name: event[name] for name in ("fold", "epoch", "step", "value", "metrics")}
        if not trial.reports or event["step"] > trial.reports[-1].step:
            trial.reports.append(Report(**fields))
    elif kind == "fitted":
        trial.fits[int(event["fold"])] = event["fit"]
    if kind in ("finished", "stopped", "failed"):
        facts.ended.append(number)
    if kind == "finished":
        trial.state, trial.value, trial.metrics = "finished", event["value"], event["metrics"]
    elif kind == "stopped":
        trial.state, trial.reason = "stopped", event["reason"]
    elif kind == "failed":
        trial.state, trial.reason = "failed", event["reason"]


def read_study(ledger: Ledger, name: str) -> StudyFacts | None:
    """Returns the present state of a study, or None when it does not exist."""
    return replay(ledger.study(name).events())


def out_of_fold(ledger: Ledger, trial: TrialFacts) -> pd.DataFrame:
    """Returns a trial's out-of-fold predictions, one row per video, sorted by video id.

    Columns: video_id, subject, fold, score, label, probabilities (list of float), attention (list of float).
    """
    import pandas as pd

    frames = []
    for fold, signature in sorted(trial.fits.items()):
        record = ledger.find_fit(signature)
        if record is not None:
            frames.append(record.predictions().to_pandas().assign(fold=fold))
    table: pd.DataFrame = pd.concat(frames, ignore_index=True).sort_values("video_id", ignore_index=True)
    return table


def study_baselines(ledger: Ledger, facts: StudyFacts) -> list[Baseline]:
    """Returns the rows that stand beside a study's trials; none where its sweep has not got to them.

    Raises:
        LedgerError: a row's table is missing or damaged.
    """
    log = ledger.study(facts.config.study)
    rows = []
    for key, event in sorted(facts.baselines.items()):
        table = log.table(event["table"]).to_pandas().drop(columns="attention") if event["table"] else None
        rows.append(Baseline(key, event["name"], table, event["note"]))
    return rows
