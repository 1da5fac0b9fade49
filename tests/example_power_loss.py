"""A disk that keeps only what was synced: records what is done to files and rebuilds what a loss of power leaves.

Strict: an entry of a folder lasts once the folder was synced, the bytes of a file once the file was.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any


@dataclass
class _File:
    content: bytes = b""
    synced: bytes = b""


@dataclass
class _Folder:
    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    synced: dict[str, _File | _Folder] = field(default_factory=dict)


class Disk:
    """A model of what lies below `root`, fed by `recording`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Callable[[_Folder], None]] = []
        self.acknowledged: list[tuple[int, str]] = []

    def acknowledge(self, what: str) -> None:
        """Remembers that something was promised after the steps so far."""
        self.acknowledged.append((len(self.steps), what))

    def left_after(self, count: int, target: Path, names_last: bool = False) -> set[str]:
        """Builds in `target` what a loss of power after `count` steps leaves, and returns what had been promised.

        Args:
            names_last: the other extreme: every change of names has reached the disk, though not every byte.
        """
        top = _Folder()
        for step in self.steps[:count]:
            step(top)
        _build(top, target, names_last)
        return {what for after, what in self.acknowledged if after <= count}


def _build(folder: _Folder, target: Path, names_last: bool) -> None:
    target.mkdir()
    for name, item in (folder.entries if names_last else folder.synced).items():
        if isinstance(item, _Folder):
            _build(item, target / name, names_last)
        else:
            (target / name).write_bytes(item.synced)


class _Writer(io.BytesIO):
    """A file that Python opened for writing, whose bytes reach the disk when it is closed."""

    def __init__(self, path: Any) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        if not self.closed:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(descriptor, self.getvalue())
            os.close(descriptor)
        super().close()


def _folder_of(top: _Folder, place: tuple[str, ...]) -> _Folder:
    for name in place[:-1]:
        top = top.entries[name]  # type: ignore[assignment]
    return top


def _at(top: _Folder, place: tuple[str, ...]) -> Any:
    return _folder_of(top, place).entries[place[-1]] if place else top


def _parts(root: Path, path: Any) -> tuple[str, ...] | None:
    path = Path(os.fsdecode(path))
    return path.relative_to(root).parts if path.is_relative_to(root) else None


@contextmanager
def _python_writes_through_os(root: Path) -> Iterator[None]:
    real = builtins.open

    def opened(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        below = not isinstance(path, int) and mode == "wb" and Path(path).is_relative_to(root)
        return _Writer(path) if below else real(path, mode, *rest, **options)

    builtins.open = opened
    try:
        yield
    finally:
        builtins.open = real


@contextmanager
def recording(root: Path) -> Iterator[Disk]:
    """Records all that happens to files below `root` in this process."""
    disk, descriptors = Disk(root), {}
    names = ("open", "close", "write", "pwrite", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")
    real = {name: getattr(os, name) for name in names}

    parts = partial(_parts, root)

    def wrap(name: str, step: Callable[..., Callable[[_Folder], None] | None]) -> None:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = real[name](*arguments, **options)
            done = step(result, *arguments)
            if done is not None:
                disk.steps.append(done)
            return result

        setattr(os, name, wrapped)

    def opened(descriptor: int, path: Any, flags: int, *rest: Any) -> Any:
        place = descriptors[descriptor] = parts(path)
        if place is None or not flags & os.O_CREAT:
            return None
        return lambda top: _folder_of(top, place).entries.setdefault(place[-1], _File())

    def written(count: int, descriptor: int, content: Any) -> Any:
        place, added = descriptors.get(descriptor), bytes(content)[:count]

        def step(top: _Folder) -> None:
            _at(top, place).content += added

        return step if place is not None else None

    def synced(_: Any, descriptor: int) -> Any:
        place = descriptors.get(descriptor)

        def step(top: _Folder) -> None:
            item = _at(top, place)
            item.synced = item.content if isinstance(item, _File) else dict(item.entries)

        return step if place is not None else None

    def named(move: bool) -> Callable[..., Any]:
        def step_of(_: Any, source: Any, target: Any) -> Any:
            here, there = parts(source), parts(target)

            def step(top: _Folder) -> None:
                _folder_of(top, there).entries[there[-1]] = _at(top, here)
                if move:
                    del _folder_of(top, here).entries[here[-1]]

            return step if here is not None else None

        return step_of

    def made(_: Any, path: Any, *rest: Any) -> Any:
        place = parts(path)
        return (lambda top: _folder_of(top, place).entries.setdefault(place[-1], _Folder())) if place else None

    def removed(_: Any, path: Any, *rest: Any) -> Any:
        place = parts(path)
        return (lambda top: _folder_of(top, place).entries.pop(place[-1])) if place else None

    def closed(_: Any, descriptor: int) -> None:
        descriptors.pop(descriptor, None)

    def placed(count: int, descriptor: int, content: Any, start: int) -> Any:
        place, added = descriptors.get(descriptor), bytes(content)[:count]

        def step(top: _Folder) -> None:
            item = _at(top, place)
            item.content = item.content[:start].ljust(start, b"\0") + added + item.content[start + count :]

        return step if place is not None else None

    steps = (opened, closed, written, placed, synced, named(True), named(True), named(False), removed, made, removed)
    try:
        for name, step in zip(names, steps, strict=True):
            wrap(name, step)
        with _python_writes_through_os(root):
            yield disk
    finally:
        for name, original in real.items():
            setattr(os, name, original)
