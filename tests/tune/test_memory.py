"""A trial that wants more memory than its node has is infeasible; those beside it end as if it had not been there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tune.chaos import ROOT, Arena, check_events

MEMORY = Path("/sys/fs/cgroup/memory")
LIMIT = 4 << 30
SMALL = {"modality": "flow", "segments": 1}
#: One step of it keeps more activations than the limit, layer by layer: the kernel would end what takes all at once.
HUNGRY = SMALL | {"segments": 12, "snippet_frames": 16, "crop": 112, "width": 1.0, "batch_size": 8}


def why_not() -> str:
    """Returns why a node's memory cannot be limited here, or nothing."""
    if not (MEMORY / "memory.limit_in_bytes").exists():
        return "needs the memory controller of cgroups (version 1)"
    try:
        group = MEMORY / f"ptune-probe-{uuid.uuid4().hex[:8]}"
        group.mkdir()
        group.rmdir()
    except OSError as error:
        return f"needs the right to make a control group: {error.strerror}"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "needs the right to make mount namespaces"


@contextmanager
def node_with(limit: int):
    """Yields the start of a command line that runs a command as on a machine with so many bytes of memory."""
    group = MEMORY / f"ptune-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(limit))
    script = f'echo $$ > {group}/cgroup.procs && mount --bind {group} {MEMORY} && exec "$@"'
    try:
        yield ["unshare", "--mount", "sh", "-c", script, "sh"]
    finally:
        while left := (group / "cgroup.procs").read_text().split():
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
        group.rmdir()


@pytest.mark.skipif(not os.environ.get("PTUNE_FULL"), reason="takes minutes: `make test-full`")
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.timeout(900)
def test_a_trial_above_a_nodes_memory_is_infeasible_and_others_end_undisturbed(tmp_path):
    arena = Arena(tmp_path)
    listed = {
        "space": {},
        "stopping": "none",
        "points": [SMALL, HUNGRY, SMALL | {"segments": 2}, SMALL | {"segments": 3}],
    }
    study = arena.write_study("listed.yaml", **listed)
    scratch = tempfile.mkdtemp(prefix="pt", dir="/tmp")
    with node_with(LIMIT) as on_node:
        done = subprocess.run(
            [
                *on_node,
                *(Path(sys.executable).with_name("ptune"), "sweep", study, "--workers", "2"),
                *("--home", tmp_path / "home", "--features", tmp_path / "features"),
            ],
            env=os.environ | {"RAY_TMPDIR": scratch, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
    shutil.rmtree(scratch)
    print(done.stdout, done.stderr)
    trials = arena.facts("home").trials
    assert trials[1].state == "failed"
    assert "infeasible: its node ran out of memory" in trials[1].reason
    assert [trials[number].state for number in (0, 2, 3)] == ["finished"] * 3
    check_events(arena.events("home"))
