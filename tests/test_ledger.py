"""Facts are whole or absent, stored once, found again, and the same in a folder and in an object store."""

import json
import os
import shutil
from pathlib import Path

import pytest

from ptune.doctor import examine
from ptune.errors import HomeError, LedgerError, StorageError
from ptune.home import Home, write_atomic, write_new
from ptune.ledger import SCHEMA_VERSION, Ledger, predictions_table
from ptune.ledger.layout import WEIGHTS, fit_folder
from ptune.ledger.local import LocalStore
from ptune.replay import out_of_fold, read_study, replay
from tests.example_features import example_spec, example_videos
from tests.example_places import below, folder_or_prefix, s3_server

ROWS = [
    {
        "video_id": "00",
        "subject": "S01",
        "fold": 0,
        "score": 1,
        "label": 1,
        "probabilities": [0.25, 0.5, 0.25],
        "attention": [0.5],
    }
]
SPEC = example_spec(example_videos(), {"S06"})


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as uri:
        yield uri


@pytest.fixture(params=["folder", "object store"])
def place(request, tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder_or_prefix(request.param, tmp_path, bucket)


def add(place, weights=b"weights"):
    return Ledger(place).add_fit(SPEC, [{"loss": 0.5}], predictions_table(ROWS), weights, {"seconds": 2.0})


def damage(place, name, content):
    """Overwrites a file of a ledger behind its back."""
    Ledger(place).store.put(name, content)


def test_a_fit_comes_back_as_it_was_stored(place):
    assert Ledger(place).find_fit(SPEC.signature()) is None
    stored = add(place)
    found = Ledger(place).find_fit(stored.signature)
    assert found is not None
    assert found.spec == SPEC
    assert found.spec.signature() == stored.signature
    assert found.history == [{"loss": 0.5}]
    assert found.predictions().to_pylist() == ROWS
    assert found.weights.read_bytes() == b"weights"
    assert found.summary == {"seconds": 2.0}
    assert Ledger(place).fits() == [stored.signature]


def test_a_fit_that_is_there_stays_as_it_is(place):
    add(place, b"first")
    assert add(place, b"second").weights.read_bytes() == b"first"
    assert Ledger(place).find_fit(SPEC.signature()).weights.read_bytes() == b"first"


@pytest.mark.parametrize("moment", range(5), ids=lambda moment: f"before write {moment + 1} of 5")
def test_two_workers_that_finish_the_same_fit_at_once_leave_that_of_one_whole(tmp_path, monkeypatch, moment):
    """The second worker stores all of its fit before one of the first worker's writes."""
    put, writes = LocalStore.put, []

    def interrupted(self, name, content, durable=True):
        if name.startswith("fits"):
            writes.append(name)
            if len(writes) == moment + 1:
                monkeypatch.setattr(LocalStore, "put", put)
                Ledger(tmp_path).add_fit(SPEC, [{"loss": 2.0}], predictions_table(ROWS), b"second", {"seconds": 1.0})
                monkeypatch.setattr(LocalStore, "put", interrupted)
        put(self, name, content, durable)

    monkeypatch.setattr(LocalStore, "put", interrupted)
    Ledger(tmp_path).add_fit(SPEC, [{"loss": 1.0}], predictions_table(ROWS), b"first", {"seconds": 1.0})
    found = as_seen_first(tmp_path, SPEC.signature())
    found.verify(deep=True)
    assert found.weights.read_bytes() == (b"first" if found.history == [{"loss": 1.0}] else b"second")


def test_a_changed_byte_is_noticed_and_named(place):
    stored = add(place)
    damage(place, stored.name(WEIGHTS), b"WEIGHTS")
    with pytest.raises(LedgerError, match=r"weights.safetensors is missing or differs.*Remove fits/"):
        stored.verify(deep=True)
    # An object store compares sizes first, and bytes when it fetches them.
    with pytest.raises(LedgerError, match="differs from its checksum"):
        as_seen_first(place, stored.signature).weights.read_bytes()
    damage(place, stored.name(WEIGHTS), b"shorter")
    with pytest.raises(LedgerError, match="differs from its checksum"):
        as_seen_first(place, stored.signature).weights.read_bytes()


def as_seen_first(place, signature):
    """Looks for a fit as a process does that has not seen it before."""
    from ptune.ledger import ledger

    ledger._verified.clear()
    found = Ledger(place).find_fit(signature)
    assert found is not None
    return found


def test_asking_again_reads_the_completion_record_alone(tmp_path, monkeypatch):
    stored = add(tmp_path)
    read, hashed = [], []
    monkeypatch.setattr(LocalStore, "intact", lambda *arguments, **_: hashed.append(arguments) or True)
    plain = LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda self, name: read.append(name) or plain(self, name))
    for _ in range(3):
        assert Ledger(tmp_path).find_fit(stored.signature) is not None
    assert {name.rpartition("/")[2] for name in read} <= {"complete.json", "ledger.json"}
    assert hashed == []
    as_seen_first(tmp_path, stored.signature)
    assert len(hashed) == 4


