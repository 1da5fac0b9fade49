"""Whatever ends a process, at whichever write: what was acknowledged is there, nothing is half there, and it goes on.

The method is that of SQLite's test suite: fail at the k-th write, for every k.
"""

import errno
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptune.errors import StorageError
from ptune.extract.store import FeatureStore
from ptune.ledger import Ledger
from ptune.ledger.objects import ObjectStore
from ptune.upkeep.check import check
from tests.example_crashes import (
    CHECKPOINTS,
    EVENTS,
    SIGNATURE,
    VIDEOS,
    WEIGHTS,
    Died,
    failing_at,
    features,
    full_after,
    ledger_of,
    sequence,
)
from tests.example_places import below, s3_server
from tests.example_power_loss import recording


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power for real: what was synced is recorded, the disk need not turn for it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def as_new(monkeypatch):
    """Makes this process forget what it verified, as a process that opens a ledger for the first time."""

    def forget():
        from ptune.ledger import layout, ledger

        for known in (ledger._verified, layout._READABLE, layout._MARKED):
            known.clear()

    return forget


def assert_before_or_after(root: Path | str, acknowledged: set[str]) -> None:
    """Everything is as it was before or after some step of the sequence, and after all that was acknowledged."""
    ledger = Ledger(ledger_of(root))
    events = ledger.study("hand").events()
    assert events == list(EVENTS[: len(events)])
    assert {f"event {number}" for number in range(len(events))} >= {what for what in acknowledged if "event" in what}
    fit = ledger.find_fit(SIGNATURE)
    if fit is not None:
        fit.verify(deep=True)
        assert fit.weights.read_bytes() == WEIGHTS
    assert fit is not None or "fit" not in acknowledged
    with ledger.checkpoint(SIGNATURE) as path:
        found = path.read_bytes() if path else None
    assert found in (None, *CHECKPOINTS)
    if fit is None:
        assert found is not None or "checkpoint 0" not in acknowledged
        assert found == CHECKPOINTS[1] or "checkpoint 1" not in acknowledged
    assert check(ledger).problems == []
    if isinstance(root, Path) and features(root).has(VIDEOS[0].video_id):
        assert features(root).read(VIDEOS[0].video_id, "flow", 0, 3).min() == 1


def assert_goes_on(root: Path | str, with_features: bool = True) -> None:
    """The sequence, run again, ends as one that nothing disturbed."""
    sequence(root, with_features=with_features)
    ledger = Ledger(ledger_of(root))
    assert ledger.study("hand").events() == list(EVENTS)
    assert ledger.find_fit(SIGNATURE).weights.read_bytes() == WEIGHTS
    with ledger.checkpoint(SIGNATURE) as path:
        assert path is None
    health = check(ledger)
    assert (health.fits, health.problems) == (1, [])
    assert not with_features or features(root).has(VIDEOS[0].video_id)


@pytest.mark.parametrize("how", ["before", "torn"])
def test_a_process_that_dies_at_any_write_leaves_before_or_after_and_goes_on(tmp_path, as_new, how):
    command = [sys.executable, "-m", "tests.example_crashes", str(tmp_path), how]
    writes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert writes >= (15 if how == "torn" else 100)
    for number in range(1, writes + 1):
        as_new()
        acknowledged = set((tmp_path / f"{number:04d}.done").read_text().splitlines())
        assert_before_or_after(tmp_path / f"{number:04d}", acknowledged)
        assert_goes_on(tmp_path / f"{number:04d}")
    assert acknowledged == {"features", "checkpoint 0", "checkpoint 1", "fit", *(f"event {n}" for n in range(4))}


@pytest.mark.parametrize("names_last", [False, True], ids=["nothing unsynced is kept", "names are kept, bytes are not"])
def test_what_was_acknowledged_survives_a_loss_of_power_at_any_moment(tmp_path, as_new, names_last):
    with recording(tmp_path / "disk") as disk:
        (tmp_path / "disk").mkdir()
        disk.steps.clear()
        sequence(tmp_path / "disk", disk.acknowledge, with_features=False)
    assert len(disk.steps) > 80
    for count in range(len(disk.steps) + 1):
        as_new()
        root = tmp_path / f"{count:04d}"
        acknowledged = disk.left_after(count, root, names_last)
        assert_before_or_after(root, acknowledged)
        assert_goes_on(root, with_features=False)
    assert acknowledged >= {"event 3", "fit"}


@pytest.mark.parametrize("names_last", [False, True], ids=["nothing unsynced is kept", "names are kept, bytes are not"])
def test_a_sealed_record_survives_a_loss_of_power_at_any_moment(tmp_path, names_last):
    rgb = np.arange(4 * 6 * 8 * 3, dtype=np.uint8).reshape(4, 6, 8, 3)
    flow = np.arange(3 * 6 * 8 * 2, dtype=np.int16).reshape(3, 6, 8, 2)
    with recording(tmp_path / "disk") as disk:
        (tmp_path / "disk").mkdir()
        disk.steps.clear()
        FeatureStore(tmp_path / "disk").write("v1", rgb, flow, 25.0)
        disk.acknowledge("record")
    assert len(disk.steps) > 20
    for count in range(len(disk.steps) + 1):
        acknowledged = disk.left_after(count, tmp_path / str(count), names_last)
        store = FeatureStore(tmp_path / str(count))
        assert store.has("v1") or not acknowledged
        if store.has("v1"):
            assert np.array_equal(store.video("v1").flow, flow)
        builder = store.builder("v1")
        if builder.decoded() is not None and not builder.missing() and not builder.sealed():
            builder.seal(25.0, {})
            assert np.array_equal(store.video("v1").rgb, rgb)
        store.write("v1", rgb, flow, 25.0)
        assert np.array_equal(store.video("v1").flow, flow)


