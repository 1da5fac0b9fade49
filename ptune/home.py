"""Where files live: one home folder, private to its owner, and writes that appear whole or not at all.

Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.errors import HomeError

DEFAULT_HOME = "ptune-home"


@dataclass(frozen=True)
class Home:
    """The folders of one ptune home.

    Args:
        root: absolute path; on a cluster, a path that every node shares.
        features: the feature store; may lie on another, faster disk.
    """

    root: Path
    features: Path

    @classmethod
    def open(cls, root: str | Path | None = None, features: str | Path | None = None) -> Home:
        """Returns the home at `root` (else `PTUNE_HOME`, else ./ptune-home), made private and shown to be writable.

        Raises:
            HomeError: the folder cannot be created or written.
        """
        path = Path(root or os.environ.get("PTUNE_HOME") or DEFAULT_HOME).expanduser().absolute()
        home = cls(path, Path(features).expanduser().absolute() if features else path / "features")
        try:
            if not path.exists():
                path.mkdir(mode=0o700, parents=True)
            for folder in (home.features, home.ledger, home.artifacts, home.ray, home.weights):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = path / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise HomeError(
                "home",
                f"cannot be written ({error.strerror})",
                "a folder that this user may create files in",
                "Choose another with --home or PTUNE_HOME.",
            ) from error
        return home

    @property
    def ledger(self) -> Path:
        """Fits and study events."""
        return self.root / "ledger"

    @property
    def artifacts(self) -> Path:
        """Artifacts of the embedded tracking store."""
        return self.root / "artifacts"

    @property
    def ray(self) -> Path:
        """Files of Ray Tune and of a private Ray."""
        return self.root / "ray"

    @property
    def weights(self) -> Path:
        """Pretrained weights."""
        return self.root / "weights"

    @property
    def reports(self) -> Path:
        """HTML reports, one folder per study."""
        return self.root / "reports"

    @property
    def previews(self) -> Path:
        """Pictures of extracted features, one folder per extraction."""
        return self.root / "previews"

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI where it is set, else the embedded SQLite store."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Makes `path` appear whole: `write` fills a temporary neighbour, which is synced and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    try:
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content`, whole or not at all."""
    write_atomic(path, lambda temporary: _fill(temporary, content))


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all."""
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def sha256_file(path: Path) -> str:
    """Returns the sha256 of a file's bytes as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
