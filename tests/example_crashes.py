"""A small real sequence of durable work, and ways to end it at any of its writes.

Run as a program it ends the sequence once at each of its writes, every time in a process of its own that really dies:

    python -m tests.example_crashes FOLDER before|torn       prints how many writes there are
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptune.config import FitSpec, StudyConfig
from ptune.extract.store import FeatureStore, open_store
from ptune.home import write_new
from ptune.ledger import Ledger, predictions_table
from tests.example_features import CLASSES, EXTRACTION, example_videos

#: Everything by which ptune changes a disk.
CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "utime")
CONFIG = StudyConfig.parse(
    {
        "study": "hand",
        "cohort": "cohort.csv",
        "task": "hand",
        "folds": {"count": 2},
        "init": "random",
        "space": {"modality": {"choice": ["flow", "mb"]}},
        "fixed": {"epochs": 2, "width": 0.125, "crop": 24},
    },
    "example",
)
VIDEOS = example_videos(subjects=3, clips=1)
SPEC = FitSpec(
    stream=CONFIG.stream({"modality": "flow"}),
    classes=CLASSES,
    fold=0,
    train=VIDEOS[:2],
    held_out=VIDEOS[2:],
    extraction=EXTRACTION.signature(),
)
SIGNATURE = SPEC.signature()
WEIGHTS = bytes(range(256)) * 20
CHECKPOINTS = (b"epoch 1 " * 300, b"epoch 2 " * 400)
ROW = {
    "video_id": VIDEOS[2].video_id,
    "subject": VIDEOS[2].subject,
    "fold": 0,
    "score": 3,
    "label": 2,
    "probabilities": [0.25, 0.25, 0.5],
    "attention": [0.5],
}
COHORT = {"digest": "ab12" * 8, "videos": 3, "subjects": 3, "class_counts": {}}
EVENTS: tuple[dict[str, Any], ...] = (
    {"kind": "opened", "study": CONFIG.model_dump(mode="json", by_alias=True), "cohort": COHORT, "folds": {}},
    {"kind": "proposed", "trial": 0, "group": "flow", "params": {"modality": "flow"}},
    {"kind": "fitted", "trial": 0, "fold": 0, "fit": SIGNATURE, "reused": False, "seconds": 1.0},
    {"kind": "finished", "trial": 0, "value": 0.5, "metrics": {"f1_weighted": 0.5}},
)


def features(root: Path) -> FeatureStore:
    return open_store(root / "features", EXTRACTION)


def ledger_of(root: Path | str) -> Path | str:
    """Returns where the ledger lies in a folder; in an object store, everywhere."""
    return root / "ledger" if isinstance(root, Path) else root


def sequence(root: Path | str, done: Callable[[str], object] = lambda what: None, with_features: bool = True) -> None:
    """Does what is not there yet of a study with one fit, as a sweep that goes on does.

    Args:
        done: told of each result after it has been acknowledged.
    """
    if with_features and not features(root).has(VIDEOS[0].video_id):
        frames = np.zeros((4, EXTRACTION.height, EXTRACTION.width, 3), np.uint8)
        features(root).write(VIDEOS[0].video_id, frames, np.ones((3, *frames.shape[1:3], 2), np.int16), 25.0)
    done("features")
    ledger = Ledger(ledger_of(root))
    log = ledger.study("hand")
    with log.lease():
        known = log.events()

        def append(number: int) -> None:
            if EVENTS[number] not in known:
                log.append(**EVENTS[number])
            done(f"event {number}")

        append(0)
        append(1)
        with ledger.claim(SIGNATURE) as claim:
            assert claim is not None
            if ledger.find_fit(SIGNATURE) is None:
                for number, content in enumerate(CHECKPOINTS):
                    ledger.save_checkpoint(SPEC, partial(write_new, content=content))
                    done(f"checkpoint {number}")
                ledger.add_fit(SPEC, [{"loss": 0.5}], predictions_table([ROW]), WEIGHTS, {"seconds": 1.0})
            done("fit")
            ledger.discard_checkpoint(SIGNATURE)
        append(2)
        append(3)


class Died(BaseException):
    """Stands for the death of a process where one process is to go on."""


@contextmanager
def failing_at(number: int, fail: Callable[..., Any], names: tuple[str, ...] = CALLS) -> Iterator[list[int]]:
    """Calls `fail` with the original and its arguments instead of write number `number`, counted from 1.

    Yields:
        A list whose one item counts the writes so far.
    """
    originals, count = {name: getattr(os, name) for name in names}, [0]

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if original is originals.get("open") and not arguments[1] & os.O_CREAT:
                return original(*arguments, **options)
            count[0] += 1
            return fail(original, *arguments, **options) if count[0] == number else original(*arguments, **options)

        return wrapped

    try:
        for name, original in originals.items():
            setattr(os, name, wrap(original))
        yield count
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def full_after(budget: int) -> Callable[[int, Any], int]:
    """Returns a `write` of a disk that has room for so many bytes."""
    real, left = os.write, [budget]

    def write(descriptor: int, content: Any) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(descriptor, memoryview(content)[: left[0]])
        left[0] -= count
        return count

    return write


def _before(original: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    os._exit(9)


def _torn(original: Callable[..., Any], descriptor: int, content: Any) -> None:
    original(descriptor, memoryview(content)[: len(content) // 2])
    os._exit(9)


def _crash_at(number: int, root: Path, how: str) -> None:
    """Runs the sequence in this process, which dies at write `number` or ends after the last."""
    os.fsync = lambda descriptor: None  # What a process leaves that dies does not depend on it.
    acknowledged, write = os.open(f"{root}.done", os.O_WRONLY | os.O_CREAT), os.write
    names, fail = (("write",), _torn) if how == "torn" else (CALLS, _before)
    with failing_at(number, fail, names):
        sequence(root, lambda what: write(acknowledged, f"{what}\n".encode()))
    os._exit(0)


def _crash_everywhere(folder: Path, how: str) -> int:
    sequence(folder / "whole")  # So that the many processes find all modules loaded.
    for number in itertools.count(1):
        root = folder / f"{number:04d}"
        root.mkdir()
        child = os.fork()
        if child == 0:
            _crash_at(number, root, how)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return number - 1
    return 0


if __name__ == "__main__":
    print(_crash_everywhere(Path(sys.argv[1]), sys.argv[2]))
