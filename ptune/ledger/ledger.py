"""All fits and studies of a place: stored once, found by what determines them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.config import STAGE_VERSIONS, FitSpec
from ptune.ledger.fits import FitRecord, arrow_bytes, completion, json_bytes, parse_complete
from ptune.ledger.layout import (
    CHECKPOINT,
    CHECKPOINT_SPEC,
    COMPLETE,
    HISTORY,
    PREDICTIONS,
    SPEC,
    WEIGHTS,
    before_reading,
    before_writing,
    fit_folder,
)
from ptune.ledger.lease import STALE_SECONDS, Holder, Lease, acquire
from ptune.ledger.store import store_at
from ptune.ledger.study import ModelLog, StudyLog

if TYPE_CHECKING:
    import pyarrow as pa

#: Completion records of fits whose files this process has verified.
_verified: set[tuple[str, str]] = set()


class Ledger:
    """All fits and studies of a place.

    Args:
        place: a folder; or file://, s3:// or gs:// with bucket and prefix.
    """

    def __init__(self, place: str | Path) -> None:
        self.store = store_at(place)

    def find_fit(self, signature: str, verify: bool = True) -> FitRecord | None:
        """Returns the finished fit, or None when there is none yet; its files are verified once per process.

        Args:
            verify: false where only its completion record is of interest.

        Raises:
            LedgerError: the fit claims to be complete and its files differ from its checksums.
        """
        before_reading(self.store)
        content = self.store.read(f"{fit_folder(signature)}/{COMPLETE}")
        if content is None:
            return None
        record = FitRecord(signature, self.store, parse_complete(content, signature))
        seen = (self.store.identity, sha256(signature.encode() + content).hexdigest())
        if verify and seen not in _verified:
            record.verify()
            _verified.add(seen)
        return record

    def add_fit(
        self,
        spec: FitSpec,
        history: list[dict[str, float]],
        predictions: pa.Table,
        weights: bytes,
        summary: Mapping[str, Any],
    ) -> FitRecord:
        """Stores a finished fit, its completion record last; one that is there already is returned as it is."""
        signature = spec.signature()
        found = self.find_fit(signature)
        if found is not None:
            return found
        before_writing(self.store)
        files = {
            SPEC: json_bytes(spec.model_dump(mode="json")),
            HISTORY: json_bytes(history),
            PREDICTIONS: arrow_bytes(predictions),
            WEIGHTS: weights,
        }
        record = FitRecord(signature, self.store, completion(files, summary))
        for role, content in files.items():
            self.store.put(record.name(role), content)
        content = json_bytes(record.complete)
        self.store.put(f"{fit_folder(signature)}/{COMPLETE}", content)
        _verified.add((self.store.identity, sha256(signature.encode() + content).hexdigest()))
        return record

    def claim(self, signature: str, stale_seconds: float = STALE_SECONDS) -> Lease | None:
        """Returns the right to train a fit, or None while another worker trains it.

        Once it is yours, look with `find_fit` again: the other may just have finished.

        Args:
            stale_seconds: without a heartbeat for so long, another worker may claim it.
        """
        before_writing(self.store)
        lease = acquire(self.store, f"{fit_folder(signature)}/claim", stale_seconds)
        return None if isinstance(lease, Holder) else lease

    def save_checkpoint(self, spec: FitSpec, fill: Callable[[Path], None]) -> None:
        """Replaces the state of an unfinished fit, whole or not at all.

        Args:
            fill: writes the state to a path.
        """
        before_writing(self.store)
        folder = fit_folder(spec.signature())
        if self.store.entry(f"{folder}/{CHECKPOINT_SPEC}") is None:
            what = {"spec": spec.model_dump(mode="json"), "versions": STAGE_VERSIONS}
            self.store.put(f"{folder}/{CHECKPOINT_SPEC}", json_bytes(what))
        self.store.put_file(f"{folder}/{CHECKPOINT}", fill)

    @contextmanager
    def checkpoint(self, signature: str) -> Iterator[Path | None]:
        """Yields a file with the state of an unfinished fit, or None where there is none."""
        before_reading(self.store)
        with self.store.opened(f"{fit_folder(signature)}/{CHECKPOINT}") as path:
            yield path

    def discard_checkpoint(self, signature: str) -> None:
        """Removes the state of a fit that needs none any more."""
        for name in (CHECKPOINT, CHECKPOINT_SPEC):
            self.store.delete(f"{fit_folder(signature)}/{name}")

    def fits(self) -> list[str]:
        """Returns the signatures of all fits, finished or not."""
        before_reading(self.store)
        return [name for shelf in self.store.folders("fits") for name in self.store.folders(f"fits/{shelf}")]

    def study(self, name: str) -> StudyLog:
        """Returns the event log of a study, which may be empty."""
        return StudyLog(self.store, name)

    def model(self, name: str) -> ModelLog:
        """Returns the event log of a registered model, which may be empty."""
        return ModelLog(self.store, name)

    def studies(self) -> list[str]:
        """Returns the names of all studies that have events."""
        before_reading(self.store)
        return [name for name in self.store.folders("studies") if self.study(name).exists()]


def spec_of_checkpoint(content: bytes) -> FitSpec:
    """Reads what an unfinished fit is, as `Ledger.save_checkpoint` wrote it."""
    return FitSpec.parse(json.loads(content)["spec"], "ledger")
