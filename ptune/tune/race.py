"""Which trials go on: successive halving within each group, on validation of complete folds and of part of the first.

Trials are compared with trials of their own group at the same step only, so that each modality keeps finalists.
"""

from __future__ import annotations

import math

from ptune.config import StudyConfig
from ptune.replay import StudyFacts

KEPT_FRACTION = 0.5


class Race:
    """Decides at rungs; a trial goes on when it is among the better half of those that reached the rung so far,
    and always while fewer than `finalists.count` of its group did better.
    """

    def __init__(self, config: StudyConfig, epochs: int) -> None:
        self.count = config.finalists.count
        folds = config.folds.count
        self.rungs = sorted({math.ceil(epochs / 3), *(epochs * fold for fold in range(1, folds))})
        if config.stopping == "none":
            self.rungs = []
        self.reached: dict[tuple[str, int], dict[int, float]] = {}

    def restore(self, facts: StudyFacts) -> None:
        """Takes over what earlier trials showed at the rungs."""
        for trial in facts.trials.values():
            if trial.revision == facts.revision:
                for report in trial.reports:
                    self.goes_on(trial.number, trial.group, report.step, report.value)

    def goes_on(self, trial: int, group: str, step: int, value: float) -> bool:
        """Returns whether a trial continues after `step` (epochs over all folds so far)."""
        if step not in self.rungs:
            return True
        values = self.reached.setdefault((group, step), {})
        values[trial] = value
        better = sum(other > value for other in values.values())
        return better < max(self.count, math.ceil(KEPT_FRACTION * len(values)))
