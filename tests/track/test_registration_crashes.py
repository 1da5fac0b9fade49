"""Whatever ends a registration or a promotion, and whoever else promotes: an alias names a whole version, or nothing.

`PTUNE_FULL=1` ends them at every step and lets promoters race a hundred times.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = bool(os.environ.get("PTUNE_FULL"))


def run(folder, what):
    done = subprocess.run(
        [sys.executable, "-m", "tests.example_registration", str(folder), what],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3000 if FULL else 560,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(3100 if FULL else 570)
def test_after_a_kill_at_any_step_aliases_name_whole_versions_and_running_again_completes(tmp_path):
    operations = run(tmp_path, "all" if FULL else "some")
    assert [item["operation"] for item in operations] == ["register", "promote", "rollback"]
    for item in operations:
        assert item["problems"] == {}
        assert item["steps"] >= item["ended"] >= (item["steps"] if FULL else 4)


@pytest.mark.timeout(3100 if FULL else 570)
def test_of_two_promoters_each_finds_what_the_other_left(tmp_path):
    rounds = 100 if FULL else 8
    (found,) = run(tmp_path, str(rounds))
    before, log = found["log"][:3], found["log"][3:]
    assert [event["kind"] for event in before] == ["registered", "promoted", "registered"]
    assert sum(event["kind"] == "registered" for event in log) == 2 * rounds
    candidate, champion, moves = 2, 1, []
    for event in log:
        if event["kind"] == "registered":
            candidate = event["version"]
            moves.append(f"candidate {candidate}")
        else:
            assert (event["version"], event["former"]) == (candidate, champion)
            champion = candidate
            moves.append(f"champion {champion}")
    assert found["moves"] == moves
    assert (found["candidate"], found["champion"]) == (candidate, champion)
    if FULL:
        assert {"champion 1", "champion 2"} <= set(moves)
