"""Where a study of ten thousand trials on a thousand GPUs first meets a limit: what one driver can decide and record.

python benchmarks/scale.py [GPUS] [TRIALS]

The conductor, searcher, race and ledger are the real ones, on this machine's disk; GPUs are simulated: an epoch takes a
minute of simulated time, more or less, and its fold's predictions are written to the ledger as a worker would. Printed:
CPU-seconds of the driver for each result and trial, what they are spent on, and how many GPUs a driver keeps busy.
"""

from __future__ import annotations

import heapq
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.overhead import SPACE, _resident_mb
from ptune.config import FitSpec, StudyConfig
from ptune.ledger import Ledger, StudyLog
from ptune.ledger.fits import predictions_table
from ptune.replay import read_study
from ptune.tune import study
from ptune.tune.conductor import Conductor
from tests.example_study import CLASSES, example_videos

EPOCHS, FOLDS, SUBJECTS, VIDEOS = 12, 5, 100, 1000
EPOCH_SECONDS = 60.0


class Stopwatch:
    """CPU-seconds of this process by what they were spent on, without what lies inside another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.open: list[float] = []

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            start, _ = time.process_time(), self.open.append(0.0)
            try:
                return call(*arguments, **options)
            finally:
                whole = time.process_time() - start
                self.seconds[name] += whole - self.open.pop()
                self.calls[name] += 1
                if self.open:
                    self.open[-1] += whole

        return wrapped


class Cluster:
    """Simulated GPUs: each takes a task, reports its epochs and folds, and takes another."""

    def __init__(self, conductor: Conductor, ledger: Ledger, gpus: int) -> None:
        self.conductor, self.ledger, self.gpus = conductor, ledger, gpus
        self.random = np.random.default_rng(0)
        self.quality: dict[int, float] = {}
        self.done: dict[int, int] = defaultdict(int)
        self.clock, self.epochs, self.fits, self.busy = 0.0, 0, 0, 0.0
        videos = example_videos(subjects=2)
        self.spec = FitSpec(
            stream=conductor.facts.config.stream({"modality": "rgb"}),
            classes=CLASSES,
            fold=0,
            train=tuple(videos[:5]),
            held_out=tuple(videos[5:]),
            extraction="e" * 32,
            seed=0,
        )

    def run(self) -> None:
        """Works until the conductor has no more to do."""
        working: list[tuple[float, int, int]] = []
        turn, idle = 0, self.gpus
        while True:
            while idle:
                task = self.conductor.next_task()
                if task is None or task.fold is not None:
                    break
                self.quality.setdefault(task.number, float(self.random.normal(1.0, 0.3)))
                turn, idle = turn + 1, idle - 1
                heapq.heappush(working, (self._later(), turn, task.number))
            if not working:
                return
            now, _, number = heapq.heappop(working)
            self.busy += (now - self.clock) * (self.gpus - idle)
            self.clock = now
            if self._step(number):
                turn += 1
                heapq.heappush(working, (self._later(), turn, number))
            else:
                idle += 1

    def _later(self) -> float:
        return self.clock + EPOCH_SECONDS * float(self.random.uniform(0.8, 1.2))

    def _step(self, number: int) -> bool:
        """Reports an epoch, and the fold when it was the last one; returns whether the trial goes on."""
        position, epoch = divmod(self.done[number], EPOCHS)
        fold = self.conductor.order[position]
        self.done[number] += 1
        self.epochs += 1
        value = self.quality[number] * (1 - 0.8 ** (epoch + 1)) / 2 + float(self.random.normal(0, 0.01))
        metrics = {f"{split}.{name}": value for split in ("train", "validation") for name in ("f1_weighted", "loss")}
        content = {"fold": fold, "epoch": epoch + 1, "step": self.done[number], "value": value, "metrics": metrics}
        if not self.conductor.reported(number, {"kind": "epoch", "seconds": EPOCH_SECONDS, **content}):
            return False
        if epoch + 1 < EPOCHS:
            return True
        fit = self._fit(number, fold)
        fitted = {"kind": "fitted", "fold": fold, "fit": fit, "reused": False, "seconds": 0.0}
        if not self.conductor.reported(number, fitted):
            return False
        if position + 1 < FOLDS:
            return True
        self.conductor.ended(number, {"kind": "finished", "value": value, "metrics": metrics, "seconds": 0.0})
        return False

    def _fit(self, number: int, fold: int) -> str:
        """Writes what a worker would write: the fit of a fold, with small weights."""
        self.fits += 1
        labels = np.arange(VIDEOS)[fold::FOLDS] % 3
        chances = np.eye(3)[labels] * self.quality[number] + self.random.gamma(1.0, 1.0, (len(labels), 3))
        rows = [
            {
                "video_id": f"v{video:04d}",
                "subject": f"s{video // 10 % SUBJECTS:03d}",
                "fold": fold,
                "score": int(label),
                "label": int(label),
                "probabilities": (chance / chance.sum()).tolist(),
                "attention": [],
            }
            for video, label, chance in zip(range(fold, VIDEOS, FOLDS), labels, chances, strict=True)
        ]
        spec = self.spec.model_copy(update={"seed": number, "fold": fold})
        return self.ledger.add_fit(spec, [{"loss": 1.0}], predictions_table(rows), b"weights", {"seconds": 0}).signature


def main(gpus: int = 1_000, trials: int = 10_000) -> None:
    config = StudyConfig.parse(
        {
            "study": "many",
            "cohort": "cohort.csv",
            "task": "hand",
            "init": "random",
            "folds": {"count": FOLDS},
            "budget": {"trials": trials},
            "finalists": {"count": 2},
            "space": SPACE,
            "fixed": {"epochs": EPOCHS},
        },
        "benchmark",
    )
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        ledger = Ledger(Path(name))
        log = ledger.study("many")
        with log.lease():
            cohort = {"digest": "d", "videos": VIDEOS, "subjects": SUBJECTS, "class_counts": {}}
            opened = {"study": config.model_dump(mode="json", by_alias=True), "cohort": cohort, "folds": {"a": 0}}
            log.append("opened", **opened, revision=1)
            facts = read_study(ledger, "many")
            assert facts is not None
            conductor = Conductor(
                facts,
                log,
                tuple(range(FOLDS)),
                EPOCHS,
                watch.timed("predictions read", lambda fit: study._evidence(ledger, config, fit)),
            )
            StudyLog.append = watch.timed("events written", StudyLog.append)  # type: ignore[method-assign]
            conductor.proposals.next = watch.timed("proposals", conductor.proposals.next)  # type: ignore[method-assign]
            conductor.proposals.tell = watch.timed("searcher told", conductor.proposals.tell)  # type: ignore[method-assign]
            for part in ("epoch", "fold", "next", "close", "hopeless"):
                setattr(conductor.race, part, watch.timed(f"race ({part})", getattr(conductor.race, part)))
            for part in ("next_task", "reported", "ended"):
                setattr(conductor, part, watch.timed(f"conductor ({part})", getattr(conductor, part)))
            cluster = Cluster(conductor, ledger, gpus)
            start = time.perf_counter()
            cluster.run()
            wall = time.perf_counter() - start
        driver = sum(watch.seconds.values())
        show(cluster, watch, wall, driver, trials)
        start = time.perf_counter()
        found = read_study(ledger, "many")
        assert found is not None
        print(f"events replayed in {time.perf_counter() - start:.1f} s, as `ptune status` and a resumed study do")
    print(f"{_resident_mb():.0f} MB")


def show(cluster: Cluster, watch: Stopwatch, wall: float, driver: float, trials: int) -> None:
    states = defaultdict(int)
    for trial in cluster.conductor.facts.trials.values():
        states[trial.state] += 1
    print(f"{trials} trials on {cluster.gpus} GPUs: {dict(states)}, {cluster.epochs} epochs, {cluster.fits} fits")
    print(
        f"{cluster.clock / 3600:.1f} simulated hours, GPUs busy {cluster.busy / cluster.clock / cluster.gpus:.0%}; "
        f"{wall:.0f} s here, of which the driver's part {driver:.0f} CPU-s"
    )
    for name, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1]):
        count = watch.calls[name]
        share, each = seconds / driver, 1e3 * seconds / count
        print(f"  {name:24} {seconds:8.1f} s  {share:6.1%}  {count:8} calls  {each:8.3f} ms each")
    each = driver / cluster.epochs
    print(f"{1e3 * driver / trials:.1f} ms of the driver for a trial, {1e3 * each:.2f} ms for an epoch:")
    for seconds in (10, EPOCH_SECONDS, 300):
        print(f"  epochs of {seconds:3.0f} s: one driver keeps {seconds / each:8.0f} GPUs busy")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:3]))
