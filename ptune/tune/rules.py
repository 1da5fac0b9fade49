"""What a stopping rule is, and the plain ones that others use: ASHA, the median rule, none.

Plain rules decide at once and never let a trial wait. They know nothing of folds or predictions.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Literal, Protocol

from ptune.tune.evidence import Evidence

ETA = 3
#: Trials that must have been at a step before the median rule stops one there, as in Ray Tune.
FEWEST = 3


@dataclass(frozen=True)
class Verdict:
    """What a trial does after a report: go on, wait until others are at the same rung, or stop for a reason."""

    action: Literal["go", "wait", "stop"]
    reason: str = ""


GO, WAIT = Verdict("go"), Verdict("wait")


class Race(Protocol):
    """Hears what trials report and says which go on. A report heard twice changes nothing."""

    def epoch(self, trial: int, group: str, fold: int, epoch: int, step: int, value: float) -> Verdict:
        """Takes the objective after an epoch; `fold` counts folds in the order of the study, `step` epochs over all."""

    def fold(self, trial: int, group: str, fold: int, evidence: Evidence) -> Verdict:
        """Takes the predictions on a complete fold."""

    def ended(self, trial: int, group: str, state: str) -> None:
        """Takes that a trial is finished, stopped or failed."""

    def next(self) -> int | None:
        """Returns a waiting trial that is to go on."""

    def close(self) -> int | None:
        """Returns a waiting trial that is to go on although better ones might have come, now that none will."""

    def hopeless(self) -> list[tuple[int, str]]:
        """Returns waiting trials that nothing will let go on, once none goes on by `close`, and why."""

    def missing(self) -> int:
        """Returns how many full cross-validations of finalists are still to come."""


class Never:
    """Every trial is cross-validated in full."""

    def epoch(self, trial: int, group: str, fold: int, epoch: int, step: int, value: float) -> Verdict:
        """Goes on."""
        return GO

    def fold(self, trial: int, group: str, fold: int, evidence: Evidence) -> Verdict:
        """Goes on."""
        return GO

    def ended(self, trial: int, group: str, state: str) -> None:
        """Remembers nothing."""

    def next(self) -> int | None:
        """Returns nothing: no trial waits."""
        return None

    def close(self) -> int | None:
        """Returns nothing: no trial waits."""
        return None

    def hopeless(self) -> list[tuple[int, str]]:
        """Returns nothing: no trial waits."""
        return []

    def missing(self) -> int:
        """Returns none: nobody is a finalist before the end."""
        return 0


class Asha(Never):
    """Asynchronous successive halving over the steps of all folds, without waiting.

    Args:
        steps: of a trial that nothing stops.

    Source: Li et al. 2020, in the form that stops rather than promotes, as in Ray Tune.
    """

    def __init__(self, steps: int) -> None:
        powers = range(1, int(math.log(steps, ETA)) + 1)
        self.rungs = {math.ceil(steps / ETA**power) for power in powers}
        self.reached: dict[tuple[str, int], dict[int, float]] = {}

    def epoch(self, trial: int, group: str, fold: int, epoch: int, step: int, value: float) -> Verdict:
        """Stops a trial that is not among the best third of those that came to a rung before it."""
        if step not in self.rungs:
            return GO
        values = self.reached.setdefault((group, step), {})
        values[trial] = value
        better = sum(other > value for other in values.values())
        if better < max(1, math.ceil(len(values) / ETA)):
            return GO
        return Verdict("stop", f"not among the best third of {group} after {step} epochs")


class Median(Never):
    """Stops a trial whose value is below the median of what others had at the same step.

    Source: Golovin et al. 2017.
    """

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], list[float]] = {}
        self.heard: dict[int, int] = {}

    def epoch(self, trial: int, group: str, fold: int, epoch: int, step: int, value: float) -> Verdict:
        """Compares with the trials that came to this step before."""
        if self.heard.get(trial, 0) >= step:
            return GO
        self.heard[trial] = step
        values = self.values.setdefault((group, step), [])
        behind = len(values) >= FEWEST and value < values[len(values) // 2]
        bisect.insort(values, value)
        return Verdict("stop", f"below the median of {group} after {step} epochs") if behind else GO

    def ended(self, trial: int, group: str, state: str) -> None:
        """Forgets what the trial was heard of."""
        self.heard.pop(trial, None)
