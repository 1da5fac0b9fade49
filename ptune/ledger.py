"""Durable facts: fits addressed by the hash of what determines them, and append-only study events.

A fit exists once its completion record does; the record holds a sha256 of every other file and is written last.
Events are single lines, each with its own checksum, so that a torn last line is recognised and dropped.
Knows nothing of Ray, Optuna or MLflow, which are projections of what is here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.config import FitSpec
from ptune.errors import LedgerError
from ptune.home import sha256_file, sync_folder, write_atomic, write_bytes, write_json

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
COMPLETE = "complete.json"


@dataclass(frozen=True)
class FitRecord:
    """A finished fit in the ledger."""

    signature: str
    folder: Path

    @cached_property
    def spec(self) -> FitSpec:
        """What determined the fit."""
        return FitSpec.parse(json.loads((self.folder / "spec.json").read_text()), "ledger")

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """One mapping of metrics per epoch."""
        return list(json.loads((self.folder / "history.json").read_text()))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Facts about the run itself: seconds, device."""
        return dict(json.loads((self.folder / COMPLETE).read_text())["summary"])

    @property
    def weights(self) -> Path:
        """Path of weights.safetensors."""
        return self.folder / "weights.safetensors"

    def predictions(self) -> pa.Table:
        """Returns one row per held-out video: video_id, subject, fold, score, label, probabilities, attention."""
        import pyarrow as pa

        with pa.memory_map(str(self.folder / "predictions.arrow")) as source:
            return pa.ipc.open_file(source).read_all()


def predictions_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Builds the predictions of a fit; `rows` as `FitRecord.predictions` returns them."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("video_id", pa.string()),
            ("subject", pa.string()),
            ("fold", pa.int32()),
            ("score", pa.int32()),
            ("label", pa.int32()),
            ("probabilities", pa.list_(pa.float32())),
            ("attention", pa.list_(pa.float32())),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


class Ledger:
    """All fits and studies of a home."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fit_folder(self, signature: str) -> Path:
        """Returns where a fit's files and its checkpoint lie, finished or not."""
        return self.root / "fits" / signature[:2] / signature

    def find_fit(self, signature: str) -> FitRecord | None:
        """Returns the finished fit, or None when there is none yet.

        Raises:
            LedgerError: the fit claims to be complete and its files differ from its checksums.
        """
        folder = self.fit_folder(signature)
        try:
            complete = json.loads((folder / COMPLETE).read_text())
        except FileNotFoundError:
            return None
        for name, digest in complete["sha256"].items():
            path = folder / name
            if not path.exists() or sha256_file(path) != digest:
                raise LedgerError(
                    f"fit {signature}",
                    f"{name} is missing or differs from its checksum",
                    "the bytes that were written",
                    f"Remove ledger/fits/{signature[:2]}/{signature} to train this fit again.",
                )
        return FitRecord(signature, folder)

    def add_fit(
        self,
        spec: FitSpec,
        history: list[dict[str, float]],
        predictions: pa.Table,
        weights: bytes,
        summary: Mapping[str, Any],
    ) -> FitRecord:
        """Stores a finished fit; its completion record appears last."""
        signature = spec.signature()
        folder = self.fit_folder(signature)
        write_json(folder / "spec.json", spec.model_dump(mode="json"))
        write_json(folder / "history.json", history)
        write_atomic(folder / "predictions.arrow", lambda path: _write_arrow(path, predictions))
        write_bytes(folder / "weights.safetensors", weights)
        names = ("spec.json", "history.json", "predictions.arrow", "weights.safetensors")
        digests = {name: sha256_file(folder / name) for name in names}
        content = {"schema_version": SCHEMA_VERSION, "sha256": digests, "summary": dict(summary)}
        write_json(folder / COMPLETE, content)
        return FitRecord(signature, folder)

    def study(self, name: str) -> StudyLog:
        """Returns the event log of a study, which may be empty."""
        return StudyLog(self.root / "studies" / name)

    def studies(self) -> list[str]:
        """Returns the names of all studies that have events."""
        return sorted(path.parent.name for path in (self.root / "studies").glob("*/events.jsonl"))


class StudyLog:
    """Append-only events of one study; one writer at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "events.jsonl"

    def append(self, kind: str, **content: Any) -> dict[str, Any]:
        """Adds one event durably and returns it.

        Args:
            kind: opened, proposed, reported, stopped, finished, failed or decided.
            content: plain JSON values, all finite.
        """
        event = {"kind": kind, **content}
        body = json.dumps(event, sort_keys=True, separators=(",", ":"), allow_nan=False)
        created = not self.path.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as handle:
            _end_torn_line(handle)
            handle.write(f"{_checksum(body)} {body}\n".encode())
            handle.flush()
            os.fsync(handle.fileno())
        if created:
            sync_folder(self.folder)
        return event

    def events(self) -> list[dict[str, Any]]:
        """Returns all events in order; a line that was torn by a crash is left out.

        Raises:
            LedgerError: a whole line does not match its checksum.
        """
        if not self.path.exists():
            return []
        text = self.path.read_bytes()
        lines = text.split(b"\n")
        found = []
        for number, line in enumerate(lines, 1):
            digest, _, body = line.decode("utf-8", "replace").partition(" ")
            if body and digest == _checksum(body):
                found.append(json.loads(body))
            elif line and not line.endswith(TORN) and number < len(lines):
                raise LedgerError(
                    f"study {self.folder.name}, event line {number}",
                    "does not match its checksum",
                    "the bytes that were written",
                    "Restore events.jsonl from a backup, or delete the line: that event then never was.",
                )
        return found


TORN = b"#torn"


def _end_torn_line(handle: Any) -> None:
    """Closes a line that a crash left without its end, so that the next event starts on its own line."""
    size = handle.seek(0, os.SEEK_END)
    if size == 0:
        return
    handle.seek(size - 1)
    if handle.read(1) != b"\n":
        handle.write(TORN + b"\n")


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _write_arrow(path: Path, table: pa.Table) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
