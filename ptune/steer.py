"""What people ask of a study, as small files in its folder that whoever runs the study takes in the order of asking.

A request is taken again until it was acknowledged; its id goes into the event that answers it, so that a crash between
the two neither loses nor repeats it. Knows nothing of what a trial is.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptune.errors import BadInput
from ptune.home import write_json

#: To read what may be being written.
ATTEMPTS = 10


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


Request = AddTrial | StopTrial | StopStudy
_KINDS: dict[str, type[AddTrial | StopTrial | StopStudy]] = {
    "add_trial": AddTrial,
    "stop_trial": StopTrial,
    "stop_study": StopStudy,
}


class Requests:
    """The requests to one study.

    Args:
        folder: of the study in the ledger.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "requests"

    def ask(self, request: Request) -> None:
        """Makes a request, durably."""
        kind = next(name for name, type_ in _KINDS.items() if isinstance(request, type_))
        write_json(self.folder / f"{request.id}.json", {"kind": kind, **vars(request)})

    def take(self) -> list[Request]:
        """Returns what was asked and not yet acknowledged, in the order of asking."""
        found: list[Request] = []
        for path in sorted(self.folder.glob("*.json")):
            with suppress(FileNotFoundError):
                values = json.loads(path.read_text())
                found.append(_KINDS[values.pop("kind")](**values))
        return found

    def forget_stops(self) -> None:
        """Forgets requests to end a launch: made before the present one began, they were meant for another."""
        for request in self.take():
            if isinstance(request, StopStudy):
                self.acknowledge(request)

    def acknowledge(self, request: Request) -> None:
        """Forgets a request that was answered."""
        (self.folder / f"{request.id}.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class Launch:
    """The process that runs a study.

    Args:
        since: when it began, in seconds since 1970.
        opened: whether it has come to the trials; features are extracted before.
    """

    pid: int
    since: float
    opened: bool


@contextmanager
def launched(folder: Path) -> Iterator[Callable[[], None]]:
    """Shows to others on this machine that this process runs the study of a folder.

    Yields:
        What is to be called when the study has been opened.

    Raises:
        BadInput: another process runs it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    since = time.time()
    with open(folder / "launch.json", "a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = launch_of(folder)
            raise BadInput(
                f"study {folder.name!r}",
                f"is being run by another process{f' ({other.pid})' if other else ''}",
                "one sweep at a time",
                f"`ptune status {folder.name} --watch` shows it, `ptune stop {folder.name}` ends it.",
            ) from None

        def show(opened: bool) -> None:
            handle.truncate(0)
            os.write(handle.fileno(), json.dumps(vars(Launch(os.getpid(), since, opened))).encode())

        show(False)
        yield lambda: show(True)


def launch_of(folder: Path) -> Launch | None:
    """Returns who runs the study of a folder on this machine now, None where nobody does."""
    for _ in range(ATTEMPTS):
        try:
            with open(folder / "launch.json") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return None
                except BlockingIOError:
                    return Launch(**json.load(handle))
        except FileNotFoundError:
            return None
        except ValueError:
            # It is being written at this moment.
            time.sleep(0.01)
    return None
