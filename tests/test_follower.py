"""Whoever follows a study sees what a full replay would show, and reads only what is new."""

import pytest

from ptune.errors import LedgerError
from ptune.ledger import Ledger, StudyLog
from ptune.replay import Follower, read_study
from tests.example_study import example_study


def test_following_line_by_line_is_a_replay(tmp_path):
    source = example_study(tmp_path / "whole").study("hand").path.read_bytes().splitlines(keepends=True)
    ledger = Ledger(tmp_path / "growing")
    follower = Follower(ledger.study("hand"))
    assert not follower.update()
    assert follower.facts is None
    path = ledger.study("hand").path
    path.parent.mkdir(parents=True)
    for first in range(0, len(source), 20):
        with open(path, "ab") as handle:
            handle.writelines(source[first : first + 20])
        assert follower.update()
        assert follower.facts == read_study(ledger, "hand")
    assert not follower.update()


def test_a_line_is_taken_once_it_is_whole(tmp_path):
    ledger = example_study(tmp_path, trials=1)
    log = ledger.study("hand")
    *_, last = log.path.read_bytes().splitlines(keepends=True)
    whole = log.path.read_bytes()
    follower = Follower(log)
    log.path.write_bytes(whole[: len(whole) - len(last)])
    follower.update()
    assert follower.facts.trials[0].state == "running"
    for size in range(1, len(last)):
        log.path.write_bytes(whole[: len(whole) - len(last) + size])
        assert not follower.update()
    log.path.write_bytes(whole)
    assert follower.update()
    assert follower.facts.trials[0].state == "finished"


def test_a_line_torn_by_a_crash_is_left_out_and_a_changed_one_is_refused(tmp_path):
    log = example_study(tmp_path, trials=1).study("hand")
    follower = Follower(log)
    follower.update()
    with open(log.path, "ab") as handle:
        handle.write(b"0123 torn in the mid")
    follower.update()
    log.append("proposed", trial=1, group="rgb", params={})
    assert follower.update()
    assert follower.facts.trials.keys() == {0, 1}
    log.path.write_bytes(log.path.read_bytes() + b"0123456789abcdef {}\n")
    with pytest.raises(LedgerError, match="does not match its checksum"):
        follower.update()


def test_only_new_bytes_are_read(tmp_path, monkeypatch):
    log = example_study(tmp_path).study("hand")
    follower = Follower(log)
    follower.update()
    monkeypatch.setattr(StudyLog, "events", lambda self: pytest.fail("the whole log was read"))
    before = log.path.stat().st_size
    log.append("proposed", trial=50, group="rgb", params={})
    assert follower.update()
    assert follower._position == log.path.stat().st_size > before
