"""What stopping rules cost and lose: recorded fits are replayed through the code that decides in real studies.

Each replay is a study of the 64 recorded configurations, on 1 or 8 actors of a simulated cluster, with configurations
and folds in another order. The order of folds matters: were the same fold first, all replays would share one piece of
luck, because a fold is 18 videos. The second table draws two thirds of the configurations as well.
Cost is in epochs, against a full cross-validation of all; regret is what the chosen configuration's cross-validated
objective lacks of the best one's, in standard deviations of all configurations'. Limits for `race`: 10 times less
training, regret 0.1.

    python benchmarks/race.py [REPLAYS]         default 200
"""

from __future__ import annotations

import copy
import heapq
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from ptune.config import StudyConfig
from ptune.metrics import score
from ptune.replay import StudyFacts, TrialFacts
from ptune.tune.conductor import Conductor
from ptune.tune.evidence import Evidence, evidence_of
from ptune.tune.race import FoldRace
from ptune.tune.rules import GO, Asha, Median, Never, Race, Verdict
from ptune.tune.searcher import Proposal

CURVES = Path(__file__).with_name("curves.npz")


class Curves:
    """The recorded fits."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            self.study: dict[str, Any] = json.loads(str(stored["study"]))
            self.points: list[dict[str, Any]] = json.loads(str(stored["points"]))
            self.values, probabilities = stored["values"], stored["probabilities"]
            labels, subjects, folds = stored["labels"], stored["subjects"], stored["folds"]
        self.trials, self.folds, self.epochs = self.values.shape
        classes = ("normal", "mild", "severe")
        self.objective = np.array([score(labels, found, classes)["f1_macro"] for found in probabilities])
        self.fold_values = np.zeros((self.trials, self.folds))
        self.evidence: dict[tuple[int, int], Evidence] = {}
        for trial, found in enumerate(probabilities):
            for fold in range(self.folds):
                here = np.flatnonzero(folds == fold)
                self.fold_values[trial, fold] = score(labels[here], found[here], classes)["f1_macro"]
                rows = [
                    {
                        "video_id": str(video),
                        "subject": str(subjects[video]),
                        "label": int(labels[video]),
                        "probabilities": found[video],
                    }
                    for video in here
                ]
                self.evidence[trial, fold] = evidence_of(rows, balanced=True)
        classes_of = [len(set(labels[folds == fold])) for fold in range(self.folds)]
        first = int(np.argmax(classes_of))
        self.order = (first, *(fold for fold in range(self.folds) if fold != first))

    def drawn(self, seed: int, share: float = 1.0) -> Curves:
        """Returns a share of the configurations, with folds in a random order."""
        random = np.random.default_rng([7, seed])
        chosen = np.sort(random.choice(self.trials, round(share * self.trials), replace=False))
        part = copy.copy(self)
        part.trials, part.points = len(chosen), [self.points[trial] for trial in chosen]
        part.values, part.objective = self.values[chosen], self.objective[chosen]
        part.fold_values = self.fold_values[chosen]
        part.evidence = {
            (place, fold): self.evidence[int(trial), fold]
            for place, trial in enumerate(chosen)
            for fold in range(self.folds)
        }
        part.order = tuple(random.permutation(self.folds).tolist())
        return part


@dataclass
class Memory:
    """Stands for a study's log where nothing needs to last."""

    kept: list[dict[str, Any]] = field(default_factory=list)

    def append(self, kind: str, **content: Any) -> None:
        pass

    def events(self) -> list[dict[str, Any]]:
        return self.kept


class Recorded:
    """Proposes the recorded configurations in a given order."""

    def __init__(self, points: list[dict[str, Any]], order: list[int]) -> None:
        self.points, self.order = points, list(order)

    def next(self) -> Proposal | None:
        if not self.order:
            return None
        number = self.order.pop(0)
        return Proposal(number, str(self.points[number]["modality"]), self.points[number])

    def tell(self, trial: TrialFacts) -> None:
        pass


class Wilcoxon(Never):
    """Optuna's pruner for cross-validation: a signed-rank test over the folds' objectives against the best trial."""

    def __init__(self, curves: Curves) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1)
        self.study = optuna.create_study(direction="maximize", pruner=pruner)
        self.curves, self.asked = curves, {}

    def fold(self, trial: int, group: str, fold: int, evidence: Evidence) -> Verdict:
        asked = self.asked.setdefault(trial, None) or self.study.ask()
        self.asked[trial] = asked
        asked.report(float(self.curves.fold_values[trial, self.curves.order[fold]]), fold)
        if fold == self.curves.folds - 1:
            self.study.tell(asked, float(self.curves.objective[trial]))
            return GO
        if asked.should_prune():
            self.study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            return Verdict("stop", "worse fold by fold")
        return GO


@dataclass(frozen=True)
class Outcome:
    cost: float
    regret: float
    hours: float
    finished: dict[str, int]


