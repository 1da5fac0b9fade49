"""Decides and records: what to run next, what goes on, how each trial ended. Plain Python, no Ray.

Every decision is in the ledger before it takes effect anywhere else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ptune.errors import BadInput, FitFailed
from ptune.ledger import StudyLog
from ptune.replay import Report, StudyFacts, TrialFacts
from ptune.steer import AddTrial, LimitGpus, Request, Requests, StopStudy
from ptune.tune.account import Account
from ptune.tune.evidence import Evidence
from ptune.tune.listed import Listed
from ptune.tune.places import Places
from ptune.tune.race import make_race, rungs_of
from ptune.tune.rules import GO, Verdict
from ptune.tune.searcher import Proposal, Proposals

#: A trial whose actor or node dies goes on elsewhere this many times.
MOST_LOSSES = 3
#: Requests are looked for this often at most.
HEED_SECONDS = 1.0


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
        facts: the study so far; kept up to date, but for reports: of trials that wait the last, of ended ones none.
        log: where events go.
        order: folds in the order in which every trial runs them.
        epochs: of one fold.
        evidence: the out-of-fold predictions of a fit, by its signature.
        others: studies to learn from.
        on_event: called after every event.
        clock: seconds, for the budget of hours.
        requests: what people ask of the study while it runs.
        places: of actors, each of which is taken by a task and left by who runs it.
    """

    facts: StudyFacts
    log: StudyLog
    order: tuple[int, ...]
    epochs: int
    evidence: Callable[[str], Evidence]
    others: Sequence[StudyFacts] = ()
    on_event: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.monotonic
    tally: Tally = field(default_factory=Tally)
    leaving: bool = False
    problem: str = ""
    requests: Requests | None = None
    places: Places = field(default_factory=Places)

    def __post_init__(self) -> None:
        config = self.facts.config
        self.proposals: Listed | Proposals = Listed(config) if config.points else Proposals(config)
        self.proposals.restore(self.facts, self.others)
        self.race = make_race(config, self.epochs)
        verdicts: dict[int, Verdict] = {}
        self.answered: set[str] = set()
        for event in self.log.events():
            self._retell(event, verdicts)
            self.answered.add(event.get("request", ""))
        trials = self.facts.trials.values()
        self.running = {trial.number: trial for trial in trials if trial.state == "running"}
        self.trained_epochs = sum(len(trial.reports) for trial in trials)
        for trial in trials:
            if trial.state != "running":
                trial.reports.clear()
        self.tally.trials_before = sum(
            trial.revision == self.facts.revision and trial.state != "running" for trial in trials
        )
        self.account = Account(self.log, config, trials, self.on_event)
        self.losses: dict[int, int] = {}
        self.ahead: set[tuple[int, int]] = set()
        self.trained_ahead: set[str] = set()
        self.started = self.clock()
        self.waiting: set[int] = set()
        for number, trial in list(self.running.items()):
            self._obey(trial, verdicts.get(number, GO))
        self.interrupted = [number for number in sorted(self.running) if number not in self.waiting]
        self.cut_short: set[int] = set()
        self.heeded = -math.inf
        self.places.max_gpus = self.facts.max_gpus
        self.rungs = rungs_of(config, self.epochs)

    @property
    def steps(self) -> int:
        """Steps of one trial that nothing stops."""
        return self.epochs * len(self.order)

    def next_task(self) -> Task | None:
        """Returns what a free actor is to do; None when there is nothing, perhaps until something else has ended.

        First what an earlier launch left unfinished, then a trial that has shown to be among the best, then a new one,
        then finalists, then a fold of a trial that runs elsewhere.
        """
        self._heed()
        if self.places.full:
            return None
        task = self._next_task()
        if task is None and not self.active:
            # The launch is about to end: who asked a moment ago is heard.
            self._heed(at_once=True)
            task = self._next_task()
        if task is not None:
            self.places.take()
        return task

    def _next_task(self) -> Task | None:
        if self.leaving:
            return None
        task = None if self.account.exhausted() else self._task()
        if task is None and len(self.waiting) == len(self.running):
            for number, reason in self.race.hopeless():
                self._end(self.facts.trials[number], "stopped", reason=reason)
        return task

    @property
    def active(self) -> bool:
        """Whether a trial runs, of which something may yet come."""
        return len(self.running) > len(self.waiting) + len(self.interrupted)

    def _task(self) -> Task | None:
        if self.interrupted:
            return self._go_on(self.interrupted.pop(0))
        if not self.account.exhausted(self._reserve()):
            number = self.race.next()
            if number is not None:
                return self._go_on(number)
            proposal = self.proposals.next()
            if proposal is not None:
                self._proposed(proposal)
                return Task(proposal.number, proposal.params)
        number = self.race.close()
        return self._fold_ahead() if number is None else self._go_on(number)

    def reported(self, number: int, result: dict[str, Any]) -> bool:
        """Records one result of a running trial and returns whether it goes on; a trial that has ended does not."""
        trial = self.facts.trials[number]
        if number in self.cut_short:
            self.cut_short.remove(number)
            self.account.charge(trial, result["seconds"])
        if trial.state != "running" or number in self.waiting or self._time_is_up():
            return False
        verdict = self._fitted(trial, result) if result["kind"] == "fitted" else self._epoch(trial, result)
        self._obey(trial, verdict)
        self._heed()
        goes_on = verdict.action == "go" and trial.state == "running" and not self.leaving
        if goes_on and self.places.overfull and self._may_pause(result):
            self.interrupted.append(number)
            return False
        return goes_on

    def reported_ahead(self, number: int, result: dict[str, Any]) -> bool:
        """Records what a fold that runs ahead has cost and returns whether it goes on."""
        trial = self.facts.trials[number]
        self.account.charge(trial, result["seconds"])
        if result["kind"] == "ready":
            self.trained_ahead.add(result["fit"])
        return trial.state == "running" and not self.leaving and not self.account.exhausted()

    def ended(self, number: int, result: dict[str, Any]) -> None:
        """Records the last result of a trial: finished or failed. Of a trial that has ended already, nothing."""
        trial = self.facts.trials[number]
        if trial.state != "running":
            return
        if result["kind"] == "finished" and math.isfinite(result["value"]):
            metrics = _finite(result["metrics"])
            trial.value, trial.metrics = result["value"], metrics
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

    def lost(self, number: int, why: str = "its actor died") -> None:
        """Takes that the actor of a trial died; another goes on from the last checkpoint, but not without end."""
        self.losses[number] = self.losses.get(number, 0) + 1
        if self.losses[number] > MOST_LOSSES:
            self.failed(number, f"{why} {MOST_LOSSES + 1} times")
        elif number in self.running and number not in self.waiting:
            self.interrupted.append(number)

    def halt(self, problem: str) -> None:
        """Ends this launch because of something that would make every trial fail; trials keep their state."""
        self.leaving, self.problem = True, problem

    def _heed(self, at_once: bool = False) -> None:
        """Does what people have asked for, looking once a second at most unless `at_once`."""
        now = self.clock()
        if self.requests is None or (now - self.heeded < HEED_SECONDS and not at_once):
            return
        self.heeded = now
        for request in self.requests.take():
            if request.id not in self.answered:
                self._answer(request)
            self.requests.acknowledge(request)

    def _answer(self, request: Request) -> None:
        """Does what is asked; what came true meanwhile, or can be no more, asks for nothing."""
        self.answered.add(request.id)
        if isinstance(request, StopStudy):
            self.leaving = True
        elif isinstance(request, LimitGpus):
            self.log.append("limited", max_gpus=request.max_gpus, request=request.id)
            self.facts.max_gpus = self.places.max_gpus = request.max_gpus
        elif isinstance(request, AddTrial):
            with suppress(BadInput):
                proposal = self.proposals.add(request.params)
                self._proposed(proposal, request=request.id)
                self.interrupted.insert(0, proposal.number)
        elif (trial := self.running.get(request.number)) is not None:
            waiting = trial.number in self.waiting
            self._end(trial, "stopped", reason="stopped by hand", request=request.id)
            if trial.number in self.interrupted:
                self.interrupted.remove(trial.number)
            elif not waiting:
                self.cut_short.add(trial.number)

    def _may_pause(self, result: dict[str, Any]) -> bool:
        """Returns whether a trial that pauses after this result repeats nothing when it goes on."""
        if result["kind"] == "fitted":
            return bool(result["fold"] != self.order[-1])
        return result["fold"] == self.order[0] and result["epoch"] in self.rungs

    def _proposed(self, proposal: Proposal, **content: Any) -> None:
        self.log.append("proposed", trial=proposal.number, group=proposal.group, params=proposal.params, **content)
        trial = TrialFacts(proposal.number, proposal.group, proposal.params, self.facts.revision)
        self.facts.trials[proposal.number] = self.running[proposal.number] = trial

    def _obey(self, trial: TrialFacts, verdict: Verdict) -> None:
        if verdict.action == "wait":
            self._waits(trial)
        elif verdict.action == "stop" and trial.state == "running":
            self._end(trial, "stopped", reason=verdict.reason)

    def _waits(self, trial: TrialFacts) -> None:
        self.waiting.add(trial.number)
        if not trial.waiting:
            trial.waiting = True
            self.account.record("waiting", trial, 0.0)
        self.proposals.tell(trial)
        del trial.reports[:-1]

    def _go_on(self, number: int) -> Task:
        trial = self.facts.trials[number]
        self.waiting.discard(number)
        trial.waiting = False
        self.proposals.tell(trial)
        return Task(number, trial.params)

    def _epoch(self, trial: TrialFacts, result: dict[str, Any]) -> Verdict:
        """Records an epoch and returns what the trial does now."""
        place = self.order.index(result["fold"]), result["epoch"], result["step"]
        own = result["metrics"].get(self._validated)
        if not math.isfinite(result["value"]) or own is None or not math.isfinite(own):
            self.failed(trial.number, f"{self._validated} is not finite in epoch {result['epoch']}", result["seconds"])
            return Verdict("stop")
        if trial.reports and result["step"] <= trial.reports[-1].step:
            self.account.charge(trial, result["seconds"])
            return GO
        content = {name: result[name] for name in ("fold", "epoch", "step", "value")}
        content["metrics"] = _finite(result["metrics"])
        self.account.record("reported", trial, result["seconds"], **content)
        trial.reports.append(Report(**content))
        self.trained_epochs += 1
        return self.race.epoch(trial.number, trial.group, *place, own)

    def _fitted(self, trial: TrialFacts, result: dict[str, Any]) -> Verdict:
        """Records a complete fold and returns what the trial does now."""
        if result["fold"] in trial.fits:
            self.account.charge(trial, result["seconds"])
            return GO
        try:
            evidence = self.evidence(result["fit"])
        except FitFailed as problem:
            self.failed(trial.number, str(problem), result["seconds"])
            return Verdict("stop")
        reused = result["reused"] and result["fit"] not in self.trained_ahead
        self.account.record("fitted", trial, result["seconds"], fold=result["fold"], fit=result["fit"], reused=reused)
        trial.fits[result["fold"]] = result["fit"]
        if reused:
            self.tally.fits_reused += 1
        else:
            self.tally.fits_trained += 1
        position = self.order.index(result["fold"])
        return self.race.fold(trial.number, trial.group, position, evidence)

    def _end(self, trial: TrialFacts, state: Any, seconds: float = 0.0, reason: str = "", **content: Any) -> None:
        self.account.record(state, trial, seconds, **({"reason": reason} if reason else {}), **content)
        trial.state, trial.reason, trial.waiting = state, reason, False
        self.running.pop(trial.number, None)
        self.waiting.discard(trial.number)
        self.tally.trials_ended += 1
        self.race.ended(trial.number, trial.group, state)
        self.proposals.tell(trial)
        trial.reports.clear()

    def _retell(self, event: dict[str, Any], verdicts: dict[int, Verdict]) -> None:
        """Tells the race what an earlier launch has seen, and keeps what it says of each trial's last report.

        That launch may have ended before it obeyed.
        """
        trial = self.facts.trials.get(event.get("trial", -1))
        if trial is None or trial.revision != self.facts.revision:
            return
        if event["kind"] == "reported":
            position = self.order.index(event["fold"])
            own = event["metrics"][self._validated]
            found = self.race.epoch(trial.number, trial.group, position, event["epoch"], event["step"], own)
            verdicts[trial.number] = found
        elif event["kind"] == "fitted":
            position = self.order.index(event["fold"])
            found = self.race.fold(trial.number, trial.group, position, self.evidence(event["fit"]))
            verdicts[trial.number] = found
        elif event["kind"] in ("finished", "stopped", "failed"):
            self.race.ended(trial.number, trial.group, event["kind"])

    def _fold_ahead(self) -> Task | None:
        """Returns the last fold of a running trial that nobody has begun: that of the trial with most folds to go."""
        active = [trial for number, trial in self.running.items() if number not in self.waiting]
        later = [(trial, fold) for trial in active for fold in self._later_folds(trial)[-1:]]
        if not later:
            return None
        trial, fold = max(later, key=lambda pair: (len(self._later_folds(pair[0])), -pair[0].number))
        self.ahead.add((trial.number, fold))
        return Task(trial.number, trial.params, fold)

    def _later_folds(self, trial: TrialFacts) -> list[int]:
        """Returns folds after the one that the trial is at, without those that run ahead."""
        begun = len(trial.fits) + 1
        return [fold for fold in self.order[begun:] if (trial.number, fold) not in self.ahead]

    def _reserve(self) -> float:
        """Returns the seconds that finalists still need, by what epochs have taken so far."""
        per_epoch = self.account.seconds / max(self.trained_epochs, 1)
        return self.race.missing() * self.steps * per_epoch

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
