"""All files of a ledger, sorted by what they belong to; one listing of the store."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ptune.ledger import Ledger
from ptune.ledger.layout import CHECKPOINT, CHECKPOINT_SPEC, COMPLETE, ROLES, SCHEMA
from ptune.ledger.store import Entry

#: What a writer leaves that was killed: a temporary neighbour in a folder, a candidate in an object store.
LEFTOVER = re.compile(r"(^|.*/)\.[^/]*\.part|.*~[0-9a-f]{32}")
_ROLE = "|".join(re.escape(role) for role in ROLES)
FIT = re.compile(
    rf"fits/[0-9a-f]{{2}}/([0-9a-f]{{32}})/"
    rf"({COMPLETE}|{CHECKPOINT}|{CHECKPOINT_SPEC}|claim/\d{{8}}\.json|([0-9a-f]{{16}}-)?({_ROLE}))"
)
TABLE = re.compile(r"studies/([^/]+)/tables/([0-9a-f]{64})\.arrow")
STUDY = re.compile(
    r"studies/([^/]+)/(events\.jsonl|events/\d{8}-(\d{6}|\d{8}\.pack)|lease/\d{8}\.json|requests/\d{20}-[0-9a-f]{8}\.json)"
)
MODEL = re.compile(r"registry/([^/]+)/(events\.jsonl|events/\d{8}-(\d{6}|\d{8}\.pack)|lease/\d{8}\.json)")


@dataclass
class Inventory:
    """What a ledger consists of.

    Args:
        fits: files of each fit, by signature and name below its folder.
        studies: names of studies.
        models: names of registered models.
        tables: tables of each study, by the study's name and their sha256.
        leftovers: of writers that were killed.
        unknown: what ptune did not write.
    """

    fits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    tables: dict[str, dict[str, Entry]] = field(default_factory=dict)
    leftovers: list[Entry] = field(default_factory=list)
    unknown: list[Entry] = field(default_factory=list)


def take_inventory(ledger: Ledger) -> Inventory:
    """Lists a ledger."""
    found = Inventory()
    for entry in ledger.store.entries(""):
        if LEFTOVER.fullmatch(entry.name):
            found.leftovers.append(entry)
        elif match := FIT.fullmatch(entry.name):
            found.fits.setdefault(match[1], {})[match[2]] = entry
        elif match := TABLE.fullmatch(entry.name):
            found.tables.setdefault(match[1], {})[match[2]] = entry
        elif match := STUDY.fullmatch(entry.name):
            found.studies.add(match[1])
        elif match := MODEL.fullmatch(entry.name):
            found.models.add(match[1])
        elif entry.name != SCHEMA:
            found.unknown.append(entry)
    return found


def is_claimed(files: dict[str, Entry]) -> bool:
    """Returns whether a worker has or had a claim on the fit of these files."""
    return any(name.startswith("claim/") for name in files)
