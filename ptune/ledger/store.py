"""Where the ledger's bytes lie: one small interface over a folder and an object store.

A name is a path below the ledger's root, with slashes. Knows nothing of fits and studies.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ptune.errors import HomeError, StorageError


@dataclass(frozen=True)
class Entry:
    """A stored file: `size` in bytes, `modified` in seconds by the store's own clock."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True)
class Line:
    """One line of a log without its end; `whole` is false where a writer died before the end."""

    where: str
    text: bytes
    whole: bool = True


class Lines(Protocol):
    """An append-only log of lines with one writer at a time."""

    def append(self, line: bytes, fence: int) -> None:
        """Adds a line durably.

        Args:
            fence: rises with every new writer; a line of an older one that arrives late is never read.
        """

    def read(self, position: int = 0) -> tuple[list[Line], int]:
        """Returns the lines after a position in order, and the position after the last whole one; 0 is the start."""

    def exists(self) -> bool:
        """Returns whether there is any line."""


class Store(Protocol):
    """Files that appear whole or not at all. Every method raises StorageError where the place refuses."""

    identity: str

    def put(self, name: str, content: bytes, durable: bool = True) -> None:
        """Makes `name` hold `content`; when it returns, a loss of power leaves it there.

        Args:
            durable: false for what a loss of power may undo, as a whole.
        """

    def put_file(self, name: str, fill: Callable[[Path], None]) -> None:
        """Makes `name` hold what `fill` writes to a path, as `put` does, without all of it in memory."""

    def create(self, name: str, content: bytes) -> bool:
        """Makes `name` unless it is there, not durably. False: another was first, or two came at the same moment."""

    def touch(self, name: str) -> bool:
        """Renews the time of `name`; false where it is not there."""

    def read(self, name: str) -> bytes | None:
        """Returns all bytes of `name`, or None where there is none."""

    def entry(self, name: str) -> Entry | None:
        """Returns size and time of `name`, or None where there is none."""

    def entries(self, folder: str) -> list[Entry]:
        """Returns all files at any depth below `folder`, in order of their names."""

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders directly below `folder`, in order."""

    def delete(self, name: str) -> None:
        """Removes `name`, where it is there."""

    def now(self) -> float:
        """Returns the time by the clock that stamps `Entry.modified`."""

    def intact(self, name: str, sha256: str, size: int | None, deep: bool = False) -> bool:
        """Returns whether `name` holds the bytes of this checksum.

        An object store compares the size alone unless `deep`: its bytes are checked whenever they are fetched.
        """

    def file(self, name: str, sha256: str) -> Path:
        """Returns a local file with the bytes of `name`; those of an object store are fetched once and verified."""

    def opened(self, name: str) -> AbstractContextManager[Path | None]:
        """Yields a local file with the present bytes of `name` for a while, or None where there is none."""

    def lines(self, name: str) -> Lines:
        """Returns the log `name`."""


def store_at(place: str | Path) -> Store:
    """Returns the store at a path or URI: file://, s3://bucket/prefix, gs://bucket/prefix.

    Raises:
        HomeError: ptune knows no such place.
    """
    from ptune.ledger.local import LocalStore
    from ptune.ledger.objects import ObjectStore

    scheme, separator, rest = str(place).partition("://")
    if not separator:
        return LocalStore(Path(place))
    if scheme == "file":
        return LocalStore(Path(unquote(urlsplit(str(place)).path)))
    if scheme not in {"s3", "gs", "gcs"} or not rest:
        raise HomeError(
            "ledger",
            f"cannot lie at {scheme}://",
            "a path, file:///path, s3://bucket/prefix or gs://bucket/prefix",
            "Correct --ledger or PTUNE_LEDGER.",
        )
    return ObjectStore.at(str(place))


@contextmanager
def storing(name: str) -> Iterator[None]:
    """Turns what a disk or object store refuses into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        found, remedy = _explained(error)
        raise StorageError(f"ledger, {name}", found, "", remedy) from error


def _explained(error: OSError) -> tuple[str, str]:
    again = "Then run the same command again: finished fits and recorded events are safe."
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full", f"Free some space. {again}"
    if error.errno == errno.EFBIG:
        return "is larger than this process may write", f"Raise the limit (ulimit -f). {again}"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "may not be read or written by this user", f"Correct the owner or mode of the ledger's folder. {again}"
    refused = re.search(r"AWS Error (\w+)", str(error))
    if refused:
        return f"the object store answered {refused[1]}", f"Check bucket, region and credentials. {again}"
    found = error.strerror or type(error).__name__
    return f"cannot be read or written ({found})", f"Check the disk or the connection. {again}"
