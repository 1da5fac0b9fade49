"""A finished fit: what determined it, how it went, what it predicted, what it learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.config import STAGE_VERSIONS, FitSpec
from ptune.errors import LedgerError
from ptune.ledger.layout import (
    COMPLETE,
    HISTORY,
    PREDICTIONS,
    SCHEMA_VERSION,
    SPEC,
    WEIGHTS,
    file_name,
    fit_folder,
    require_readable,
)
from ptune.ledger.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class FitRecord:
    """A finished fit in the ledger.

    Args:
        complete: its completion record.
    """

    signature: str
    store: Store
    complete: Mapping[str, Any]

    @cached_property
    def spec(self) -> FitSpec:
        """What determined the fit."""
        return FitSpec.parse(json.loads(self.read(SPEC)), "ledger")

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """One mapping of metrics per epoch."""
        return list(json.loads(self.read(HISTORY)))

    @property
    def summary(self) -> dict[str, Any]:
        """Facts about the run itself: seconds, device."""
        return dict(self.complete["summary"])

    @property
    def weights(self) -> Path:
        """Path of weights.safetensors on this machine; fetched and verified where the ledger is elsewhere."""
        return self.store.file(self.name(WEIGHTS), self.complete["sha256"][WEIGHTS])

    def predictions(self) -> pa.Table:
        """Returns one row per held-out video: video_id, subject, fold, score, label, probabilities, attention."""
        import pyarrow as pa

        return pa.ipc.open_file(pa.py_buffer(self.read(PREDICTIONS))).read_all()

    def name(self, role: str) -> str:
        """Returns the name of one of the fit's files in its store."""
        digest = self.complete["sha256"][role]
        return f"{fit_folder(self.signature)}/{file_name(self.complete['schema_version'], role, digest)}"

    def read(self, role: str) -> bytes:
        """Returns the bytes of one of the fit's files.

        Raises:
            LedgerError: they differ from their checksum.
        """
        content = self.store.read(self.name(role))
        if content is None or hashlib.sha256(content).hexdigest() != self.complete["sha256"][role]:
            raise self._damaged(role)
        return content

    def verify(self, deep: bool = False) -> None:
        """Compares all files with their checksums.

        Args:
            deep: fetch what lies in an object store, where its size alone is compared otherwise.

        Raises:
            LedgerError: one differs.
        """
        sizes = self.complete.get("bytes", {})
        for role, digest in self.complete["sha256"].items():
            if not self.store.intact(self.name(role), digest, sizes.get(role), deep):
                raise self._damaged(role)

    def _damaged(self, role: str) -> LedgerError:
        return LedgerError(
            f"fit {self.signature}",
            f"{role} is missing or differs from its checksum",
            "the bytes that were written",
            f"Remove {fit_folder(self.signature)} from the ledger to train this fit again.",
        )


def parse_complete(content: bytes, signature: str) -> dict[str, Any]:
    """Reads a completion record.

    Raises:
        LedgerError: it is not one, or a newer ptune wrote it.
    """
    try:
        complete = json.loads(content)
        require_readable(int(complete["schema_version"]), f"fit {signature}")
        return dict(complete)
    except (ValueError, KeyError, TypeError):
        raise LedgerError(
            f"fit {signature}",
            f"{COMPLETE} is not a completion record",
            "the bytes that were written",
            f"Remove {fit_folder(signature)} from the ledger to train this fit again.",
        ) from None


def completion(files: Mapping[str, bytes], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the completion record of files by their roles."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sha256": {role: hashlib.sha256(content).hexdigest() for role, content in files.items()},
        "bytes": {role: len(content) for role, content in files.items()},
        "versions": STAGE_VERSIONS,
        "summary": dict(summary),
    }


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


def arrow_bytes(table: pa.Table) -> bytes:
    """Returns a table as an Arrow IPC file."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def json_bytes(value: Any) -> bytes:
    """Returns plain finite values as JSON that people can read."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
