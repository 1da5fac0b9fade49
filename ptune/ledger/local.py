"""A ledger in a folder, on this machine's disk or on a file system that machines share.

Needs of a shared file system that a file made exclusively is made once and that a rename is seen whole; no locks.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptune.home import make_folder, sha256_file, sync_folder, write_all, write_atomic, write_bytes, write_new
from ptune.ledger.store import Entry, Line, Lines, storing

TORN = b"#torn"
PART = ".part"
#: What file systems answer that know no second names.
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class LocalStore:
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity = str(root.absolute())

    def put(self, name: str, content: bytes, durable: bool = True) -> None:
        """Writes a temporary neighbour, syncs it, renames it and syncs the folder."""
        path = self.root / name
        with storing(name):
            if durable:
                write_bytes(path, content)
                return
            temporary = _neighbour(path)
            try:
                write_new(temporary, content, sync=True)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def put_file(self, name: str, fill: Callable[[Path], None]) -> None:
        """Lets `fill` write the temporary neighbour."""
        with storing(name):
            write_atomic(self.root / name, fill)

    def create(self, name: str, content: bytes) -> bool:
        """Gives a filled temporary neighbour a second name, which must be new: exclusive, and never half there."""
        path = self.root / name
        temporary = _neighbour(path)
        with storing(name):
            make_folder(path.parent)
            try:
                write_new(temporary, content, sync=True)
                os.link(temporary, path)
            except FileExistsError:
                # A server that answers twice says so of its own first success.
                return temporary.stat().st_nlink == 2
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return _made(path, content)
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def touch(self, name: str) -> bool:
        """Renews the file's time; on a shared file system its server's."""
        with storing(name):
            try:
                os.utime(self.root / name)
            except FileNotFoundError:
                return False
        return True

    def read(self, name: str) -> bytes | None:
        """Reads the file."""
        with storing(name):
            try:
                return (self.root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def entry(self, name: str) -> Entry | None:
        """Looks at the file."""
        with storing(name):
            try:
                facts = (self.root / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Entry(name, facts.st_size, facts.st_mtime)

    def entries(self, folder: str) -> list[Entry]:
        """Walks the folder; what vanishes meanwhile is left out."""
        found = []
        with storing(folder or "its folder"):
            for parent, _, names in os.walk(self.root / folder, onerror=_unless_gone, followlinks=True):
                below = Path(parent).relative_to(self.root).as_posix()
                found += [self.entry(name if below == "." else f"{below}/{name}") for name in names]
        return sorted((entry for entry in found if entry), key=lambda entry: entry.name)

    def folders(self, folder: str) -> list[str]:
        """Looks into the folder."""
        with storing(folder):
            try:
                with os.scandir(self.root / folder) as found:
                    return sorted(item.name for item in found if item.is_dir())
            except FileNotFoundError:
                return []

    def delete(self, name: str) -> None:
        """Removes the file, and the folders that it leaves empty."""
        path = self.root / name
        with storing(name):
            path.unlink(missing_ok=True)
            with suppress(OSError):
                while path.parent != self.root:
                    path = path.parent
                    path.rmdir()

    def now(self) -> float:
        """Asks the file system: the clocks of two machines that share it may differ."""
        probe = _neighbour(self.root / "clock")
        with storing("its folder"):
            make_folder(self.root)
            try:
                write_new(probe, b"")
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)

    def intact(self, name: str, sha256: str, size: int | None, deep: bool = False) -> bool:
        """Hashes the file."""
        with storing(name):
            path = self.root / name
            return path.exists() and sha256_file(path) == sha256

    def file(self, name: str, sha256: str) -> Path:
        """Returns the file itself."""
        return self.root / name

    @contextmanager
    def opened(self, name: str) -> Iterator[Path | None]:
        """Yields the file itself."""
        path = self.root / name
        yield path if path.exists() else None

    def lines(self, name: str) -> Lines:
        """Returns the log `NAME.jsonl`."""
        return _FileLines(self.root / f"{name}.jsonl", f"{name}.jsonl")


class _FileLines:
    """Lines of one file. A line counts with its end: one that a crash cut is closed by the next and never read."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def append(self, line: bytes, fence: int) -> None:
        with storing(self.name):
            make_folder(self.path.parent)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = os.lseek(descriptor, 0, os.SEEK_END)
                if size == 0:
                    # First, so that a log with any line in it is known to last.
                    sync_folder(self.path.parent)
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                write_all(descriptor, (TORN + b"\n" if torn else b"") + line + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def exists(self) -> bool:
        return self.path.exists()

    def read(self, position: int = 0) -> tuple[list[Line], int]:
        with storing(self.name):
            try:
                with open(self.path, "rb") as handle:
                    handle.seek(position)
                    content = handle.read()
            except FileNotFoundError:
                return [], position
        *lines, rest = content.split(b"\n")
        where = f" after byte {position}" if position else ""
        found = [Line(f"line {number}{where}", text, not text.endswith(TORN)) for number, text in enumerate(lines, 1)]
        torn = [Line(f"line {len(lines) + 1}{where}", rest, False)] if rest else []
        return found + torn, position + len(content) - len(rest)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _made(path: Path, content: bytes) -> bool:
    try:
        write_new(path, content)
    except FileExistsError:
        return False
    return True


def _neighbour(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex}{PART}"
