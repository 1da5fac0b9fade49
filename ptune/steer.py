"""What people ask of a study: small files beside its events, which whoever runs it takes in the order of asking.

A request is taken again until it was acknowledged; its id goes into the event that answers it, so that a crash between
the two neither loses nor repeats it. Knows nothing of what a trial is.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ptune.ledger import Ledger
from ptune.ledger.layout import study_folder


def _new_id() -> str:
    """Returns a name that is unique and sorts by time."""
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class AddTrial:
    """Run this point of the search space next, whatever the budget of trials."""

    params: dict[str, Any]
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class StopTrial:
    """End this trial; what it has trained stays."""

    number: int
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class StopStudy:
    """End the launch that runs the study; trials go on with the next one."""

    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class LimitGpus:
    """Use so many GPUs at once at most, from the next tasks on."""

    max_gpus: int
    id: str = field(default_factory=_new_id)


Request = AddTrial | StopTrial | StopStudy | LimitGpus
_KINDS: dict[str, type[AddTrial | StopTrial | StopStudy | LimitGpus]] = {
    "add_trial": AddTrial,
    "stop_trial": StopTrial,
    "stop_study": StopStudy,
    "limit_gpus": LimitGpus,
}


class Requests:
    """The requests to one study, which lie beside its events.

    Args:
        ledger: that has the study.
        study: its name.
    """

    def __init__(self, ledger: Ledger, study: str) -> None:
        self.store, self.folder = ledger.store, f"{study_folder(study)}/requests"

    def ask(self, request: Request) -> None:
        """Makes a request, durably."""
        kind = next(name for name, type_ in _KINDS.items() if isinstance(request, type_))
        self.store.put(f"{self.folder}/{request.id}.json", json.dumps({"kind": kind, **vars(request)}).encode())

    def take(self) -> list[Request]:
        """Returns what was asked and not yet acknowledged, in the order of asking."""
        found: list[Request] = []
        for entry in self.store.entries(self.folder):
            content = self.store.read(entry.name) if entry.name.endswith(".json") else None
            if content is not None:
                values = json.loads(content)
                found.append(_KINDS[values.pop("kind")](**values))
        return found

    def forget_stops(self) -> None:
        """Forgets requests to end a launch: made before the present one began, they were meant for another."""
        for request in self.take():
            if isinstance(request, StopStudy):
                self.acknowledge(request)

    def acknowledge(self, request: Request) -> None:
        """Forgets a request that was answered."""
        self.store.delete(f"{self.folder}/{request.id}.json")
