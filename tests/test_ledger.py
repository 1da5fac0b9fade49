"""Facts are whole or absent, stored once, and survive a crash at any write."""

import json
import os

import pytest

from ptune import home, ledger
from ptune.errors import HomeError, LedgerError
from ptune.home import Home, write_atomic
from ptune.ledger import Ledger, predictions_table
from ptune.replay import replay
from tests.example_features import example_spec, example_videos

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


def _add(root):
    spec = example_spec(example_videos(), {"S06"})
    return Ledger(root).add_fit(spec, [{"loss": 0.5}], predictions_table(ROWS), b"weights", {"seconds": 2.0})


def test_a_fit_comes_back_as_it_was_stored(tmp_path):
    stored = _add(tmp_path)
    found = Ledger(tmp_path).find_fit(stored.signature)
    assert found is not None
    assert found.spec == example_spec(example_videos(), {"S06"})
    assert found.spec.signature() == stored.signature
    assert found.history == [{"loss": 0.5}]
    assert found.predictions().to_pylist() == ROWS
    assert found.weights.read_bytes() == b"weights"
    assert found.summary == {"seconds": 2.0}


def test_a_fit_is_absent_until_its_last_write_for_a_crash_at_every_write(tmp_path, monkeypatch):
    replace = os.replace
    for crash_at in range(1, 6):
        root = tmp_path / str(crash_at)
        writes = 0

        def dies(source, target, crash_at=crash_at):
            nonlocal writes
            writes += 1
            if writes == crash_at:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(home.os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            _add(root)
        monkeypatch.setattr(home.os, "replace", replace)
        signature = example_spec(example_videos(), {"S06"}).signature()
        assert Ledger(root).find_fit(signature) is None
        assert Ledger(root).find_fit(_add(root).signature) is not None
        assert not list(root.rglob("*.part"))


def test_a_changed_byte_is_noticed_and_named(tmp_path):
    stored = _add(tmp_path)
    stored.weights.write_bytes(b"WEIGHTS")
    with pytest.raises(LedgerError, match=r"weights.safetensors is missing or differs.*Remove ledger/fits"):
        Ledger(tmp_path).find_fit(stored.signature)


def test_events_survive_a_line_torn_at_any_byte(tmp_path):
    log = Ledger(tmp_path).study("hand")
    log.append("proposed", trial=0, group="rgb", params={})
    whole = log.path.read_bytes()
    log.append("proposed", trial=1, group="flow", params={"segments": 4})
    both = log.path.read_bytes()
    for cut in range(len(whole), len(both)):
        log.path.write_bytes(both[:cut])
        assert [event["trial"] for event in log.events()] in ([0], [0, 1])
        log.append("proposed", trial=2, group="mb", params={})
        assert [event["trial"] for event in log.events()] in ([0, 2], [0, 1, 2])


def test_an_altered_event_is_refused_with_its_line(tmp_path):
    log = Ledger(tmp_path).study("hand")
    for trial in range(3):
        log.append("proposed", trial=trial, group="rgb", params={})
    log.path.write_bytes(log.path.read_bytes().replace(b'"trial":1', b'"trial":9'))
    with pytest.raises(LedgerError, match="event line 2: does not match its checksum"):
        log.events()


def test_events_refuse_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Ledger(tmp_path).study("hand").append("reported", trial=0, value=float("nan"))


def test_nothing_opened_is_no_study(tmp_path):
    assert replay(Ledger(tmp_path).study("none").events()) is None
    assert Ledger(tmp_path).studies() == []


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


def test_schema_version_is_stored(tmp_path):
    complete = json.loads((_add(tmp_path).folder / ledger.COMPLETE).read_text())
    assert complete["schema_version"] == ledger.SCHEMA_VERSION
