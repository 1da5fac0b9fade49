"""What lies where in a ledger, and in which version of it.

ledger.json                           version of the layout
fits/ab/abcd.../complete.json         the fit exists: checksums of its files, facts about its run
fits/ab/abcd.../0123...-ROLE          its files, named by their checksums (version 1: by their roles alone)
fits/ab/abcd.../checkpoint.*          an unfinished fit: its state, and what it is
fits/ab/abcd.../claim/00000001.json   who trains it
studies/NAME/events.jsonl             events in a folder
studies/NAME/events/00000001-000001   events in an object store
studies/NAME/tables/0123....arrow     tables that its events name, by their checksums
studies/NAME/lease/00000001.json      who runs it
studies/NAME/requests/TIME-ID.json    what people ask of whoever runs it
registry/NAME/events.jsonl            what became of a registered model; in an object store as those of a study
registry/NAME/lease/00000001.json     who changes it
"""

from __future__ import annotations

import json

from ptune.errors import LedgerError
from ptune.ledger.store import Store

SCHEMA_VERSION = 2
SCHEMA = "ledger.json"
COMPLETE = "complete.json"
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SPEC = "checkpoint.json"
SPEC, HISTORY, PREDICTIONS, WEIGHTS = ROLES = ("spec.json", "history.json", "predictions.arrow", "weights.safetensors")

_READABLE: set[str] = set()
_MARKED: set[str] = set()


def fit_folder(signature: str) -> str:
    """Returns where a fit lies, finished or not."""
    return f"fits/{signature[:2]}/{signature}"


def study_folder(study: str) -> str:
    """Returns where a study lies."""
    return f"studies/{study}"


def model_folder(name: str) -> str:
    """Returns where the events of a registered model lie."""
    return f"registry/{name}"


def table_name(study: str, sha256: str) -> str:
    """Returns where a table of a study lies."""
    return f"{study_folder(study)}/tables/{sha256}.arrow"


def file_name(schema_version: int, role: str, sha256: str) -> str:
    """Returns the name of a fit's file.

    Two workers that finish the same fit at once write other bytes under other names, and each completion record names
    its own, so that one wins whole.
    """
    return role if schema_version == 1 else f"{sha256[:16]}-{role}"


def require_readable(version: int, where: str) -> None:
    """Refuses what a newer ptune wrote.

    Raises:
        LedgerError: it did.
    """
    if version > SCHEMA_VERSION:
        raise LedgerError(
            where,
            f"was written by a newer ptune (schema {version})",
            f"schema {SCHEMA_VERSION} or older",
            "Upgrade ptune, or choose another ledger with --ledger.",
        )


def before_reading(store: Store) -> None:
    """Refuses a ledger that a newer ptune wrote; looks once per process."""
    if store.identity in _READABLE:
        return
    content = store.read(SCHEMA)
    if content is not None:
        require_readable(_version(content), "ledger")
        _READABLE.add(store.identity)


def _version(content: bytes) -> int:
    try:
        return int(json.loads(content)["schema_version"])
    except (ValueError, KeyError, TypeError):
        remedy = f"Remove {SCHEMA} if all else was written by this ptune; it says nothing else."
        raise LedgerError("ledger", f"{SCHEMA} is damaged", "the version of the ledger's layout", remedy) from None


def before_writing(store: Store) -> None:
    """Marks a ledger with its version; looks once per process."""
    if store.identity in _MARKED:
        return
    before_reading(store)
    content = (json.dumps({"schema_version": SCHEMA_VERSION}) + "\n").encode()
    if store.read(SCHEMA) != content:
        store.put(SCHEMA, content)
    _MARKED.add(store.identity)
