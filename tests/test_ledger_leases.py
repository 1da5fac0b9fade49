"""One writer of a study and one worker on a fit, also when they die, sleep, or come at the same moment."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ptune.errors import LeaseLost, StorageError, StudyBusy
from ptune.home import write_bytes, write_new
from ptune.ledger import Ledger, lease, predictions_table
from ptune.ledger.lease import Holder, acquire
from ptune.ledger.local import LocalStore
from ptune.upkeep.check import check
from tests.example_crashes import full_after
from tests.example_places import folder_or_prefix, s3_server
from tests.test_ledger import ROWS, SPEC, add

SIGNATURE = SPEC.signature()


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as uri:
        yield uri


@pytest.fixture(params=["folder", "object store"])
def place(request, tmp_path, bucket):
    return folder_or_prefix(request.param, tmp_path, bucket)


def elsewhere(monkeypatch):
    """From here on this process takes other holders for processes of another machine, which it cannot look at."""
    monkeypatch.setattr(lease, "_machine", lambda: "another boot")


def holding(place, action: str) -> subprocess.Popen:
    """Starts a process that takes hold of something, says so and sleeps."""
    code = f"""
import sys, time
from ptune.ledger import Ledger
ledger = Ledger({str(place)!r})
{action}
print("held", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_study_has_one_writer_at_a_time(place):
    log = Ledger(place).study("hand")
    assert log.holder() is None
    with log.lease():
        Ledger(place).study("hand").append("proposed", trial=0, group="rgb", params={})
        assert log.holder().pid == os.getpid()
        with (
            pytest.raises(StudyBusy, match=rf"process {os.getpid()} on .* since .*stale after 60 s without heartbeat"),
            log.lease(),
        ):
            pass
    assert log.holder() is None
    with log.lease():
        log.append("proposed", trial=1, group="rgb", params={})
    assert [event["trial"] for event in log.events()] == [0, 1]


def test_another_process_that_runs_a_study_keeps_others_out_until_it_dies(tmp_path):
    process = holding(tmp_path, 'lease = ledger.study("hand").lease(); lease.__enter__()')
    log = Ledger(tmp_path).study("hand")
    try:
        with pytest.raises(StudyBusy, match=f"process {process.pid} on"):
            log.append("proposed", trial=0, group="rgb", params={})
        assert log.events() == []
    finally:
        process.kill()
    # Killed and not yet waited for, it still has a number; that it is dead is seen all the same, and at once.
    log.append("proposed", trial=0, group="rgb", params={})
    process.wait()
    assert len(log.events()) == 1


def test_a_process_of_another_machine_gives_way_when_its_heartbeat_stops(tmp_path, monkeypatch):
    process = holding(tmp_path, f'claim = ledger.claim("{SIGNATURE}", stale_seconds=2.5)')
    ledger = Ledger(tmp_path)
    elsewhere(monkeypatch)
    time.sleep(3.5)
    assert ledger.claim(SIGNATURE) is None, "its heartbeat keeps it"
    process.send_signal(signal.SIGSTOP)
    try:
        until = time.monotonic() + 10
        while (claim := ledger.claim(SIGNATURE)) is None and time.monotonic() < until:
            time.sleep(0.1)
        assert claim is not None
        claim.release()
    finally:
        process.kill()
        process.wait()


def test_a_holder_who_slept_too_long_learns_that_it_was_followed(place, monkeypatch):
    ledger = Ledger(place)
    first = ledger.claim(SIGNATURE)
    monkeypatch.setattr(lease, "_lives", lambda *_: False)
    second = ledger.claim(SIGNATURE)
    assert second is not None
    with pytest.raises(LeaseLost, match="may be another's now"):
        first.renew()
    assert not first.held
    first.release()
    second.renew()
    second.release()


def test_a_writer_that_was_followed_writes_no_more(place, monkeypatch):
    log = Ledger(place).study("hand")
    with log.lease(stale_seconds=0.2) as mine:
        log.append("proposed", trial=0, group="rgb", params={})
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_lives", lambda *_: False)
            follower = acquire(log.store, mine.folder)
        until = time.monotonic() + 10
        while mine.held and time.monotonic() < until:
            time.sleep(0.05)
        with pytest.raises(LeaseLost):
            log.append("proposed", trial=1, group="rgb", params={})
        follower.release()
    assert [event["trial"] for event in log.events()] == [0]


def test_a_fit_is_claimed_by_one(place):
    ledger = Ledger(place)
    with ledger.claim(SIGNATURE) as claim:
        assert ledger.claim(SIGNATURE) is None
        claim.renew()
    with ledger.claim(SIGNATURE):
        add(place)
    assert ledger.fits() == [SIGNATURE]
    assert ledger.find_fit(SIGNATURE) is not None


def test_of_many_that_come_at_once_one_gets_it(place):
    """Real threads on a real file system and a real server; on the server none may get it, and then one does."""
    count, found = 12, []
    barrier = threading.Barrier(count)
    store = Ledger(place).store

    def come():
        barrier.wait()
        found.append(acquire(store, "claim"))

    threads = [threading.Thread(target=come) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [item for item in found if not isinstance(item, Holder)]
    assert len(found) == count
    assert len(held) <= 1
    if not held:
        held = [acquire(store, "claim")]
    assert not isinstance(held[0], Holder)
    held[0].release()


def test_what_is_there_is_not_made_again(place):
    store = Ledger(place).store
    assert store.create("claim/00000001.json", b"first")
    assert not store.create("claim/00000001.json", b"second")
    assert store.read("claim/00000001.json") == b"first"
    assert [entry.name for entry in store.entries("")] == ["claim/00000001.json"]


def test_a_candidate_that_its_process_left_behind_is_in_nobodys_way(bucket, tmp_path, monkeypatch):
    store = Ledger(folder_or_prefix("object store", tmp_path, bucket)).store
    store.put("claim/00000001.json~" + "0" * 32, b"{}")
    assert not store.create("claim/00000001.json", b"{}")
    monkeypatch.setattr("ptune.ledger.objects.CANDIDATE_SECONDS", -1.0)
    assert store.create("claim/00000001.json", b"{}")


def test_who_may_only_read_sees_who_holds_it(tmp_path, monkeypatch):
    def refuses(self):
        raise StorageError("ledger, its folder", "may not be read or written by this user")

    log = Ledger(tmp_path).study("hand")
    with log.lease():
        monkeypatch.setattr(LocalStore, "now", refuses)
        assert log.holder().pid == os.getpid()


def test_a_machine_that_slept_asks_before_it_writes(tmp_path, monkeypatch):
    log = Ledger(tmp_path).study("hand")
    with log.lease() as mine:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_lives", lambda *_: False)
            follower = acquire(log.store, mine.folder)
        log.append("proposed", trial=0, group="rgb", params={})
        monkeypatch.setattr(lease.time, "time", lambda now=lease.time.time: now() + 3600)
        with pytest.raises(LeaseLost):
            log.append("proposed", trial=1, group="rgb", params={})
        follower.release()


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_second_names_will_do(tmp_path, monkeypatch, code):
    def refuses(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuses)
    ledger = Ledger(tmp_path)
    claim = ledger.claim(SIGNATURE)
    assert ledger.claim(SIGNATURE) is None
    assert not ledger.store.create(f"{claim.folder}/00000001.json", b"{}")
    claim.release()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after(10))
        with pytest.raises(StorageError, match="the disk is full"):
            ledger.claim(SIGNATURE)
    ledger.claim(SIGNATURE).release()
    assert not list(tmp_path.rglob("*.part"))


def test_a_server_that_answers_a_repeated_request_with_exists_does_not_fool_the_one_who_made_it(tmp_path, monkeypatch):
    link = os.link

    def linked_twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", linked_twice)
    store = Ledger(tmp_path).store
    assert store.create("claim", b"mine")
    assert not store.create("claim", b"other")
    assert store.read("claim") == b"mine"


def test_a_heartbeat_never_takes_a_release_back(place):
    store = Ledger(place).store
    for _ in range(15):
        held = acquire(store, "claim", stale_seconds=0.004)
        time.sleep(0.01)
        held.release()
        (entry,) = store.entries("claim")
        assert json.loads(store.read(entry.name))["released"]


def test_a_store_that_is_away_does_not_keep_anybody_from_ending(tmp_path, monkeypatch):
    def refuses(*arguments, **options):
        raise StorageError("ledger", "is away")

    with Ledger(tmp_path).claim(SIGNATURE):
        for name in ("entries", "put", "delete", "read"):
            monkeypatch.setattr(LocalStore, name, refuses)


def test_an_old_listing_of_a_shared_file_system_gives_nobody_a_second_lease(tmp_path, monkeypatch):
    store = Ledger(tmp_path).store
    acquire(store, "claim").release()
    held = acquire(store, "claim")
    assert held.number == 2
    entries, calls = LocalStore.entries, []

    def listed_before(self, folder):
        calls.append(folder)
        return [] if len(calls) == 1 else entries(self, folder)

    monkeypatch.setattr(LocalStore, "entries", listed_before)
    assert isinstance(acquire(store, "claim"), Holder)
    assert os.listdir(tmp_path / "claim") == ["00000002.json"]
    held.renew()
    held.release()


def test_a_lease_that_somebody_removed_is_lost(place):
    claim = Ledger(place).claim(SIGNATURE)
    claim.store.delete(f"{claim.folder}/{claim.number:08d}.json")
    with pytest.raises(LeaseLost):
        claim.renew()
    assert not claim.held


def test_a_lease_half_written_by_a_crash_is_overcome_when_it_is_old(tmp_path):
    folder = tmp_path / "claim"
    folder.mkdir()
    (folder / "00000001.json").write_text('{"token": "ab')
    store = Ledger(tmp_path).store
    assert isinstance(acquire(store, "claim"), Holder)
    os.utime(folder / "00000001.json", (0, 0))
    held = acquire(store, "claim")
    assert held.number == 2
    held.release()
    assert os.listdir(folder) == ["00000002.json"]
    assert json.loads((folder / "00000002.json").read_text())["released"]


def first_touch(root: str, worker: int, start, failures) -> None:
    try:
        ledger = Ledger(root)
        start.wait()
        own = SPEC.model_copy(update={"seed": 1000 + worker})
        for spec in (own, SPEC):
            weights = f"weights of worker {worker}".encode() if spec is SPEC else b"own"
            ledger.save_checkpoint(spec, lambda path: write_new(path, b"checkpoint"))
            ledger.add_fit(spec, [{"loss": float(worker)}], predictions_table(ROWS), weights, {"seconds": 1.0})
            ledger.discard_checkpoint(spec.signature())
        ledger.study(f"study-{worker}").append("proposed", trial=worker, group="rgb", params={})
    except BaseException as error:
        failures.put(f"{worker}: {error!r}")


def test_sixteen_processes_touch_an_empty_ledger_first(tmp_path):
    context, count = multiprocessing.get_context("forkserver"), 16
    context.set_forkserver_preload(["tests.test_ledger_leases", "pyarrow"])
    start, failures = context.Barrier(count), context.Queue()
    workers = [context.Process(target=first_touch, args=(str(tmp_path), n, start, failures)) for n in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * count
    assert failures.empty(), failures.get()
    ledger = Ledger(tmp_path)
    assert len(ledger.fits()) == count + 1
    assert len(ledger.studies()) == count
    # The fit that all of them stored is that of one of them, whole.
    fit = ledger.find_fit(SIGNATURE)
    fit.verify(deep=True)
    assert fit.weights.read_bytes() == f"weights of worker {int(fit.history[0]['loss'])}".encode()


FITS = [SPEC.model_copy(update={"seed": seed}) for seed in range(12)]


def train_all(root: str, failures) -> None:
    """Trains what is left, slowly, and shouts when another living worker is at the same fit."""
    try:
        ledger = Ledger(root)
        while left := [spec for spec in FITS if ledger.find_fit(spec.signature()) is None]:
            spec = random.choice(left)
            claim = ledger.claim(spec.signature())
            if claim is None:
                time.sleep(0.005)
                continue
            with claim:
                if ledger.find_fit(spec.signature()) is not None:
                    continue
                at_work = Path(root).parent / f"at-work-{spec.seed}"
                if at_work.exists() and lease._started(int(at_work.read_text() or 0)):
                    failures.put(f"fit {spec.seed} is trained by two")
                write_bytes(at_work, str(os.getpid()).encode())
                for step in range(4):
                    ledger.save_checkpoint(spec, lambda path, step=step: write_new(path, b"step %d" % step))
                    time.sleep(0.02)
                at_work.unlink()
                ledger.add_fit(spec, [{"loss": 1.0}], predictions_table(ROWS), b"weights", {"seconds": 1.0})
                ledger.discard_checkpoint(spec.signature())
    except BaseException as error:
        failures.put(repr(error))


def test_workers_that_are_killed_at_random_train_every_fit_and_none_twice_at_once(tmp_path):
    context = multiprocessing.get_context("forkserver")
    failures, chance = context.Queue(), random.Random(0)
    root = tmp_path / "ledger"

    def started():
        worker = context.Process(target=train_all, args=(str(root), failures))
        worker.start()
        return worker

    workers = [started() for _ in range(3)]
    kills = 0
    while kills < 12 and not all(Ledger(root).find_fit(spec.signature()) for spec in FITS):
        time.sleep(chance.uniform(0.05, 0.3))
        index = chance.randrange(len(workers))
        workers[index].kill()
        workers[index].join()
        workers[index] = started()
        kills += 1
    for worker in workers:
        worker.join(120)
    assert failures.empty(), failures.get()
    assert kills >= 3
    assert all(Ledger(root).find_fit(spec.signature()) for spec in FITS)
    health = check(Ledger(root))
    assert (health.fits, health.problems) == (len(FITS), [])


def append_many(root: str, worker: int, failures) -> None:
    try:
        for number in range(20):
            Ledger(root).study("hand").append("proposed", trial=100 * worker + number, group="rgb", params={})
    except StudyBusy:
        failures.put(worker)


def test_events_of_two_processes_never_mix(tmp_path):
    context = multiprocessing.get_context("forkserver")
    failures = context.Queue()
    workers = [context.Process(target=append_many, args=(str(tmp_path), n, failures)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert failures.empty()
    trials = [event["trial"] for event in Ledger(tmp_path).study("hand").events()]
    assert sorted(trials) == [*range(20), *range(100, 120)]
    assert [trial for trial in trials if trial < 100] == list(range(20))
