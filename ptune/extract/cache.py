"""Files of an object store become files of this node: fetched once for all its processes, verified, and bounded.

Knows nothing of records. A cached file is named by its checksum. `PTUNE_CACHE` names the folder and `PTUNE_CACHE_GB`
its size; without it the files take four fifths of the room that there would be without them. What was not used for
longest goes first; a file that a process has mapped stays readable to it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptune.errors import ConfigError
from ptune.home import sha256_file

SHARE_OF_DISK = 0.8
PART = ".part"


class NodeCache:
    """Files below a folder that the processes of one node share.

    Args:
        folder: on a local disk, private to its user.
        limit: bytes; None for a share of the disk.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self.files = folder / "features"
        self._verified: set[Path] = set()

    @classmethod
    def of_node(cls) -> NodeCache:
        """Returns the cache that the environment describes.

        Raises:
            ConfigError: `PTUNE_CACHE_GB` is not a number above 0.
        """
        given = os.environ.get("PTUNE_CACHE_GB")
        try:
            limit = int(float(given) * 1e9) if given else None
        except (ValueError, OverflowError):
            limit = 0
        if limit is not None and limit <= 0:
            raise ConfigError("PTUNE_CACHE_GB", repr(given), "gigabytes above 0", "Correct it or leave it out.")
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptune"
        return cls(Path(os.environ.get("PTUNE_CACHE") or usual).expanduser().absolute(), limit)

    def path(self, sha256: str) -> Path:
        """Returns where the file of a checksum lies, if it is there."""
        return self.files / sha256[:2] / sha256

    def file(self, sha256: str, size: int, blocks: Callable[[], Iterable[bytes]]) -> Path | None:
        """Returns the file of a checksum, verified by this process; None where `blocks` are other bytes.

        Args:
            size: of the file; room is made for it.
            blocks: fetches it, where it is not there.
        """
        path = self.path(sha256)
        with suppress(FileNotFoundError):
            if path in self._verified or sha256_file(path) == sha256:
                os.utime(path)
                self._verified.add(path)
                return path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone(sha256[:2]):
            # Another process may have fetched it meanwhile.
            if not path.exists() or sha256_file(path) != sha256:
                self.make_room(size)
                if not _filled(path, sha256, blocks()):
                    return None
        self._verified.add(path)
        return path

    def take(self, source: Path, sha256: str) -> None:
        """Moves a finished file of this checksum into the cache."""
        path = self.path(sha256)
        self.make_room(0)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(source, path)
        os.utime(path)

    def make_room(self, size: int) -> None:
        """Removes the files that were not used for longest until `size` bytes more are within the limit."""
        self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone("room"):
            found = sorted(self._found())
            held = sum(bytes_ for _, bytes_, _ in found)
            limit = self.limit
            if limit is None:
                limit = int(SHARE_OF_DISK * (held + shutil.disk_usage(self.files).free))
            for _, bytes_, path in found:
                if held + size <= limit:
                    break
                path.unlink(missing_ok=True)
                held -= bytes_

    def _found(self) -> Iterator[tuple[float, int, Path]]:
        for path in self.files.glob("??/*"):
            if path.suffix != PART:
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    yield facts.st_mtime, facts.st_size, path

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with open(self.files / f"{name}.lock", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _filled(path: Path, sha256: str, blocks: Iterable[bytes]) -> bool:
    # Whoever died while fetching this file left its part.
    for left in path.parent.glob(f"{sha256}*{PART}"):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f"{sha256}.{uuid.uuid4().hex}{PART}")
    digest = hashlib.sha256()
    try:
        with open(temporary, "xb") as handle:
            for block in blocks:
                digest.update(block)
                handle.write(block)
        if digest.hexdigest() != sha256:
            return False
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
