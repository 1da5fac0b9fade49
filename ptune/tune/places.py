"""How many actors a study may have at work at once: as many as there is room for, or as its limit of GPUs allows."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Places:
    """Counts actors at work against what is allowed.

    Args:
        there: how many actors there is room for; counts where the study has no limit of GPUs.
        gpus_each: what an actor takes of a limit.
        max_gpus: the limit.
    """

    there: int | None = None
    gpus_each: float = 0.0
    max_gpus: int | None = None
    taken: int = 0

    @property
    def most(self) -> float:
        """How many actors may be at work: at least one."""
        if self.max_gpus is None or not self.gpus_each:
            return math.inf if self.there is None else self.there
        return max(1, int(self.max_gpus / self.gpus_each + 1e-9))

    @property
    def full(self) -> bool:
        """Whether a task has to wait until an actor has left."""
        return self.taken >= self.most

    @property
    def overfull(self) -> bool:
        """Whether an actor has to leave."""
        return self.taken > self.most

    def take(self) -> None:
        """Takes that an actor begins."""
        self.taken += 1

    def leave(self) -> None:
        """Takes that an actor is free or gone."""
        self.taken -= 1
