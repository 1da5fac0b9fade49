"""One holder at a time, among processes that share nothing but a store.

The holder is who made the file with the highest number, exclusively, and renews its time; one that is not renewed for
`stale_seconds`, or whose process has died on this machine, gives way to the next number. Numbers only rise, so that a
holder who slept sees that it was followed. Needs no locks of the file system.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from ptune.errors import LeaseLost, StorageError
from ptune.ledger.store import Entry, Store

STALE_SECONDS = 60.0
#: Tokens of what this process holds or is about to: after an interruption it need not wait for itself.
_own: set[str] = set()


@dataclass(frozen=True)
class Holder:
    """Who holds something: a process on a machine, since when."""

    host: str
    pid: int
    since: str
    stale_seconds: float

    def __str__(self) -> str:
        return (
            f"process {self.pid} on {self.host} since {self.since} "
            f"(stale after {self.stale_seconds:g} s without heartbeat)"
        )


class Lease:
    """Held until released; a thread renews it four times in `stale_seconds`.

    Made by `acquire`.
    """

    def __init__(self, store: Store, folder: str, number: int, record: dict[str, Any]) -> None:
        self.store, self.folder, self.number = store, folder, number
        self._record = record
        self._renewed = time.time()
        self._owner = os.getpid()
        self._lost = False
        self._ended = threading.Event()
        self._busy = threading.Lock()
        threading.Thread(target=self._beat, name=f"heartbeat of {folder}", daemon=True).start()

    @property
    def held(self) -> bool:
        """Whether this process is known to hold it; looks at no file."""
        return not self._lost and not self._ended.is_set() and self._owner == os.getpid()

    def renew(self) -> None:
        """Makes sure that it is still held, and renews it.

        Raises:
            LeaseLost: it was released, or another holds it now.
        """
        with self._busy:
            if self.held and (self._is_followed() or not self.store.touch(_name(self.folder, self.number))):
                self._lost = True
                _own.discard(self._record["token"])
        if not self.held:
            raise LeaseLost(
                f"ledger, {self.folder}",
                f"was not renewed for {self._record['stale_seconds']:g} s and may be another's now",
                "a lease that this process holds",
                "Nothing is lost. Run the same command again.",
            )
        self._renewed = time.time()

    def require(self) -> None:
        """Makes sure that it is held, by the last heartbeat where that is fresh.

        Raises:
            LeaseLost: it is not.
        """
        # The clock of the day, which a machine that slept finds changed.
        if not self.held or abs(time.time() - self._renewed) > self._record["stale_seconds"] / 2:
            self.renew()

    def release(self) -> None:
        """Lets the next one have it at once; where the store refuses even that, when it is stale."""
        with self._busy:
            if not self.held:
                return
            self._ended.set()
            _own.discard(self._record["token"])
            name = _name(self.folder, self.number)
            with suppress(StorageError):
                if self._is_followed():
                    return
                try:
                    content = json.dumps(self._record | {"released": True}).encode()
                    self.store.put(name, content, durable=False)
                except StorageError:
                    # On a full disk a file can be removed still.
                    self.store.delete(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _is_followed(self) -> bool:
        entries = _entries(self.store, self.folder)
        return not entries or _number(entries[-1]) != self.number or self._record["token"] != self._token()

    def _token(self) -> str:
        return str(_read(self.store, _name(self.folder, self.number)).get("token", ""))

    def _beat(self) -> None:
        while not self._ended.wait(self._record["stale_seconds"] / 4):
            try:
                self.renew()
            except LeaseLost:
                return
            except StorageError:
                continue


def acquire(store: Store, folder: str, stale_seconds: float = STALE_SECONDS) -> Lease | Holder:
    """Returns a lease on `folder`, or who holds it and lives."""
    for attempt in range(5):
        entries = _entries(store, folder)
        if entries:
            holder = _living(store, entries[-1])
            if holder is not None:
                return holder
        number = _number(entries[-1]) + 1 if entries else 1
        record = _own_record(stale_seconds)
        _own.add(record["token"])
        try:
            if store.create(_name(folder, number), json.dumps(record).encode()):
                if _is_last(store, folder, number):
                    return Lease(store, folder, number, record)
                store.delete(_name(folder, number))
        except BaseException:
            _own.discard(record["token"])
            raise
        _own.discard(record["token"])
        time.sleep(random.uniform(0, 0.05 * 2**attempt))
    return holder_of(store, folder) or Holder("another machine", 0, "now", stale_seconds)


def holder_of(store: Store, folder: str) -> Holder | None:
    """Returns who holds a lease on `folder` and lives, or None."""
    entries = _entries(store, folder)
    return _living(store, entries[-1]) if entries else None


def _is_last(store: Store, folder: str, number: int) -> bool:
    """Returns whether a new number is the highest, and removes those before it.

    A client of a shared file system may have worked with an old listing; its own new file makes it ask the server.
    """
    entries = _entries(store, folder)
    if any(_number(entry) > number for entry in entries):
        return False
    with suppress(StorageError):
        for entry in entries:
            if _number(entry) < number:
                store.delete(entry.name)
    return True


def _living(store: Store, entry: Entry) -> Holder | None:
    """Returns the holder of a lease unless it was released or its holder is dead or stale."""
    record = _read(store, entry.name)
    # A shared file system shows times of some age; having just opened the file it knows better.
    entry = store.entry(entry.name) or entry
    return _holder(record) if _lives(store, entry, record) else None


def _name(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"


def _number(entry: Entry) -> int:
    return int(entry.name.rpartition("/")[2].partition(".")[0])


def _entries(store: Store, folder: str) -> list[Entry]:
    return [entry for entry in store.entries(folder) if entry.name.endswith(".json") and "/." not in entry.name]


def _read(store: Store, name: str) -> dict[str, Any]:
    """Returns what a lease says; nothing where its writer has not got so far."""
    try:
        record = json.loads(store.read(name) or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _holder(record: dict[str, Any]) -> Holder:
    return Holder(
        str(record.get("host", "an unknown machine")),
        int(record.get("pid", 0)),
        str(record.get("since", "an unknown time")),
        float(record.get("stale_seconds", STALE_SECONDS)),
    )


def _own_record(stale_seconds: float) -> dict[str, Any]:
    return {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "started": _started(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "stale_seconds": stale_seconds,
        "released": False,
    }


def _lives(store: Store, entry: Entry, record: dict[str, Any]) -> bool:
    if record.get("released"):
        return False
    machine = record.get("machine")
    if machine and machine == _machine():
        if record["pid"] == os.getpid() and record["token"] not in _own:
            return False
        if _started(int(record["pid"])) != record["started"]:
            return False
    try:
        now = store.now()
    except StorageError:
        # Who may not write there may still look.
        now = time.time()
    return now - entry.modified <= float(record.get("stale_seconds", STALE_SECONDS))


def _machine() -> str:
    """Returns what two processes share that see each other's numbers: a boot and a namespace; "" where unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as handle:
            return f"{handle.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Returns when a process of this machine started, in ticks since boot; "" where it does not run."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            fields = handle.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
