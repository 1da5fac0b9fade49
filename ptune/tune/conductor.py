"""Decides and records: what to run next, what goes on, how each trial ended. Plain Python, no Ray.

Every decision is in the ledger before it takes effect anywhere else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ptune.ledger import StudyLog
from ptune.replay import Report, StudyFacts, TrialFacts
from ptune.tune.race import Evidence, make_race
from ptune.tune.searcher import Proposal, Proposals


@dataclass
class Tally:
    """What one launch of a study did."""

    fits_trained: int = 0
    fits_reused: int = 0
    trials_ended: int = 0
    trials_before: int = 0


@dataclass(frozen=True)
class Task:
    """What an actor is to do: a trial, or one `fold` of it ahead of the actor that runs the trial."""

    number: int
    params: dict[str, Any]
    fold: int | None = None


@dataclass
class Conductor:
    """Runs a study on behalf of a scheduler that starts and stops trials.

    Args:
        facts: the study so far; kept up to date. Trials that have ended keep no reports.
        log: where events go.
        order: folds in the order in which every trial runs them.
        epochs: of one fold.
        evidence: the out-of-fold predictions of a fit, by its signature.
        on_step: called after every new epoch and trial end with the number of steps it settles.
        on_end: called when a trial has ended.
        clock: seconds, for the budget of hours.
    """

    facts: StudyFacts
    log: StudyLog
    order: tuple[int, ...]
    epochs: int
    evidence: Callable[[str], Evidence]
    on_step: Callable[[int], object] = lambda steps: None
    on_end: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.monotonic
    tally: Tally = field(default_factory=Tally)
    leaving: bool = False

    def __post_init__(self) -> None:
        config = self.facts.config
        self.proposals = Proposals(config)
        self.proposals.restore(self.facts)
        self.race = make_race(config, self.epochs)
        self.undecided: dict[int, tuple[str, int]] = {}
        for event in self.log.events():
            self._retell(event)
        trials = self.facts.trials.values()
        for trial in trials:
            if trial.state != "running":
                trial.reports.clear()
        self.running = {trial.number: trial for trial in trials if trial.state == "running"}
        self.tally.trials_before = sum(
            trial.revision == self.facts.revision and trial.state != "running" for trial in trials
        )
        self.seconds = sum(trial.seconds for trial in trials)
        self.best = max((trial.value or 0.0 for trial in self.facts.finished()), default=None)
        self.settled: dict[int, int] = {}
        self.owed: dict[int, float] = {}
        self.ahead: set[tuple[int, int]] = set()
        self.trained_ahead: set[str] = set()
        self.started = self.clock()

    @property
    def steps(self) -> int:
        """Steps of one trial that nothing stops."""
        return self.epochs * len(self.order)

    def next_task(self) -> Task | None:
        """Returns what a free actor is to do: a new trial, else a fold of a running one; None when there is nothing."""
        if self.leaving or self._spent():
            return None
        proposal = self.proposals.next()
        if proposal is None:
            return self._fold_ahead()
        if proposal.number not in self.facts.trials:
            self._proposed(proposal)
        return Task(proposal.number, proposal.params)

    def reported(self, number: int, result: dict[str, Any]) -> bool:
        """Records one result of a running trial and returns whether it goes on; a trial that has ended does not."""
        trial = self.facts.trials[number]
        if trial.state != "running" or self._time_is_up():
            return False
        reason = self._fitted(trial, result) if result["kind"] == "fitted" else self._epoch(trial, result)
        if reason is None:
            return True
        if trial.state == "running":
            self._end(trial, "stopped", reason=reason, step=trial.reports[-1].step)
        return False

    def reported_ahead(self, number: int, result: dict[str, Any]) -> bool:
        """Records what a fold that runs ahead has cost and returns whether it goes on."""
        trial = self.facts.trials[number]
        self._charge(trial, result["seconds"])
        if result["kind"] == "ready":
            self.trained_ahead.add(result["fit"])
        return trial.state == "running" and not self.leaving and not self._spent()

    def ended(self, number: int, result: dict[str, Any]) -> None:
        """Records the last result of a trial: finished or failed. Of a trial that has ended already, nothing."""
        trial = self.facts.trials[number]
        if trial.state != "running":
            return
        if result["kind"] == "finished" and math.isfinite(result["value"]):
            metrics = _finite(result["metrics"])
            trial.value, trial.metrics = result["value"], metrics
            self.best = max(trial.value or 0.0, self.best or 0.0)
            self._end(trial, "finished", seconds=result["seconds"], value=trial.value, metrics=metrics)
        elif result["kind"] == "finished":
            self.failed(number, f"{self.facts.config.objective.metric} is not finite", result["seconds"])
        elif result["kind"] == "failed":
            self.failed(number, result["reason"], result["seconds"])

    def failed(self, number: int, reason: str, seconds: float = 0.0) -> None:
        """Records that a trial ended without a result."""
        trial = self.facts.trials[number]
        if trial.state == "running":
            self._end(trial, "failed", seconds=seconds, reason=reason)

    def _proposed(self, proposal: Proposal) -> None:
        self.log.append("proposed", trial=proposal.number, group=proposal.group, params=proposal.params)
        trial = TrialFacts(proposal.number, proposal.group, proposal.params, self.facts.revision)
        self.facts.trials[proposal.number] = self.running[proposal.number] = trial

    def _epoch(self, trial: TrialFacts, result: dict[str, Any]) -> str | None:
        """Records an epoch and returns why the trial is to stop, if it is."""
        place = self.order.index(result["fold"]), result["epoch"], result["step"]
        own = result["metrics"].get(self._validated)
        if not math.isfinite(result["value"]) or own is None or not math.isfinite(own):
            self.failed(trial.number, f"{self._validated} is not finite in epoch {result['epoch']}", result["seconds"])
            return "failed"
        if trial.reports and result["step"] <= trial.reports[-1].step:
            self._charge(trial, result["seconds"])
            if self.undecided.get(trial.number) != ("reported", result["step"]):
                return None
            del self.undecided[trial.number]
            return self.race.epoch(trial.number, trial.group, *place, own)
        content = {name: result[name] for name in ("fold", "epoch", "step", "value")}
        content["metrics"] = _finite(result["metrics"])
        self._record("reported", trial, result["seconds"], **content)
        trial.reports.append(Report(**content))
        self._settle(trial.number, result["step"])
        return self.race.epoch(trial.number, trial.group, *place, own)

    def _fitted(self, trial: TrialFacts, result: dict[str, Any]) -> str | None:
        """Records a complete fold and returns why the trial is to stop, if it is; after its last fold never."""
        if result["fold"] in trial.fits:
            self._charge(trial, result["seconds"])
            if self.undecided.get(trial.number) != ("fitted", result["fold"]):
                return None
            del self.undecided[trial.number]
            return self._raced(trial, result)
        reused = result["reused"] and result["fit"] not in self.trained_ahead
        self._record("fitted", trial, result["seconds"], fold=result["fold"], fit=result["fit"], reused=reused)
        trial.fits[result["fold"]] = result["fit"]
        if reused:
            self.tally.fits_reused += 1
        else:
            self.tally.fits_trained += 1
        return self._raced(trial, result)

    def _raced(self, trial: TrialFacts, result: dict[str, Any]) -> str | None:
        position = self.order.index(result["fold"])
        reason = self.race.fold(trial.number, trial.group, position, self.evidence(result["fit"]))
        return reason if position < len(self.order) - 1 else None

    def _end(self, trial: TrialFacts, state: Any, seconds: float = 0.0, reason: str = "", **content: Any) -> None:
        self._record(state, trial, seconds, **({"reason": reason} if reason else {}), **content)
        trial.state, trial.reason = state, reason
        self.running.pop(trial.number, None)
        self.tally.trials_ended += 1
        self.race.ended(trial.number, trial.group, state)
        self.proposals.tell(trial)
        trial.reports.clear()
        self._settle(trial.number, self.steps)
        self.on_end()

    def _retell(self, event: dict[str, Any]) -> None:
        """Tells the race what an earlier launch has seen; its decisions are in the events, and are not taken again.

        But for the last report of a running trial: the launch may have ended before it decided.
        """
        trial = self.facts.trials.get(event.get("trial", -1))
        if trial is None or trial.revision != self.facts.revision:
            return
        if event["kind"] == "reported":
            position = self.order.index(event["fold"])
            own = event["metrics"][self._validated]
            self.race.epoch(trial.number, trial.group, position, event["epoch"], event["step"], own)
            self.undecided[trial.number] = "reported", event["step"]
        elif event["kind"] == "fitted":
            position = self.order.index(event["fold"])
            self.race.fold(trial.number, trial.group, position, self.evidence(event["fit"]))
            self.undecided[trial.number] = "fitted", event["fold"]
        elif event["kind"] in ("finished", "stopped", "failed"):
            self.race.ended(trial.number, trial.group, event["kind"])

    def _fold_ahead(self) -> Task | None:
        """Returns the last fold of a running trial that nobody has begun: that of the trial with most folds to go."""
        waiting = [(trial, fold) for trial in self.running.values() for fold in self._later_folds(trial)[-1:]]
        if not waiting:
            return None
        trial, fold = max(waiting, key=lambda pair: (len(self._later_folds(pair[0])), -pair[0].number))
        self.ahead.add((trial.number, fold))
        return Task(trial.number, trial.params, fold)

    def _later_folds(self, trial: TrialFacts) -> list[int]:
        """Returns folds after the one that the trial is at, without those that run ahead."""
        begun = len(trial.fits) + 1
        return [fold for fold in self.order[begun:] if (trial.number, fold) not in self.ahead]

    def _charge(self, trial: TrialFacts, seconds: float) -> None:
        """Counts work that no other event tells of: repeated after an actor was lost, or done ahead."""
        if trial.state == "running":
            self.owed[trial.number] = self.owed.get(trial.number, 0.0) + seconds
        else:
            self.log.append("charged", trial=trial.number, seconds=seconds)
        self._spend(trial, seconds)

    def _record(self, kind: str, trial: TrialFacts, seconds: float, **content: Any) -> None:
        owed = self.owed.pop(trial.number, 0.0)
        if owed > 0:
            self.log.append("charged", trial=trial.number, seconds=owed)
        self.log.append(kind, trial=trial.number, seconds=seconds, **content)
        self._spend(trial, seconds)

    def _spend(self, trial: TrialFacts, seconds: float) -> None:
        trial.seconds += seconds
        self.seconds += seconds

    def _settle(self, number: int, step: int) -> None:
        before = self.settled.get(number, 0)
        if step > before:
            self.settled[number] = step
            self.on_step(step - before)

    def _spent(self) -> bool:
        """Returns whether the study's budget allows nothing new; each actor's second counts as its share of a GPU."""
        limit = self.facts.config.budget.gpu_hours
        share = self.facts.config.resources.gpu or 1.0
        return limit is not None and self.seconds * share >= limit * 3600

    def _time_is_up(self) -> bool:
        """Returns whether this launch is to end: trials keep their state and go on with the next launch."""
        limit = self.facts.config.budget.hours
        if limit is not None and self.clock() - self.started >= limit * 3600:
            self.leaving = True
        return self.leaving

    @property
    def _validated(self) -> str:
        return f"validation.{self.facts.config.objective.metric}"


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
