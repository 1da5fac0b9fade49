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
from urllib.parse import unquote, urlsplit

from ptune.errors import HomeError

DEFAULT_HOME = "ptune-home"
#: What Linux calls file systems that other machines may write, too.
NETWORK = {
    *(
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "glusterfs",
        "pvfs2",
        "virtiofs",
    ),
    *(f"fuse.{name}" for name in ("sshfs", "s3fs", "gcsfuse", "rclone", "glusterfs", "ceph", "juicefs", "goofys")),
}
MOUNTS = "/proc/self/mountinfo"


@dataclass(frozen=True)
class Home:
    """The folders of one ptune home.

    Args:
        root: absolute path; on a cluster, a path that every node shares.
        features: where the feature store lies: a path, or the URI of an object store.
        ledger_at: where the ledger lies when not in the home: a path, or the URI of an object store.
    """

    root: Path
    features: Path | str
    ledger_at: str = ""

    @classmethod
    def open(
        cls,
        root: str | Path | None = None,
        features: str | Path | None = None,
        ledger: str | Path | None = None,
    ) -> Home:
        """Returns the home at `root` (else `PTUNE_HOME`, else ./ptune-home), made private and shown to be writable.

        Args:
            features: another place for the feature store: a path, file://, s3:// or gs://.
            ledger: another place for the ledger, else `PTUNE_LEDGER`: a path, file://, s3:// or gs://.

        Raises:
            HomeError: the folder cannot be created or written.
        """
        path = Path(root or os.environ.get("PTUNE_HOME") or DEFAULT_HOME).expanduser().absolute()
        place = str(ledger or os.environ.get("PTUNE_LEDGER") or "")
        if place and "://" not in place:
            place = str(Path(place).expanduser().absolute())
        home = cls(path, _folder_or_uri(features) if features else path / "features", place)
        folders = [home.artifacts, home.ray, home.weights]
        folders += [folder for folder in (home.features, home.ledger) if isinstance(folder, Path)]
        try:
            if not path.exists():
                path.mkdir(mode=0o700, parents=True)
            for folder in folders:
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
    def ledger(self) -> Path | str:
        """Fits and study events: a path, or the URI of another place."""
        if "://" in self.ledger_at:
            return self.ledger_at
        return Path(self.ledger_at) if self.ledger_at else self.root / "ledger"

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
        """MLFLOW_TRACKING_URI where it is set, else the embedded SQLite store.

        Raises:
            HomeError: the home lies on a network file system, where SQLite's locks do not hold.
        """
        given = os.environ.get("MLFLOW_TRACKING_URI")
        if given:
            return given
        kind = network_filesystem(self.root)
        if kind:
            raise HomeError(
                "MLflow's runs",
                f"would lie in SQLite on a network file system ({kind})",
                "a server of MLflow, or a home on this machine's own disk",
                "Start `mlflow server` on one host and set MLFLOW_TRACKING_URI: docs/cluster.md has a script.",
            )
        return f"sqlite:///{self.root / 'mlflow.db'}"


def _folder_or_uri(place: str | Path) -> Path | str:
    scheme, separator, _ = str(place).partition("://")
    if separator and scheme != "file":
        return str(place)
    return Path(unquote(urlsplit(str(place)).path) if separator else place).expanduser().absolute()


def network_filesystem(path: Path) -> str:
    """Returns the type of the network file system that a path lies on; "" on a disk, or where Linux does not tell."""
    kinds = {}
    try:
        with open(MOUNTS) as lines:
            for line in lines:
                mount, _, kind = line.partition(" - ")
                kinds[Path(mount.split()[4].replace("\\040", " "))] = kind.split()[0]
    except OSError:
        return ""
    place = path.resolve()
    found = next((kinds[part] for part in (place, *place.parents) if part in kinds), "")
    return found if found in NETWORK else ""


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Makes `path` appear whole and durable: `write` fills a temporary neighbour, which is synced and renamed."""
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    try:
        write(temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content`, whole or not at all."""
    write_atomic(path, lambda temporary: write_new(temporary, content))


def write_new(path: Path, content: bytes, sync: bool = False) -> None:
    """Makes a file that was not there.

    Args:
        sync: make its bytes durable, though not its name.

    Raises:
        FileExistsError: it was.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, content)
        if sync:
            os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Writes all of `content` to an open file; the system may take it in parts."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all."""
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def sha256_file(path: Path) -> str:
    """Returns the sha256 of a file's bytes as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