def test_events_come_back_in_order(place):
    log = Ledger(place).study("hand")
    assert log.events() == []
    assert Ledger(place).studies() == []
    for trial in range(3):
        log.append("proposed", trial=trial, group="rgb", params={})
    assert [event["trial"] for event in Ledger(place).study("hand").events()] == [0, 1, 2]
    assert Ledger(place).studies() == ["hand"]


def test_many_events_of_an_object_store_become_few_objects(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr("ptune.ledger.objects.PACK", 8)
    place = folder_or_prefix("object store", tmp_path, bucket)
    log = Ledger(place).study("hand")
    for part in (range(12), range(12, 30)):
        with log.lease():
            for trial in part:
                log.append("proposed", trial=trial, group="rgb", params={})
    assert [event["trial"] for event in log.events()] == list(range(30))
    assert len(log.store.entries("studies/hand/events")) == 3 + 30 % 8


def test_an_event_of_a_writer_that_was_followed_is_never_read(bucket, tmp_path):
    log = Ledger(folder_or_prefix("object store", tmp_path, bucket)).study("hand")
    log.append("proposed", trial=0, group="rgb", params={})
    log.append("proposed", trial=1, group="rgb", params={})
    late = log.store.read("studies/hand/events/00000001-000001")
    log.store.put("studies/hand/events/00000002-000001", late)
    assert [event["trial"] for event in log.events()] == [0, 1]


def test_a_lost_event_of_an_object_store_is_missed(bucket, tmp_path):
    log = Ledger(folder_or_prefix("object store", tmp_path, bucket)).study("hand")
    for trial in range(3):
        log.append("proposed", trial=trial, group="rgb", params={})
    log.store.delete("studies/hand/events/00000002-000002")
    with pytest.raises(LedgerError, match="line 2 is missing"):
        log.events()


def test_events_survive_a_line_torn_at_any_byte(tmp_path):
    log, path = Ledger(tmp_path).study("hand"), tmp_path / "studies/hand/events.jsonl"
    log.append("proposed", trial=0, group="rgb", params={})
    whole = path.read_bytes()
    log.append("proposed", trial=1, group="flow", params={"segments": 4})
    both = path.read_bytes()
    for cut in range(len(whole), len(both)):
        path.write_bytes(both[:cut])
        assert [event["trial"] for event in log.events()] == [0]
        log.append("proposed", trial=2, group="mb", params={})
        assert [event["trial"] for event in log.events()] == [0, 2]


def test_an_altered_event_is_refused_with_its_line(tmp_path):
    log, path = Ledger(tmp_path).study("hand"), tmp_path / "studies/hand/events.jsonl"
    for trial in range(3):
        log.append("proposed", trial=trial, group="rgb", params={})
    path.write_bytes(path.read_bytes().replace(b'"trial":1', b'"trial":9'))
    with pytest.raises(LedgerError, match="event line 2: does not match its checksum"):
        log.events()


def test_events_refuse_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Ledger(tmp_path).study("hand").append("reported", trial=0, value=float("nan"))


def test_nothing_opened_is_no_study(place):
    assert replay(Ledger(place).study("none").events()) is None


def test_a_checkpoint_is_found_by_whoever_goes_on(place):
    ledger = Ledger(place)
    with ledger.checkpoint(SPEC.signature()) as path:
        assert path is None
    for content in (b"half", b"more"):
        ledger.save_checkpoint(SPEC, lambda path, content=content: write_new(path, content))
    with Ledger(place).checkpoint(SPEC.signature()) as path:
        assert path.read_bytes() == b"more"
    ledger.discard_checkpoint(SPEC.signature())
    assert ledger.store.entries("fits") == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_ledger_of_every_layout_stays_readable(tmp_path, version):
    root = tmp_path / "ledger"
    shutil.copytree(Path(__file__).parent / "fixtures" / f"ledger-{version}", root)
    ledger = Ledger(root)
    facts = read_study(ledger, "hand")
    assert {number: trial.state for number, trial in facts.trials.items()} == {0: "finished", 1: "failed"}
    fits = [ledger.find_fit(signature) for signature in facts.trials[0].fits.values()]
    assert [fit.weights.read_bytes() for fit in fits] == [b"weights of fold 0", b"weights of fold 1"]
    assert fits[0].history[-1]["loss"] == 0.5
    assert sorted(out_of_fold(ledger, facts.trials[0])["subject"]) == ["S01", "S02", "S03", "S04"]
    # It can be written on, and then holds fits of both layouts.
    add(root)
    assert len(ledger.fits()) == 3
    assert json.loads((root / "ledger.json").read_text()) == {"schema_version": SCHEMA_VERSION}


def test_what_a_newer_ptune_wrote_is_refused(place):
    stored = add(place)
    newer = stored.complete | {"schema_version": SCHEMA_VERSION + 1}
    damage(place, f"{fit_folder(stored.signature)}/complete.json", json.dumps(newer).encode())
    with pytest.raises(LedgerError, match=r"fit .*newer ptune \(schema 3\).*Upgrade ptune"):
        Ledger(place).find_fit(stored.signature)


def test_a_ledger_that_a_newer_ptune_wrote_is_refused_whole(place):
    damage(place, "ledger.json", b'{"schema_version": 3}')
    for use in (
        lambda: Ledger(place).find_fit(SPEC.signature()),
        lambda: Ledger(place).study("hand").events(),
        lambda: Ledger(place).study("hand").append("opened"),
        lambda: add(place),
    ):
        with pytest.raises(LedgerError, match="newer ptune"):
            use()
    assert [entry.name for entry in Ledger(place).store.entries("")] == ["ledger.json"]
    damage(place, "ledger.json", b'{"schema')
    with pytest.raises(LedgerError, match=r"ledger.json is damaged.*Remove ledger.json if"):
        Ledger(place).find_fit(SPEC.signature())


def test_an_object_store_that_refuses_or_is_away_is_said_in_words(bucket, monkeypatch):
    monkeypatch.setattr("ptune.ledger.objects.PAUSES", (0.01,))
    add(below(bucket))
    with pytest.raises(StorageError, match=r"answered NO_SUCH_BUCKET. Check bucket, region and credentials"):
        add(below(bucket.replace("s3://bucket", "s3://missing")))
    away = bucket.replace("endpoint_override=127.0.0.1:", "endpoint_override=127.0.0.1:1&x=").partition("&x=")
    with pytest.raises(StorageError, match="Check"):
        add(below(away[0] + "&region=us-east-1"))


def test_doctor_says_whether_the_ledger_can_be_written(bucket, tmp_path):
    def found(place):
        (finding,) = [item for item in examine(Home.open(tmp_path, ledger=place)) if item.subject == "ledger"]
        return finding.ok, finding.found

    assert found(None) == (True, "in the home, writable")
    assert found(below(bucket)) == (True, "elsewhere, writable")
    missing = below(bucket.replace("s3://bucket", "s3://missing"))
    assert found(missing) == (False, "elsewhere, the object store answered NO_SUCH_BUCKET")


def test_a_ledger_may_lie_where_the_user_says(tmp_path, monkeypatch):
    assert Home.open(tmp_path / "a").ledger == tmp_path / "a" / "ledger"
    assert Home.open(tmp_path / "a", ledger=tmp_path / "shared").ledger == tmp_path / "shared"
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("PTUNE_LEDGER", "s3://bucket/ptune")
    assert Home.open(tmp_path / "a").ledger == "s3://bucket/ptune"
    add(f"file://{tmp_path}/by%20uri")
    assert Ledger(tmp_path / "by uri").find_fit(SPEC.signature()) is not None
    with pytest.raises(HomeError, match=r"cannot lie at ftp://.*s3://bucket/prefix"):
        Ledger("ftp://host/ledger")
    with pytest.raises(HomeError, match="its URI cannot be used"):
        Ledger("s3://bucket/ptune?nonsense=1")


def test_atomic_write_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, lambda temporary: temporary.write_text("old") and None)

    def fails(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fails)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_home_is_private_and_one_that_cannot_be_written_is_refused(tmp_path):
    opened = Home.open(tmp_path / "home")
    assert opened.root.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="cannot be written"):
        Home.open(tmp_path / "file")
