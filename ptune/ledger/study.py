"""The events of a study or a model, each with its own checksum, in the order in which they were decided; and tables."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.cluster import in_job
from ptune.errors import LedgerError, StudyBusy
from ptune.ledger.fits import arrow_bytes
from ptune.ledger.layout import before_reading, before_writing, model_folder, study_folder, table_name
from ptune.ledger.lease import STALE_SECONDS, Holder, Lease, acquire, holder_of
from ptune.ledger.store import Lines, Store
from ptune.progress import say

if TYPE_CHECKING:
    import pyarrow as pa

#: How long an event waits that is added while another process adds one.
PATIENCE_SECONDS = 2.0
#: Between two looks whether another process has ended.
PAUSE_SECONDS = 0.02
#: A job waits so many times as long as it takes to be stale: a driver may outlive its head for a while.
STALE_MARGIN = 2.0


@dataclass(frozen=True)
class _Writer:
    """This process as the one writer of a log."""

    lease: Lease
    lines: Lines


_writers: dict[tuple[str, str], _Writer] = {}
_appending = threading.Lock()


class EventLog:
    """Append-only events; one writer at a time.

    Args:
        what: names it in messages: `study 'hand'`.
    """

    #: What a writer does to it, in messages.
    verb = "changed"

    def __init__(self, store: Store, folder: str, what: str) -> None:
        self.store, self.what = store, what
        self._folder = folder
        self._key = (store.identity, folder)

    @contextmanager
    def lease(
        self, stale_seconds: float = STALE_SECONDS, patience_seconds: float = 0.0, inherits: bool = False
    ) -> Iterator[Lease]:
        """Makes this process the only writer for a while; every log of the same events in the process writes under it.

        Args:
            stale_seconds: without a heartbeat for so long, another process may take over.
            patience_seconds: wait so long for another process to end.
            inherits: in a Ray Job, wait until a process is stale that may have died with the head that ran it.

        Raises:
            StudyBusy: another process writes, or another part of this one does.
        """
        before_writing(self.store)
        until = time.monotonic() + patience_seconds
        pause, inherits = PAUSE_SECONDS, inherits and in_job()
        while isinstance(lease := acquire(self.store, f"{self._folder}/lease", stale_seconds), Holder):
            if inherits:
                say(f"{self.what} is held by {lease}. It may be of a lost head: waiting until it is stale.")
                until = time.monotonic() + max(patience_seconds, STALE_MARGIN * lease.stale_seconds)
                pause, inherits = 1.0, False
            if time.monotonic() > until:
                raise StudyBusy(
                    self.what,
                    f"is being {self.verb} by {lease}",
                    "one process at a time",
                    "Wait for it to end, or stop it; a process that died gives way by itself.",
                )
            time.sleep(pause)
        _writers[self._key] = _Writer(lease, self._lines())
        try:
            with lease:
                yield lease
        finally:
            del _writers[self._key]

    def holder(self) -> Holder | None:
        """Returns which process writes now, if any."""
        return holder_of(self.store, f"{self._folder}/lease")

    def append(self, kind: str, **content: Any) -> dict[str, Any]:
        """Adds one event durably and returns it. Outside of `lease` it takes the lease for this one event.

        Args:
            kind: what happened.
            content: plain JSON values, all finite.

        Raises:
            StudyBusy: another process writes.
            LeaseLost: this process slept too long, and another may have taken over.
            StorageError: the event could not be stored.
        """
        event = {"kind": kind, **content}
        body = json.dumps(event, sort_keys=True, separators=(",", ":"), allow_nan=False)
        line = f"{_checksum(body)} {body}".encode()
        if not self._written(line):
            with self.lease(patience_seconds=PATIENCE_SECONDS):
                self._written(line)
        return event

    def _written(self, line: bytes) -> bool:
        writer = _writers.get(self._key)
        if writer is None:
            return False
        with _appending:
            writer.lease.require()
            writer.lines.append(line, writer.lease.number)
        return True

    def exists(self) -> bool:
        """Returns whether there is any event."""
        return self._lines().exists()

    def events(self) -> list[dict[str, Any]]:
        """Returns all events in order; a line that was torn by a crash is left out.

        Raises:
            LedgerError: a whole line does not match its checksum.
        """
        return self.scan()[0]

    def scan(self) -> tuple[list[dict[str, Any]], int]:
        """Returns all events, and how many lines a crash has torn."""
        events, torn, _ = self._read(0)
        return events, torn

    def news(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """Returns the events after a position, and the position after them; 0 is before the first event.

        Raises:
            LedgerError: a whole line does not match its checksum.
        """
        events, _, position = self._read(position)
        return events, position

    def _read(self, position: int) -> tuple[list[dict[str, Any]], int, int]:
        before_reading(self.store)
        found, torn = [], 0
        lines, position = self._lines().read(position)
        for line in lines:
            digest, _, body = line.text.decode("utf-8", "replace").partition(" ")
            if not line.whole:
                torn += 1
            elif digest == _checksum(body):
                found.append(json.loads(body))
            else:
                raise LedgerError(
                    f"{self.what}, event {line.where}",
                    "does not match its checksum",
                    "the bytes that were written",
                    "Restore its events from a backup, or delete the line: that event then never was.",
                )
        return found, torn, position

    def _lines(self) -> Lines:
        return self.store.lines(f"{self._folder}/events")


class StudyLog(EventLog):
    """What a study did: opened, proposed, reported, fitted, stopped, finished, failed, decided; and its tables."""

    verb = "run"

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store, study_folder(name), f"study {name!r}")
        self.name = name

    def keep(self, table: pa.Table) -> str:
        """Stores a table durably beside the events and returns its sha256, by which an event is to name it."""
        before_writing(self.store)
        content = arrow_bytes(table)
        digest = hashlib.sha256(content).hexdigest()
        self.store.put(table_name(self.name, digest), content)
        return digest

    def table(self, sha256: str) -> pa.Table:
        """Returns a table that `keep` stored.

        Raises:
            LedgerError: it is missing, or differs from its checksum.
        """
        import pyarrow as pa

        content = self.store.read(table_name(self.name, sha256))
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            raise LedgerError(
                f"study {self.name}, table {sha256[:16]}",
                "is missing or differs from its checksum",
                "the bytes that were written",
                "Run its sweep again: it computes the table anew.",
            )
        return pa.ipc.open_file(pa.py_buffer(content)).read_all()


class ModelLog(EventLog):
    """What became of a registered model: registered, promoted, rolled_back."""

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store, model_folder(name), f"model {name!r}")


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
