"""What the work of a study costs: every second that an actor worked is told by an event and counted in its trial."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ptune.config import StudyConfig
from ptune.ledger import StudyLog
from ptune.replay import TrialFacts


class Account:
    """Writes the events of trials with what they cost, and knows what is left of the budget of GPU-hours.

    Args:
        log: where events go.
        config: whose budget it is.
        trials: so far.
        on_event: called after every event.
    """

    def __init__(
        self, log: StudyLog, config: StudyConfig, trials: Iterable[TrialFacts], on_event: Callable[[], object]
    ) -> None:
        self.log, self.config, self.on_event = log, config, on_event
        self.seconds = sum(trial.seconds for trial in trials)
        self._owed: dict[int, float] = {}

    def record(self, kind: str, trial: TrialFacts, seconds: float, **content: Any) -> None:
        """Writes an event of a trial, which took so many seconds."""
        owed = self._owed.pop(trial.number, 0.0)
        if owed > 0:
            self.log.append("charged", trial=trial.number, seconds=owed)
        self.log.append(kind, trial=trial.number, seconds=seconds, **content)
        self._spend(trial, seconds)
        self.on_event()

    def charge(self, trial: TrialFacts, seconds: float) -> None:
        """Counts work that no other event tells of: repeated after an actor was lost, or done ahead.

        It is written with the trial's next event.
        """
        if trial.state == "running":
            self._owed[trial.number] = self._owed.get(trial.number, 0.0) + seconds
        else:
            self.log.append("charged", trial=trial.number, seconds=seconds)
        self._spend(trial, seconds)

    def exhausted(self, reserve: float = 0.0) -> bool:
        """Returns whether the budget leaves no more than `reserve` seconds of an actor.

        Each second counts as the actor's share of a GPU, as a whole one on a CPU.
        """
        limit = self.config.budget.gpu_hours
        share = self.config.resources.gpu or 1.0
        return limit is not None and (self.seconds + reserve) * share >= limit * 3600

    def _spend(self, trial: TrialFacts, seconds: float) -> None:
        trial.seconds += seconds
        self.seconds += seconds
