"""Which trials go on: successive halving within each group, on validation of complete folds and of part of the first.

Trials are compared with trials of their own group at the same step only, so that each modality keeps finalists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class Evidence:
    videos: tuple[str, ...]
    subjects: tuple[str, ...]
    losses: np.ndarray


def evidence_of(rows):
    return Evidence(tuple(r["video_id"] for r in rows), tuple(r["subject"] for r in rows), np.zeros(len(rows)))


class _Adapter:
    def __init__(self, config, epochs):
        self.race = Race(config, epochs)
        self.values = {}

    def epoch(self, trial, group, fold, epoch, step, value):
        if self.race.goes_on(trial, group, step, value):
            return None
        return f"not among the better half of {group} after {step} epochs"

    def fold(self, trial, group, fold, evidence):
        return None

    def ended(self, trial, group, state):
        pass


def make_race(config, epochs):
    return _Adapter(config, epochs)


def fold_order(videos, folds, count):
    return tuple(range(count))
