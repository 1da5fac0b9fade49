"""A study's list of points becomes its trials, one after another. Nothing is searched."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.config import StudyConfig
from ptune.errors import BadInput
from ptune.replay import StudyFacts, TrialFacts
from ptune.tune.searcher import Proposal
from ptune.tune.space import Params


class Listed:
    """Proposes the points of a study in their order, each once; stands where a search would."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.left = {config.identity(point): point for point in config.points}
        self.next_number = 0

    def restore(self, facts: StudyFacts, others: Sequence[StudyFacts] = ()) -> None:
        """Takes over the trials of a study so far; of others there is nothing to learn."""
        for trial in facts.trials.values():
            self.next_number = max(self.next_number, trial.number + 1)
            if trial.revision == facts.revision:
                self.left.pop(self.config.identity(trial.params), None)

    def next(self) -> Proposal | None:
        """Returns the next point as a new trial, or None after the last."""
        if not self.left:
            return None
        point = self.left.pop(next(iter(self.left)))
        self.next_number += 1
        return Proposal(self.next_number - 1, self.config.stream(point).modality, point)

    def add(self, params: Params) -> Proposal:
        """Refuses: the list is the study.

        Raises:
            BadInput: always.
        """
        raise BadInput("trial", f"{params} is not listed", "a point of the study's file", "Add it there.")

    def tell(self, trial: TrialFacts) -> None:
        """Learns nothing."""
