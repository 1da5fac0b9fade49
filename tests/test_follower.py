"""Whoever follows a study sees what a full replay would show, and reads only what is new."""

import pytest

from ptune.errors import LedgerError
from ptune.ledger import Ledger
from ptune.replay import Follower, read_study
from tests.example_study import example_study

EVENTS = "studies/hand/events.jsonl"


def test_following_line_by_line_is_a_replay(tmp_path):
    example_study(tmp_path / "whole")
    source = (tmp_path / "whole" / EVENTS).read_bytes().splitlines(keepends=True)
    ledger = Ledger(tmp_path / "growing")
    follower = Follower(ledger.study("hand"))
    assert not follower.update()
    assert follower.facts is None
    path = tmp_path / "growing" / EVENTS
    path.parent.mkdir(parents=True)
    for first in range(0, len(source), 20):
        with open(path, "ab") as handle:
            handle.writelines(source[first : first + 20])
        assert follower.update()
        assert follower.facts == read_study(ledger, "hand")
    assert not follower.update()


def test_a_line_is_taken_once_it_is_whole(tmp_path):
    ledger, path = example_study(tmp_path, trials=1), tmp_path / EVENTS
    whole = path.read_bytes()
    *_, last = whole.splitlines(keepends=True)
    follower = Follower(ledger.study("hand"))
    path.write_bytes(whole[: len(whole) - len(last)])
    follower.update()
    assert follower.facts.trials[0].state == "running"
    for size in range(1, len(last)):
        path.write_bytes(whole[: len(whole) - len(last) + size])
        assert not follower.update()
    path.write_bytes(whole)
    assert follower.update()
    assert follower.facts.trials[0].state == "finished"


def test_a_line_torn_by_a_crash_is_left_out_and_a_changed_one_is_refused(tmp_path):
    ledger, path = example_study(tmp_path, trials=1), tmp_path / EVENTS
    log = ledger.study("hand")
    follower = Follower(log)
    follower.update()
    with open(path, "ab") as handle:
        handle.write(b"0123 torn in the mid")
    assert not follower.update()
    log.append("proposed", trial=1, group="rgb", params={})
    assert follower.update()
    assert follower.facts.trials.keys() == {0, 1}
    size = path.stat().st_size
    with open(path, "ab") as handle:
        handle.write(b"0123456789abcdef {}\n")
    with pytest.raises(LedgerError, match=f"line 1 after byte {size}: does not match its checksum"):
        follower.update()


def test_only_new_bytes_are_read(tmp_path):
    ledger, path = example_study(tmp_path), tmp_path / EVENTS
    log = ledger.study("hand")
    follower = Follower(log)
    follower.update()
    size = path.stat().st_size
    with open(path, "r+b") as handle:
        handle.write(b"x" * size)
    log.append("proposed", trial=50, group="rgb", params={})
    assert follower.update()
    assert 50 in follower.facts.trials
