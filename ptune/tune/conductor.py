"""Decides and records: what to run next, what goes on, how each trial ended. Plain Python, no Ray.

Every decision is in the ledger before it takes effect anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ptune.ledger import StudyLog
from ptune.replay import Report, StudyFacts, TrialFacts
from ptune.tune.race import Race
from ptune.tune.searcher import Proposal, Proposals


@dataclass
class Tally:
    """What one launch of a study did."""

    fits_trained: int = 0
    fits_reused: int = 0
    trials_ended: int = 0
    trials_before: int = 0


@dataclass
class Conductor:
    """Runs a study on behalf of a scheduler that starts and stops trials.

    Args:
        facts: the study so far; kept up to date.
        log: where events go.
        epochs: of one fold.
        on_step: called after every new epoch and trial end with the number of steps it settles.
        on_end: called when a trial has ended.
    """

    facts: StudyFacts
    log: StudyLog
    epochs: int
    on_step: Callable[[int], object] = lambda steps: None
    on_end: Callable[[], object] = lambda: None
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.proposals = Proposals(self.facts.config)
        self.proposals.restore(self.facts)
        self.race = Race(self.facts.config, self.epochs)
        self.race.restore(self.facts)
        ended = [trial for trial in self.facts.trials.values() if trial.state != "running"]
        self.tally.trials_before = sum(trial.revision == self.facts.revision for trial in ended)
        self.settled: dict[int, int] = {}

    @property
    def steps(self) -> int:
        """Steps of one trial that nothing stops."""
        return self.epochs * self.facts.config.folds.count

    def propose(self) -> Proposal | None:
        """Returns the next trial, or None when the study has no more."""
        if self._spent():
            return None
        proposal = self.proposals.next()
        if proposal is not None and proposal.number not in self.facts.trials:
            self.log.append("proposed", trial=proposal.number, group=proposal.group, params=proposal.params)
            trial = TrialFacts(proposal.number, proposal.group, proposal.params, self.facts.revision)
            self.facts.trials[proposal.number] = trial
        return proposal

    def reported(self, number: int, result: dict[str, Any]) -> bool:
        """Records one result of a running trial and returns whether it goes on; a trial that has ended does not."""
        trial = self.facts.trials[number]
        if trial.state != "running":
            return False
        self._fitted(trial, result)
        if not trial.reports or result["step"] > trial.reports[-1].step:
            content = {name: result[name] for name in ("fold", "epoch", "step", "value", "metrics")}
            self.log.append("reported", trial=number, **content)
            trial.reports.append(Report(**content))
        self._settle(number, result["step"])
        if self.race.goes_on(number, trial.group, result["step"], result["value"]):
            return True
        reason = f"not among the better half of {trial.group} after {result['step']} epochs"
        self.log.append("stopped", trial=number, step=result["step"], reason=reason)
        self._end(trial, "stopped", reason=reason)
        return False

    def ended(self, number: int, result: dict[str, Any]) -> None:
        """Records the last result of a trial: finished or failed. Of a trial that has ended already, nothing."""
        trial = self.facts.trials[number]
        if trial.state != "running":
            return
        self._fitted(trial, result)
        if result["kind"] == "finished":
            self.log.append("finished", trial=number, value=result["value"], metrics=result["metrics"])
            trial.value, trial.metrics = result["value"], result["metrics"]
            self._end(trial, "finished")
        else:
            self.failed(number, result["reason"])

    def failed(self, number: int, reason: str) -> None:
        """Records that a trial ended without a result."""
        trial = self.facts.trials[number]
        if trial.state == "running":
            self.log.append("failed", trial=number, reason=reason)
            self._end(trial, "failed", reason=reason)

    def _end(self, trial: TrialFacts, state: Any, reason: str = "") -> None:
        trial.state, trial.reason = state, reason
        self.tally.trials_ended += 1
        self.proposals.tell(trial)
        self._settle(trial.number, self.steps)
        self.on_end()

    def _fitted(self, trial: TrialFacts, result: dict[str, Any]) -> None:
        fitted = result["fitted"]
        if fitted is None or fitted["fold"] in trial.fits:
            return
        self.log.append("fitted", trial=trial.number, **fitted)
        trial.fits[fitted["fold"]] = fitted["fit"]
        trial.seconds += fitted["seconds"]
        if fitted["reused"]:
            self.tally.fits_reused += 1
        else:
            self.tally.fits_trained += 1

    def _settle(self, number: int, step: int) -> None:
        before = self.settled.get(number, 0)
        if step > before:
            self.settled[number] = step
            self.on_step(step - before)

    def _spent(self) -> bool:
        limit = self.facts.config.budget.gpu_hours
        return limit is not None and sum(trial.seconds for trial in self.facts.trials.values()) >= limit * 3600
