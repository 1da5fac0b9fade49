"""What a study costs beside training: seconds per trial on a warm actor, and growth over ten thousand trials.

python benchmarks/overhead.py sweep [TRIALS]        a real sweep on one core; limit 0.15 s a trial
python benchmarks/overhead.py simulate [TRIALS]     decisions alone; limits 1.2x the time, memory flat
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ptune.config import StudyConfig
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.tune.conductor import Conductor
from ptune.tune.race import Evidence

EPOCHS, FOLDS, SUBJECTS = 4, 5, 20
SPACE = {
    "modality": {"choice": ["rgb", "flow", "mb"]},
    "segments": {"int": [2, 8]},
    "attention": {"choice": [True, False]},
    "attention_width": {"int": [64, 512], "when": {"attention": True}},
    "focal.gamma": {"float": [0.0, 5.0]},
    "learning_rate": {"float": [1e-6, 1e-3], "log": True},
}


def sweep(trials: int = 60) -> None:
    from tests.tune.chaos import STUDY, Arena

    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        arena = Arena(Path(name))
        settings = {"stopping": "none", "fixed": {**STUDY["fixed"], "epochs": 1}}
        rest = {}
        for count in (trials // 3, trials):
            study = arena.write_study(f"{count}.yaml", study=f"study{count}", budget={"trials": count}, **settings)
            launch = arena.launch(f"home-{count}", study)
            wall = launch.finish()
            facts = arena.facts(f"home-{count}", f"study{count}")
            training = sum(trial.seconds for trial in facts.trials.values())
            rest[count] = wall - training
            print(f"{count:4} trials: {wall:6.1f} s, of which fits {training:6.1f} s", flush=True)
        few, many = rest
        each = (rest[many] - rest[few]) / (many - few)
        print(f"beside training: {rest[few] - few * each:.1f} s to start and end, {each:.3f} s for each trial")


def simulate(trials: int = 10_000) -> None:
    config = StudyConfig.parse(
        {
            "study": "many",
            "cohort": "cohort.csv",
            "task": "hand",
            "init": "random",
            "folds": {"count": FOLDS},
            "budget": {"trials": trials},
            "space": SPACE,
            "fixed": {"epochs": EPOCHS},
        },
        "benchmark",
    )
    random = np.random.default_rng(0)
    videos = tuple(f"v{number}" for number in range(SUBJECTS))
    with tempfile.TemporaryDirectory(prefix="overhead-") as name, Ledger(Path(name)).study("many").lease():
        log = Ledger(Path(name)).study("many")
        cohort = {"digest": "d", "videos": SUBJECTS, "subjects": SUBJECTS, "class_counts": {}}
        log.append(
            "opened", study=config.model_dump(mode="json", by_alias=True), cohort=cohort, folds={"a": 0}, revision=1
        )
        facts = read_study(Ledger(Path(name)), "many")
        assert facts is not None

        def evidence(fit: str) -> Evidence:
            return Evidence(videos, videos, random.gamma(2.0, 0.1, SUBJECTS))

        conductor = Conductor(facts, log, tuple(range(FOLDS)), EPOCHS, evidence)
        clocks, sizes = [], []
        for _ in range(10):
            start = time.process_time()
            for _ in range(trials // 10):
                task = conductor.next_task()
                assert task is not None
                play(conductor, task.number, float(random.normal(0.5, 0.1)), random)
            clocks.append((time.process_time() - start) / (trials // 10))
            sizes.append(_resident_mb())
            print(f"{1000 * clocks[-1]:.2f} ms a trial, {sizes[-1]:.0f} MB", flush=True)
    print(
        f"last against first tenth: {clocks[-1] / clocks[0]:.2f}x the time, {sizes[-1] - sizes[0]:+.0f} MB, which is "
        f"{1000 * (sizes[-1] - sizes[0]) / (0.9 * trials):.1f} kB a trial"
    )


def play(conductor: Conductor, number: int, quality: float, random: np.random.Generator) -> None:
    """Reports what an actor would, until the trial is stopped."""
    metrics: dict[str, Any] = {}
    for fold in range(FOLDS):
        for epoch in range(1, EPOCHS + 1):
            value = quality * (1 - 0.5**epoch) + float(random.normal(0, 0.02))
            metrics = {"validation.f1_weighted": value, "loss": 1.0}
            step = fold * EPOCHS + epoch
            content = {"fold": fold, "epoch": epoch, "step": step, "value": value, "metrics": metrics}
            if not conductor.reported(number, {"kind": "epoch", "seconds": 0.0, **content}):
                return
        fitted = {"kind": "fitted", "fold": fold, "fit": f"{number}-{fold}", "reused": False, "seconds": 0.0}
        if not conductor.reported(number, fitted):
            return
    conductor.ended(number, {"kind": "finished", "value": quality, "metrics": metrics, "seconds": 0.0})


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if len(sys.argv) < 2 or sys.argv[1] not in ("sweep", "simulate"):
        sys.exit(__doc__)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    {"sweep": sweep, "simulate": simulate}[sys.argv[1]](*(int(value) for value in sys.argv[2:3]))