@pytest.mark.parametrize("names_last", [False, True], ids=["nothing unsynced is kept", "names are kept, bytes are not"])
def test_what_the_log_of_a_model_acknowledged_survives_a_loss_of_power(tmp_path, names_last):
    events = [{"kind": "registered", "version": number} for number in (1, 2, 3)]
    with recording(tmp_path / "disk") as disk:
        (tmp_path / "disk").mkdir()
        disk.steps.clear()
        log = Ledger(tmp_path / "disk").model("hand")
        with log.lease():
            for event in events:
                log.append(**event)
                disk.acknowledge(str(event["version"]))
    for count in range(len(disk.steps) + 1):
        acknowledged = disk.left_after(count, tmp_path / str(count), names_last)
        found = Ledger(tmp_path / str(count)).model("hand").events()
        assert found == events[: len(found)]
        assert len(found) >= len(acknowledged)
    assert len(acknowledged) == 3


def test_a_disk_that_is_full_at_any_byte_is_said_clearly_and_goes_on_when_there_is_room(tmp_path, as_new, monkeypatch):
    sequence(tmp_path / "whole", with_features=False)
    total = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    for seed in range(40):
        as_new()
        root, acknowledged = tmp_path / str(seed), set()
        budget = random.Random(seed).randrange(total)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_after(budget))
            with pytest.raises(
                StorageError, match=r"the disk is full. Free some space. Then run the same command again"
            ):
                sequence(root, acknowledged.add, with_features=False)
        assert_before_or_after(root, acknowledged)
        assert not list(root.rglob("*.part"))
        assert_goes_on(root, with_features=False)


def test_a_sync_that_fails_at_any_moment_is_an_error_and_no_result(tmp_path, as_new):
    def fails(original, *arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    said = set()
    for number in range(1, 100):
        as_new()
        root, acknowledged = tmp_path / str(number), set()
        with failing_at(number, fails, ("fsync",)) as count:
            try:
                sequence(root, acknowledged.add, with_features=False)
            except StorageError as error:
                said.add(str(error).partition(": ")[2])
        if count[0] < number:
            break
        assert_before_or_after(root, acknowledged)
        assert_goes_on(root, with_features=False)
    assert number > 20
    assert len(said) == 1
    assert said.pop().startswith("cannot be read or written (Input/output error). Check the disk")


def test_a_file_that_may_not_grow_is_said_clearly_and_goes_on_when_it_may(tmp_path, as_new):
    """A real limit of the system, at random bytes of the largest file."""
    for seed in range(10):
        as_new()
        root, acknowledged = tmp_path / str(seed), set()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (random.Random(seed).randrange(len(WEIGHTS)), hard))
        try:
            with pytest.raises(
                StorageError, match=r"larger than this process may write. Raise the limit \(ulimit -f\)"
            ):
                sequence(root, acknowledged.add, with_features=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert_before_or_after(root, acknowledged)
        assert_goes_on(root, with_features=False)


def test_an_interruption_at_any_write_lets_the_next_run_begin_at_once(tmp_path, as_new):
    def interrupts(original, *arguments, **options):
        raise Died

    for number in range(1, 400):
        as_new()
        with failing_at(number, interrupts) as count:
            try:
                sequence(tmp_path / str(number), with_features=False)
            except Died:
                pass
            else:
                break
        assert count[0] >= number
        assert_goes_on(tmp_path / str(number), with_features=False)
    assert number > 80


def test_a_process_that_dies_at_any_request_to_an_object_store_leaves_before_or_after_and_goes_on(
    tmp_path, as_new, monkeypatch
):
    """Dead is dead: after the request at which it ends, the process makes no other."""
    monkeypatch.setattr("ptune.ledger.objects.CANDIDATE_SECONDS", -1.0)
    monkeypatch.setattr("ptune.ledger.objects.PACK", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    count = 0

    def dying(original, number):
        def wrapped(*arguments, **options):
            nonlocal count
            count += 1
            if count >= number:
                raise Died
            return original(*arguments, **options)

        return wrapped

    with s3_server() as bucket:
        for number in range(1, 100):
            as_new()
            count, place, acknowledged = 0, below(bucket), set()
            with monkeypatch.context() as patch:
                for name in ("put", "delete"):
                    patch.setattr(ObjectStore, name, dying(getattr(ObjectStore, name), number))
                try:
                    sequence(place, acknowledged.add, with_features=False)
                except Died:
                    pass
                else:
                    break
            assert_before_or_after(place, acknowledged)
            assert_goes_on(place, with_features=False)
    assert number > 20
