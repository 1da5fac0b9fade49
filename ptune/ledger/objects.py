"""A ledger in an object store, through pyarrow: S3 and what speaks its language, Google Cloud Storage.

Relies on what these stores promise: an object appears whole, and who lists after a write sees it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ptune.errors import HomeError, LedgerError
from ptune.home import sha256_file, write_bytes
from ptune.ledger.store import Entry, Line, Lines, storing

#: Events are objects of their own until there are so many; then one object takes their place.
PACK = 256
#: A candidate that its process left behind is in nobody's way after so long.
CANDIDATE_SECONDS = 60.0
READERS = 16
BLOCK_BYTES = 1 << 24
#: Seconds before a request whose connection dropped is made again.
PAUSES = (0.1, 0.4, 1.6, 6.4)
_VERIFIED: set[str] = set()

Result = TypeVar("Result")


class ObjectStore:
    """Objects below a prefix.

    Args:
        files: a pyarrow file system.
        prefix: bucket and prefix.
        cache: folder for fetched files, named by their checksums.
    """

    def __init__(self, files: Any, prefix: str, identity: str, cache: Path) -> None:
        self.files, self.prefix, self.identity, self.cache = files, prefix.rstrip("/"), identity, cache

    @classmethod
    def at(cls, uri: str) -> ObjectStore:
        """Returns the store at a URI; credentials and endpoint come from the environment or the URI's query."""
        from pyarrow.fs import FileSystem

        if uri.startswith("s3://") and "allow_delayed_open" not in uri:
            # A small object then is one request, not the three of an upload in parts.
            uri += ("&" if "?" in uri else "?") + "allow_delayed_open=true"
        try:
            with storing("its address"):
                files, prefix = FileSystem.from_uri(uri)
        except ValueError as error:
            raise HomeError(
                "ledger",
                f"its URI cannot be used ({type(error).__name__})",
                "s3://bucket/prefix, with ?region=...&endpoint_override=... where needed, or gs://bucket/prefix",
                "Correct --ledger or PTUNE_LEDGER.",
            ) from error
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(files, prefix, uri.partition("?")[0], home / "ptune" / "ledger")

    def put(self, name: str, content: bytes, durable: bool = True) -> None:
        """Sends the object, which appears when all of it has arrived."""

        def send() -> None:
            with self.files.open_output_stream(self._path(name)) as stream:
                stream.write(content)

        with storing(name):
            _patiently(send)

    def put_file(self, name: str, fill: Callable[[Path], None]) -> None:
        """Lets `fill` write a temporary file and sends that."""
        with tempfile.TemporaryDirectory(prefix="ptune-") as scratch:
            path = Path(scratch) / "file"
            with storing("a temporary file"):
                fill(path)
            self.send(name, path)

    def send(self, name: str, path: Path) -> None:
        """Sends a local file, which appears when all of it has arrived."""

        def send() -> None:
            with open(path, "rb") as source, self.files.open_output_stream(self._path(name)) as stream:
                shutil.copyfileobj(source, stream, BLOCK_BYTES)

        with storing(name):
            _patiently(send)

    def create(self, name: str, content: bytes) -> bool:
        """Writes a candidate, then looks: whoever sees another's candidate or `name` itself withdraws.

        Of two that come together each sees the other or is seen by it, so that never both go on; both may withdraw.
        """
        candidate = f"{name}~{uuid.uuid4().hex}"
        self.put(candidate, content)
        try:
            own = self.entry(candidate)
            written = own.modified if own else 0.0
            rivals = [entry for entry in self.entries(name.rpartition("/")[0]) if entry.name.startswith(f"{name}~")]
            if any(rival.name != candidate and written - rival.modified < CANDIDATE_SECONDS for rival in rivals):
                return False
            if self.entry(name) is not None:
                return False
            self.put(name, content)
            return True
        finally:
            self.delete(candidate)

    def touch(self, name: str) -> bool:
        """Writes the same bytes again."""
        content = self.read(name)
        if content is None:
            return False
        self.put(name, content)
        return True

    def read(self, name: str) -> bytes | None:
        """Fetches the object."""

        def fetch() -> bytes:
            with self.files.open_input_file(self._path(name)) as found:
                return bytes(found.read_at(found.size(), 0))

        with storing(name):
            try:
                return _patiently(fetch)
            except FileNotFoundError:
                return None

    def blocks(self, name: str) -> Iterator[bytes]:
        """Fetches an object that is there, a block at a time."""
        with storing(name):
            found = _patiently(lambda: self.files.open_input_file(self._path(name)))
            with found:
                size = found.size()
                for start in range(0, size, BLOCK_BYTES):
                    yield bytes(_patiently(partial(found.read_at, min(BLOCK_BYTES, size - start), start)))

    def entry(self, name: str) -> Entry | None:
        """Asks for size and time."""
        with storing(name):
            return self._entry(_patiently(lambda: self.files.get_file_info(self._path(name))))

    def entries(self, folder: str) -> list[Entry]:
        """Lists the objects of the prefix."""
        found = (self._entry(info) for info in self._infos(folder, recursive=True))
        return sorted((entry for entry in found if entry), key=lambda entry: entry.name)

    def folders(self, folder: str) -> list[str]:
        """Lists one level of the prefix."""
        return sorted(info.base_name for info in self._infos(folder, recursive=False) if info.type.name == "Directory")

    def delete(self, name: str) -> None:
        """Removes the object."""
        with storing(name), suppress(FileNotFoundError):
            _patiently(lambda: self.files.delete_file(self._path(name)))

    def now(self) -> float:
        """Writes an object to see how the store stamps it."""
        probe = f"clock~{uuid.uuid4().hex}"
        self.put(probe, b"now")
        found = self.entry(probe)
        self.delete(probe)
        return found.modified if found else 0.0

    def intact(self, name: str, sha256: str, size: int | None, deep: bool = False) -> bool:
        """Compares the size; with `deep` fetches and hashes."""
        entry = self.entry(name)
        if entry is None or (size is not None and entry.size != size):
            return False
        if not deep:
            return True
        return hashlib.sha256(self.read(name) or b"").hexdigest() == sha256

    def file(self, name: str, sha256: str) -> Path:
        """Returns the cached copy, fetched where it is missing or damaged.

        Raises:
            LedgerError: the object differs from its checksum.
        """
        path = self.cache / sha256[:2] / sha256
        if str(path) in _VERIFIED and path.exists():
            return path
        if not path.exists() or sha256_file(path) != sha256:
            content = self.read(name)
            if content is None or hashlib.sha256(content).hexdigest() != sha256:
                raise LedgerError(
                    f"ledger, {name}", "is missing or differs from its checksum", "the bytes that were written"
                )
            with storing("the cache of fetched files"):
                self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_bytes(path, content)
        _VERIFIED.add(str(path))
        return path

    @contextmanager
    def opened(self, name: str) -> Iterator[Path | None]:
        """Fetches the object into a temporary file."""
        content = self.read(name)
        if content is None:
            yield None
            return
        with tempfile.NamedTemporaryFile(prefix="ptune-") as handle:
            with storing("a temporary file"):
                handle.write(content)
                handle.flush()
            yield Path(handle.name)

    def lines(self, name: str) -> Lines:
        """Returns the log whose lines are objects below `name`."""
        return _ObjectLines(self, name)

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}" if name else self.prefix

    def _infos(self, folder: str, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        with storing(folder or "its prefix"):
            selector = FileSelector(self._path(folder), recursive=recursive, allow_not_found=True)
            return list(_patiently(lambda: self.files.get_file_info(selector)))

    def _entry(self, info: Any) -> Entry | None:
        if info.type.name != "File":
            return None
        modified = info.mtime_ns / 1e9 if info.mtime_ns is not None else 0.0
        return Entry(info.path.removeprefix(self.prefix).lstrip("/"), info.size, modified)


def _patiently(request: Callable[[], Result]) -> Result:
    """Makes a request again whose connection dropped, after ever longer pauses; pyarrow itself gives up after a second.

    Every request here may be made twice.
    """
    for pause in PAUSES:
        try:
            return request()
        except OSError as error:
            if "NETWORK_CONNECTION" not in str(error):
                raise
        time.sleep(pause)
    return request()


class _ObjectLines:
    """Lines as objects: `00000007-000002` is line 7 by writer 2, `00000001-00000256.pack` holds the lines 1 to 256.

    Of two objects with the same number the later writer's counts.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store, self.name = store, name
        self.next: int | None = None
        self.loose = 0

    def append(self, line: bytes, fence: int) -> None:
        if self.next is None:
            packs, loose, _ = self._listed()
            self.next = 1 + max([last for _, last in packs] + list(loose), default=0)
            self.loose = len(loose)
        self.store.put(f"{self.name}/{self.next:08d}-{fence:06d}", line + b"\n")
        self.next, self.loose = self.next + 1, self.loose + 1
        if self.loose >= PACK:
            self._pack()

    def read(self, position: int = 0) -> tuple[list[Line], int]:
        for _ in range(5):
            packs, loose, _ = self._listed()
            packs = [pack for pack in packs if pack[1] > position]
            loose = {number: name for number, name in loose.items() if number > position}
            names = [_pack_name(*pack) for pack in packs] + list(loose.values())
            found = self._fetched(names)
            # Lines that were packed between listing and reading are gone: look again.
            if None not in found:
                lines = self._numbered(packs, loose, [content or b"" for content in found], position)
                return lines, position + len(lines)
        raise LedgerError(f"ledger, {self.name}", "changes faster than it can be read", "", "Try again.")

    def exists(self) -> bool:
        return bool(self.store.entries(self.name))

    def _fetched(self, names: Iterable[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.store.read, [f"{self.name}/{name}" for name in names]))

    def _numbered(
        self, packs: list[tuple[int, int]], loose: dict[int, str], contents: list[bytes], position: int
    ) -> list[Line]:
        lines: dict[int, bytes] = {}
        for (first, _), content in zip(packs, contents, strict=False):
            lines |= dict(enumerate(content.splitlines(), first))
        lines |= dict(zip(loose, (content.rstrip(b"\n") for content in contents[len(packs) :]), strict=True))
        numbers = sorted(number for number in lines if number > position)
        for expected, number in enumerate(numbers, position + 1):
            if number != expected:
                raise LedgerError(f"ledger, {self.name}", f"line {expected} is missing", "lines without gaps")
        return [Line(f"line {number}", lines[number]) for number in numbers]

    def _listed(self) -> tuple[list[tuple[int, int]], dict[int, str], list[str]]:
        """Returns the packs as (first, last), the name of each line that is in none, and what these two overrule."""
        packs, loose, names = [], {}, []
        for entry in self.store.entries(self.name):
            match = re.fullmatch(r"(\d{8})-(?:(\d{6})|(\d{8})\.pack)", entry.name.rpartition("/")[2])
            if match and match[3]:
                packs.append((int(match[1]), int(match[3])))
            elif match:
                loose[int(match[1])] = match[0]
                names.append(match[0])
        packed = {number for first, last in packs for number in range(first, last + 1)}
        loose = {number: name for number, name in loose.items() if number not in packed}
        return packs, loose, sorted(set(names) - set(loose.values()))

    def _pack(self) -> None:
        _, loose, overruled = self._listed()
        content = b"".join(line or b"" for line in self._fetched(loose.values()))
        self.store.put(f"{self.name}/{_pack_name(min(loose), max(loose))}", content)
        for name in (*overruled, *loose.values()):
            self.store.delete(f"{self.name}/{name}")
        self.loose = 0


def _pack_name(first: int, last: int) -> str:
    return f"{first:08d}-{last:08d}.pack"
