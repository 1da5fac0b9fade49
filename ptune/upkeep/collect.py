"""What nothing refers to any more: fits, checkpoints and the leftovers of killed writers.

In doubt it is kept: whatever an event names in any way, whatever a trial that is not at its end could still use, and
all fits as long as a study is being run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ptune.errors import LedgerError, StudyBusy
from ptune.ledger import FitRecord, Ledger
from ptune.ledger.layout import CHECKPOINT, CHECKPOINT_SPEC, COMPLETE, fit_folder
from ptune.ledger.lease import holder_of
from ptune.ledger.ledger import spec_of_checkpoint
from ptune.ledger.store import Entry
from ptune.replay import StudyFacts, replay
from ptune.upkeep.inventory import Inventory, is_claimed, take_inventory

YOUNG_SECONDS = 3600.0


@dataclass(frozen=True)
class Item:
    """Files that may go together, and why."""

    what: str
    why: str
    names: tuple[str, ...]
    bytes: int


@dataclass
class Garbage:
    """What may go.

    Args:
        busy: studies that are being run, because of which fits and checkpoints are kept.
    """

    items: list[Item] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """How much it is."""
        return sum(item.bytes for item in self.items)

    def facts(self, removed: bool) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "removed": removed,
            "bytes": self.bytes,
            "items": [vars(item) for item in self.items],
            "busy": self.busy,
        }

    def text(self, removed: bool) -> str:
        """Returns one line per item and a closing one."""
        lines = [f"{_size(item.bytes):>9}  {item.what}: {item.why}" for item in self.items]
        if self.busy:
            lines.append(f"Fits and checkpoints are kept while studies are being run: {', '.join(self.busy)}.")
        total = f"{_size(self.bytes).strip()} in {len(self.items)} items"
        if not self.items:
            return "\n".join([*lines, "Nothing to remove."])
        if removed:
            return "\n".join([*lines, f"Removed {total}."])
        return "\n".join([*lines, f"{total}. Nothing was removed; `ptune ledger gc --delete` removes it."])


@dataclass
class _Uses:
    """What the studies of a ledger refer to.

    Args:
        named: all that could be a signature or a checksum in any event.
        running, finished: streams of trials in these states.
        registered: streams of studies with a registered model whose fits no event names.
    """

    named: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    registered: set[str] = field(default_factory=set)


def find_garbage(ledger: Ledger) -> Garbage:
    """Returns what may go; changes nothing.

    Raises:
        LedgerError: a study cannot be read, so that nobody knows what it refers to.
    """
    inventory = take_inventory(ledger)
    busy = [name for name in sorted(inventory.studies) if ledger.study(name).holder()]
    return _find(ledger, inventory, busy)


def remove_garbage(ledger: Ledger) -> Garbage:
    """Removes what may go and returns it; studies that nobody runs cannot start meanwhile.

    Raises:
        LedgerError: a study cannot be read, so that nobody knows what it refers to.
    """
    with ExitStack() as held:
        busy = []
        for name in ledger.studies():
            try:
                held.enter_context(ledger.study(name).lease())
            except StudyBusy:
                busy.append(name)
        garbage = _find(ledger, take_inventory(ledger), busy)
        for item in garbage.items:
            for name in item.names:
                ledger.store.delete(name)
    return garbage


def _find(ledger: Ledger, inventory: Inventory, busy: list[str]) -> Garbage:
    garbage = Garbage(busy=busy)
    if not (inventory.fits or inventory.leftovers or inventory.tables):
        return garbage
    now = ledger.store.now()
    uses = _uses(ledger, inventory.studies)

    def young(entries: Iterable[Entry]) -> bool:
        return any(now - entry.modified < YOUNG_SECONDS for entry in entries)

    def add(what: str, why: str, entries: list[Entry]) -> None:
        if entries and not young(entries):
            names = tuple(entry.name for entry in entries)
            garbage.items.append(Item(what, why, names, sum(entry.size for entry in entries)))

    for entry in inventory.leftovers:
        add(entry.name, "left by a writer that was killed", [entry])
    for entry in _unnamed_tables(inventory, uses, busy):
        add(entry.name, "no event of its study names it", [entry])
    for signature, files in inventory.fits.items():
        what = f"fit {signature}"
        if is_claimed(files) and holder_of(ledger.store, f"{fit_folder(signature)}/claim"):
            continue
        if COMPLETE in files:
            try:
                named, record = signature in uses.named, ledger.find_fit(signature, verify=False)
                unused = record is not None and not named and not busy and not _reusable(record, uses)
            except LedgerError:
                # It is damaged, and for people to look at.
                continue
            if unused:
                # Without its completion record the fit is gone: it goes first.
                entries = [files[COMPLETE], *(entry for name, entry in files.items() if name != COMPLETE)]
                add(what, "no study event and no registered model names it", entries)
            elif record is not None:
                add(what, "files that the finished fit needs no more", _files_beside(record, files))
        elif CHECKPOINT in files:
            if not busy and not _resumable(ledger, files, uses):
                add(what, "checkpoint of a fit whose trials were stopped or failed", list(files.values()))
        else:
            add(what, "left by a worker that did not get to a checkpoint", list(files.values()))
    return garbage


def _uses(ledger: Ledger, studies: Iterable[str]) -> _Uses:
    uses = _Uses()
    for name in studies:
        events = ledger.study(name).events()
        uses.named |= set(re.findall(r'"([0-9a-f]{32}|[0-9a-f]{64})"', json.dumps(events)))
        facts = replay(events)
        if facts is not None:
            uses.running |= _streams(facts, "running")
            uses.finished |= _streams(facts, "finished")
            if any(event["what"] == "registered" and "fits" not in event for event in facts.decided):
                uses.registered |= _streams(facts, "finished")
    return uses


def _unnamed_tables(inventory: Inventory, uses: _Uses, busy: list[str]) -> list[Entry]:
    free = [tables for study, tables in inventory.tables.items() if study not in busy]
    return [entry for tables in free for digest, entry in tables.items() if digest not in uses.named]


def _streams(facts: StudyFacts, state: str) -> set[str]:
    return {facts.stream(trial).signature() for trial in facts.trials.values() if trial.state == state}


def _reusable(record: FitRecord, uses: _Uses) -> bool:
    """Returns whether a running trial, or a model whose fits no event names, may be about to use a finished fit."""
    stream = record.spec.stream.signature()
    return stream in uses.running or (not record.spec.held_out and stream in uses.registered)


def _resumable(ledger: Ledger, files: dict[str, Entry], uses: _Uses) -> bool:
    """Returns whether a trial that is running or finished, whose stream may be fitted again, could go on with it."""
    content = ledger.store.read(files[CHECKPOINT_SPEC].name) if CHECKPOINT_SPEC in files else None
    if content is None:
        return bool(uses.running)
    return spec_of_checkpoint(content).stream.signature() in uses.running | uses.finished


def _files_beside(record: FitRecord, files: dict[str, Entry]) -> list[Entry]:
    """Returns the files in a finished fit's folder that are no part of it."""
    named = {record.name(role).rpartition("/")[2] for role in record.complete["sha256"]} | {COMPLETE}
    return [entry for name, entry in files.items() if name not in named]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
