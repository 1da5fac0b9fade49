"""A ledger becomes a list of what is wrong with it, each with what to do. Changes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ptune.config import FitSpec, signature_of
from ptune.errors import LedgerError, PtuneError
from ptune.ledger import FitRecord, Ledger
from ptune.ledger.layout import CHECKPOINT, COMPLETE, SPEC, fit_folder
from ptune.ledger.lease import holder_of
from ptune.ledger.store import Entry
from ptune.progress import progress
from ptune.replay import replay
from ptune.upkeep.inventory import is_claimed, take_inventory

#: The stages' versions under which ledgers of the first layout were made; they do not say so themselves.
FIRST_VERSIONS = {"extract": 2, "train": 1, "protocol": 1}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: where, what, and what to do."""

    where: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}" + (f". {self.remedy}" if self.remedy else "")


@dataclass
class Health:
    """The state of a ledger.

    Args:
        problems: what must be repaired.
        notes: what is as it may be after a crash or while something runs.
    """

    fits: int = 0
    studies: int = 0
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "fits": self.fits,
            "studies": self.studies,
            "problems": [vars(finding) for finding in self.problems],
            "notes": [vars(finding) for finding in self.notes],
        }

    def text(self) -> str:
        """Returns one line per finding and a closing one."""
        lines = [f"problem: {finding}" for finding in self.problems] + [f"note: {finding}" for finding in self.notes]
        return "\n".join([*lines, f"{self.fits} finished fits, {self.studies} studies, {len(self.problems)} problems"])


def check(ledger: Ledger) -> Health:
    """Verifies every fit and every study of a ledger."""
    inventory, health = take_inventory(ledger), Health()
    with progress("check", len(inventory.fits) + len(inventory.studies)) as bar:
        for signature, files in inventory.fits.items():
            _check_fit(ledger, signature, files, health)
            bar.advance()
        for name in sorted(inventory.studies):
            _check_study(ledger, name, inventory.fits, health)
            bar.advance()
    for name in sorted(inventory.models):
        _check_model(ledger, name, health)
    for entry in inventory.leftovers:
        health.notes.append(Finding(entry.name, "was left by a writer that was killed", "`ptune ledger gc`"))
    for entry in inventory.unknown:
        health.notes.append(Finding(entry.name, "was not written by ptune", "Keep it elsewhere."))
    return health


def _check_fit(ledger: Ledger, signature: str, files: dict[str, Entry], health: Health) -> None:
    where, folder = f"fit {signature}", fit_folder(signature)
    if COMPLETE not in files:
        holder = holder_of(ledger.store, f"{folder}/claim") if is_claimed(files) else None
        state = f"being trained by {holder}" if holder else "unfinished"
        kept = f"with a checkpoint of {files[CHECKPOINT].size} bytes" if CHECKPOINT in files else "without checkpoint"
        health.notes.append(Finding(where, f"{state}, {kept}"))
        return
    remedy = f"Remove {folder} from the ledger to train this fit again."
    try:
        record = ledger.find_fit(signature, verify=False)
        if record is None:
            return
        record.verify(deep=True)
        spec = json.loads(record.read(SPEC))
        FitSpec.parse(spec, where)
    except LedgerError as error:
        health.problems.append(Finding(error.where, error.found, error.remedy))
        return
    except (PtuneError, ValueError, KeyError) as error:
        health.problems.append(Finding(where, f"its {SPEC} is no specification of a fit ({error})", remedy))
        return
    if _identity(spec, record) != signature:
        health.problems.append(Finding(where, "is the result of another specification than its own", remedy))
        return
    health.fits += 1
    named = {record.name(role).rpartition("/")[2] for role in record.complete["sha256"]}
    extra = sorted(name for name in files if name != COMPLETE and "/" not in name and name not in named)
    if extra:
        health.notes.append(Finding(where, f"has files that it needs no more: {', '.join(extra)}", "`ptune ledger gc`"))


def _identity(spec: dict[str, Any], record: FitRecord) -> str:
    """Returns the signature of a specification as it was stored, under the stages' versions of its time."""
    versions = {name: record.complete.get("versions", FIRST_VERSIONS)[name] for name in FIRST_VERSIONS}
    content = {name: value for name, value in spec.items() if name != "fold"}
    return signature_of({"fit": content, "versions": versions})


def _check_study(ledger: Ledger, name: str, fits: dict[str, dict[str, Entry]], health: Health) -> None:
    where, log = f"study {name}", ledger.study(name)
    health.studies += 1
    try:
        events, torn = log.scan()
        facts = replay(events)
    except LedgerError as error:
        health.problems.append(Finding(error.where, error.found, error.remedy))
        return
    except (PtuneError, KeyError, ValueError, TypeError) as error:
        remedy = "Restore the study's events from a backup."
        health.problems.append(Finding(where, f"its events contradict each other ({error!r})", remedy))
        return
    if torn:
        health.notes.append(Finding(where, f"a crash tore {torn} lines of its events; they never were"))
    holder = log.holder()
    if holder:
        health.notes.append(Finding(where, f"is being run by {holder}"))
    if facts is None:
        return
    tables = [event["table"] for event in facts.baselines.values()]
    tables += [event.get("evidence") for event in facts.decided if event["what"] == "registered"]
    tables += [event["fusion"] for event in facts.decided if event["what"] == "ablation"]
    for table in dict.fromkeys(filter(None, tables)):
        try:
            log.table(table)
        except LedgerError as error:
            health.problems.append(Finding(error.where, error.found, error.remedy))
    named = {f"trial {trial.number}": list(trial.fits.values()) for trial in facts.finished()}
    for event in facts.decided:
        if "version" in event:
            named[f"model {event.get('model', name)}, version {event['version']}"] = event.get("fits", [])
    for owner, signatures in named.items():
        lost = [signature for signature in signatures if COMPLETE not in fits.get(signature, {})]
        if lost:
            found = f"{owner} has lost {len(lost)} of its {len(signatures)} fits: {', '.join(lost)}"
            health.problems.append(
                Finding(where, found, "Restore them from a backup, or run the study under a new name.")
            )


def _check_model(ledger: Ledger, name: str, health: Health) -> None:
    where, log = f"model {name}", ledger.model(name)
    try:
        torn = log.scan()[1]
    except LedgerError as error:
        health.problems.append(Finding(error.where, error.found, error.remedy))
        return
    if torn:
        health.notes.append(Finding(where, f"a crash tore {torn} lines of its events; they never were"))
    holder = log.holder()
    if holder:
        health.notes.append(Finding(where, f"is being changed by {holder}"))
