"""The paper's tables 2 and 3 from their files, by the command line, on a tiny synthetic cohort of both tasks."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TINY = {
    "cohort": "cohort/cohort.csv",
    "folds": {"count": 2},
    "init": "random",
    "extraction": {"width": 40, "height": 32},
    "fixed": {
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 0.002,
        "width": 0.125,
        "crop": 24,
        "attention_width": 8,
        "frozen_norm": "none",
        "validation.snippets": 1,
        "test.snippets": 2,
    },
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Returns a caller of ptune in a folder with a cohort and both files."""
    folder, scratch = tmp_path_factory.mktemp("tables"), tempfile.mkdtemp(prefix="pt", dir="/tmp")
    own = {"PTUNE_HOME": str(folder / "home"), "RAY_TMPDIR": scratch, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def call(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "ptune.cli", *arguments],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    size = ["--size", "64x48", "--seconds", "1.2-1.6", "--fps", "12.5", "--balanced"]
    call("cohort", "synth", "cohort", "--task", "hand", "--task", "gait", "--subjects", "6", "--clips", "2", *size)
    for number in (2, 3):
        spec = TINY | {"extends": str(ROOT / f"search_spaces/paper_table{number}.yaml"), "ablation": f"tiny{number}"}
        (folder / f"table{number}.yaml").write_text(yaml.safe_dump(spec))
    return call


def numbers(text, row):
    line = next(line for line in text.splitlines() if line.startswith(f"{row}  "))
    return [float(word.rstrip("*†")) for word in line.removeprefix(row).split() if word != "x"]


def test_table_2_has_the_papers_shape_and_trains_nothing_twice(shell):
    text = shell("ablate", "table2.yaml")
    assert text.count("12 fits trained, 0 reused") == 2, "six streams of two folds for each task"
    heads = text.split("-----\n")[0].splitlines()[-3:-1]
    assert heads[0].split() == ["hand", "gait", "average"]
    assert heads[1].split() == ["+attention", "-attention"] * 3
    for row in ("RGB", "Flow", "Motion Boundaries", "RGB + Flow", "RGB + Motion Boundaries", "All Modalities"):
        hand, gait, average = numbers(text, row)[:2], numbers(text, row)[2:4], numbers(text, row)[4:]
        assert average == pytest.approx([(one + other) / 2 for one, other in zip(hand, gait, strict=True)], abs=0.11)
    for part in ("always", "nuisance only", "95 % interval", "Holm", "Synthetic cohort", "68.4", "other data"):
        assert part in text
    again = json.loads(shell("ablate", "table2.yaml", "--json"))
    assert again["fits"] == {"trained": 0, "reused": 0}


def test_table_3_runs_every_architecture_and_reuses_what_table_2_trained(shell):
    text = shell("ablate", "table3.yaml")
    assert "8 cells" not in text
    rows = ["Two-Stream", "TSN", "I3D", "SlowFast", "TSN + SlowFast", "Proposed w/o focal loss"]
    for row in [*rows, "Proposed (Flow + MBs)", "Proposed (MBs)"]:
        assert len(numbers(text, row)) == 3, "hand, gait and their average"
    assert "Proposed (MBs)                         " in text
    assert text.count("18 fits trained, 4 reused") == 2, "flow and boundaries with attention were there"