def replay(curves: Curves, rule: Race, seed: int, actors: int, grouped: bool = True) -> Outcome:
    """Runs one study on simulated actors, which take as long as their epochs did."""
    points = curves.points if grouped else [{**point, "modality": "all"} for point in curves.points]
    order = np.random.default_rng(seed).permutation(curves.trials).tolist()
    config = StudyConfig.parse({**curves.study, "budget": {"trials": curves.trials}}, "benchmark")
    facts = StudyFacts(config, {}, {})

    def evidence(fit: str) -> Evidence:
        trial, fold = fit.split("-")
        return curves.evidence[int(trial), int(fold)]

    conductor = Conductor(facts, Memory(), curves.order, curves.epochs, evidence)  # type: ignore[arg-type]
    conductor.proposals, conductor.race = Recorded(points, order), rule  # type: ignore[assignment]
    done: dict[int, int] = {}
    clock, epochs, turn = 0.0, 0, 0
    working: list[tuple[float, int, int]] = []
    noise = np.random.default_rng(seed + 1)
    while True:
        while len(working) < actors:
            task = conductor.next_task()
            if task is None or task.fold is not None:
                break
            turn += 1
            heapq.heappush(working, (clock + noise.uniform(0.9, 1.1), turn, task.number))
        if not working:
            break
        clock, _, number = heapq.heappop(working)
        step = done[number] = done.get(number, 0) + 1
        epochs += 1
        if _report(conductor, curves, number, step):
            turn += 1
            heapq.heappush(working, (clock + noise.uniform(0.9, 1.1), turn, number))
    finished = [trial.number for trial in facts.trials.values() if trial.state == "finished"]
    chosen = max(finished, key=lambda trial: curves.objective[trial])
    regret = curves.objective.max() - curves.objective[chosen]
    groups: dict[str, int] = {}
    for trial in finished:
        name = str(points[trial]["modality"])
        groups[name] = groups.get(name, 0) + 1
    return Outcome(epochs / (curves.trials * curves.folds * curves.epochs), float(regret), clock, groups)


def _report(conductor: Conductor, curves: Curves, number: int, step: int) -> bool:
    position, epoch = divmod(step - 1, curves.epochs)
    fold = curves.order[position]
    value = float(curves.values[number, fold, epoch])
    metrics = {"validation.f1_macro": value}
    content = {"fold": fold, "epoch": epoch + 1, "step": step, "value": value, "metrics": metrics, "seconds": 0.0}
    if not conductor.reported(number, {"kind": "epoch", **content}):
        return False
    if epoch + 1 < curves.epochs:
        return True
    fitted = {"kind": "fitted", "fold": fold, "fit": f"{number}-{fold}", "reused": False, "seconds": 0.0}
    if not conductor.reported(number, fitted):
        return False
    if position + 1 < curves.folds:
        return True
    conductor.ended(number, {"kind": "finished", "value": float(curves.objective[number]), "metrics": {}, "seconds": 0})
    return False


def main(replays: int = 200) -> None:
    curves = Curves(CURVES)
    spread = curves.objective.std()
    print(
        f"{curves.trials} configurations x {curves.folds} folds x {curves.epochs} epochs; objective "
        f"{curves.objective.min():.3f} to {curves.objective.max():.3f}, standard deviation {spread:.3f}"
    )
    steps = curves.epochs * curves.folds
    rules: dict[str, Callable[[Curves], Race]] = {
        "race, 1 finalist a modality": lambda drawn: FoldRace(1, curves.epochs, curves.folds),
        "race, 2 finalists a modality": lambda drawn: FoldRace(2, curves.epochs, curves.folds),
        "asha": lambda drawn: Asha(steps),
        "median": lambda drawn: Median(),
        "wilcoxon": Wilcoxon,
        "none": lambda drawn: Never(),
    }
    for title, draw in (("all", curves.drawn), ("two thirds", lambda seed: curves.drawn(seed, 2 / 3))):
        print(f"{title:30} {'actors':>6} {'less training':>14} {'regret':>8} {'95 %':>6} {'worst':>6}")
        for actors in (1, 8):
            for name, rule in rules.items():
                seeds = range(_enough(name, replays))
                _row(name, [replay(part := draw(seed), rule(part), seed, actors) for seed in seeds], actors, spread)
            found = [
                replay(draw(seed), FoldRace(1, curves.epochs, curves.folds), seed, actors, grouped=False)
                for seed in range(replays)
            ]
            _row("race, modalities as one group", found, actors, spread)


def _enough(name: str, replays: int) -> int:
    return 1 if name == "none" else replays


def _row(name: str, found: list[Outcome], actors: int, spread: float) -> None:
    cost = float(np.mean([item.cost for item in found]))
    regret = np.array([item.regret for item in found]) / spread
    print(
        f"{name:30} {actors:6} {1 / cost:13.1f}x {regret.mean():8.3f} {np.quantile(regret, 0.95):6.2f} "
        f"{regret.max():6.2f}",
        flush=True,
    )


if __name__ == "__main__":
    start = time.monotonic()
    main(*(int(value) for value in sys.argv[1:2]))
    print(f"took {time.monotonic() - start:.0f} s")
