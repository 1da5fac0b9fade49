"""What a study would take, before it starts: its space counted, the ledger read, real training steps timed.

Writes nothing and needs no Ray.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ptune.config import FocalConfig, StudyConfig
from ptune.errors import ConfigError
from ptune.extract import estimate as extraction
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, TrialFacts, read_study
from ptune.train.device import Acceleration
from ptune.train.probe import Speed, measure
from ptune.tune.changes import refuse_changes, same_search
from ptune.tune.plan import Plan, plan_of, read_inputs, without_known_problems
from ptune.tune.space import Params, all_points, count_points, groups, usual_points

#: What whole training steps that are timed may take, over all modalities.
STEP_LIMIT_SECONDS = 6.0
#: Settings that change nothing in what a step costs.
ALIKE = {"focal": FocalConfig(), "attention": True, "dropout": 0.0, "learning_rate": 1e-5}
#: Of a space with more points, fits in the ledger are not looked for point by point.
LOOKED_FOR = 100


@dataclass(frozen=True)
class GroupCost:
    """What one modality costs.

    Args:
        points: of its space; None where it is continuous.
        trials: its share of those left to run.
        epoch_seconds, fit_seconds: on one actor.
        scaled: whether a smaller step was timed and its time multiplied.
    """

    points: int | None
    trials: float
    epoch_seconds: float
    fit_seconds: float
    scaled: bool


@dataclass(frozen=True)
class StudyEstimate:
    """What a study would take.

    Args:
        trials: the study can have at most, by budget and space.
        ended: of those, in the ledger.
        fits: to be trained at most.
        reused: fits of unfinished trials, or of points of a small space, that the ledger has.
        share: what an hour of an actor counts of the budget of GPU-hours: its share of a GPU, 1 on a CPU.
        spent_hours: that the ledger knows of, as the budget counts them.
        full_hours: of a full cross-validation of all trials that are left, as the budget counts them.
        raced_hours: with early stopping: all but the finalists stop after an epoch, or after a fold. None where
            nothing is stopped early.
        actors: fits that run at once.
        device: cuda or cpu.
    """

    study: str
    folds: int
    trials: int
    ended: int
    fits: int
    reused: int
    groups: dict[str, GroupCost]
    extraction: extraction.Estimate
    share: float
    spent_hours: float
    full_hours: float
    raced_hours: tuple[float, float] | None
    actors: int
    device: str
    gpu_hours: float | None
    hours: float | None

    @property
    def ends_first(self) -> str:
        """Which budget ends the study: trials, gpu_hours or hours; several, joined by "or", where the race decides."""
        limits = {"trials": float("inf")}
        if self.gpu_hours is not None:
            limits["gpu_hours"] = max(0.0, self.gpu_hours - self.spent_hours)
        if self.hours is not None:
            limits["hours"] = self.hours * self.actors * self.share
        tightest = min(limits, key=lambda name: limits[name])
        least, most = self.raced_hours or (self.full_hours, self.full_hours)
        if limits[tightest] >= most:
            return "trials"
        return tightest if limits[tightest] < least else f"{tightest} or trials"

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self) | {"extraction": self.extraction.facts(), "ends_first": self.ends_first}

    def text(self) -> str:
        """Returns a page for a terminal."""
        lines = [
            f"{self.study}: at most {self.trials} trials of {self.folds} folds, {self.ended} have ended",
            f"at most {self.fits} fits to train; {self.reused} are there already",
        ]
        for name, cost in self.groups.items():
            points = "a continuous space" if cost.points is None else f"{cost.points} points"
            lines.append(
                f"  {name}: {points}; {_duration(cost.epoch_seconds)} an epoch, {_duration(cost.fit_seconds)} a fit, "
                f"{_duration(cost.fit_seconds * self.folds)} a trial"
            )
        if self.extraction.videos:
            lines += ["Features:", *(f"  {line}" for line in self.extraction.text().splitlines())]
        else:
            lines.append("Features of all videos are there.")
        lines.append(f"Full cross-validation of all: {self._cost(self.full_hours)}")
        if self.raced_hours is not None:
            low, high = self.raced_hours
            lines.append(f"With early stopping: {low:.3g} to {self._cost(high)}")
            lines.append("  (all but the finalists stop after one epoch, or after one fold)")
        if self.gpu_hours is not None:
            counted = "" if self.device == "cuda" else ", which a CPU's core counts as a GPU"
            lines.append(f"Budget of gpu_hours: {self.gpu_hours:g}, {self.spent_hours:.3g} spent{counted}")
        if self.hours is not None:
            lines.append(f"Budget of hours: {self.hours:g}")
        lines += [f"What ends the study first: {self.ends_first}", self._method()]
        return "\n".join(lines)

    def _cost(self, hours: float) -> str:
        unit = "GPU-hours" if self.device == "cuda" else "core-hours"
        seconds = hours * 3600 / self.share / self.actors
        return f"{hours:.3g} {unit}, {_duration(seconds)} with {self.actors} fits at once"

    def _method(self) -> str:
        where = "this machine's GPU" if self.device == "cuda" else "one core of this machine"
        how = "a smaller step, multiplied" if any(cost.scaled for cost in self.groups.values()) else "whole steps"
        return (
            f"Measured on {where} with noise of the features' size at middle settings of the space: {how}, "
            f"and a few scored snippets."
        )


def estimate_study(config: StudyConfig, folder: Path, home: Home, workers: int | None = None) -> StudyEstimate:
    """Returns what running, resuming or extending a study on this machine would take.

    Args:
        folder: where the study's relative paths start.
        workers: CPU cores; default all.

    Raises:
        BadInput: something the user gave cannot be used.
        StudyChanged: a study of this name has other folds, another task or objective.
    """
    manifest, initial_weights = read_inputs(config, folder, home)
    ledger = Ledger(home.ledger)
    past = read_study(ledger, config.study)
    if past is not None:
        refuse_changes(config, past)
    plan = plan_of(config, without_known_problems(manifest, config, home), initial_weights, home, past)
    present = _present(config, past)
    ended = sum(trial.state != "running" for trial in present)
    points = {name: count_points(config, name) for name in groups(config)}
    trials = _trials(config, list(points.values()), ended)
    left, count = trials - ended, config.folds.count
    reused = _reused(plan, ledger, present)
    acceleration = Acceleration.best()
    share, actors = _actors(config, workers, acceleration.device.type)
    costs = {name: _group_cost(plan, name, points[name], left / len(points), acceleration) for name in points}
    full = sum(cost.trials * count * cost.fit_seconds for cost in costs.values())
    saved = reused * sum(cost.fit_seconds for cost in costs.values()) / len(costs)
    return StudyEstimate(
        study=config.study,
        folds=count,
        trials=trials,
        ended=ended,
        fits=max(0, left * count - reused),
        reused=reused,
        groups=costs,
        extraction=extraction.estimate(manifest.videos, config.extraction, home, workers),
        share=share,
        spent_hours=share * sum(trial.seconds for trial in past.trials.values()) / 3600 if past else 0.0,
        full_hours=share * max(0.0, full - saved) / 3600,
        raced_hours=None if config.stopping == "none" else _raced(config, costs, share),
        actors=actors,
        device=acceleration.device.type,
        gpu_hours=config.budget.gpu_hours,
        hours=config.budget.hours,
    )


def _present(config: StudyConfig, past: StudyFacts | None) -> list[TrialFacts]:
    """Returns the trials that count; with another space the study gets a new revision, and none do."""
    if past is None or not same_search(past.config, config):
        return []
    return [trial for trial in past.trials.values() if trial.revision == past.revision]


def _trials(config: StudyConfig, points: list[int | None], ended: int) -> int:
    listed = [number for number in points if number is not None]
    size = sum(listed) if len(listed) == len(points) else config.budget.trials
    return max(ended, min(config.budget.trials, size))


def _reused(plan: Plan, ledger: Ledger, present: list[TrialFacts]) -> int:
    """Returns how many fits are there of trials that have not ended, and of points that none has tried."""
    config = plan.config
    signatures: dict[str, bool] = {}
    for trial in present:
        signatures |= _fits(plan, trial.params, trial.state == "running")
    for group in groups(config):
        if (count_points(config, group) or LOOKED_FOR + 1) <= LOOKED_FOR:
            for point in all_points(config, group) or ():
                signatures = _fits(plan, point, True) | signatures
    return sum(
        counts and ledger.find_fit(signature, verify=False) is not None for signature, counts in signatures.items()
    )


def _fits(plan: Plan, point: Params, counts: bool) -> dict[str, bool]:
    """Returns the signatures of a point's fits; none where its settings contradict each other."""
    try:
        return {plan.spec(point, fold).signature(): counts for fold in plan.order}
    except ConfigError:
        return {}


def _actors(config: StudyConfig, workers: int | None, device: str) -> tuple[float, int]:
    """Returns what an actor counts as, and how many of them this machine holds."""
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    share = config.resources.gpu if config.resources.gpu is not None else float(gpus > 0)
    rooms = [(workers or os.cpu_count() or 1) / config.resources.cpu]
    if share:
        rooms.append(gpus / share)
    return share or 1.0, max(1, int(min(rooms) + 1e-9))


def _group_cost(plan: Plan, group: str, points: int | None, trials: float, acceleration: Acceleration) -> GroupCost:
    config = plan.config
    streams = Counter(config.stream(point).model_copy(update=ALIKE) for point in usual_points(config, group))
    sizes = config.extraction
    width = round(sizes.height * extraction.USUAL_ASPECT) if sizes.keep_aspect else sizes.width
    limit = STEP_LIMIT_SECONDS / len(groups(config)) / len(streams)
    held_out = len(plan.videos) / config.folds.count
    trained = len(plan.videos) - held_out
    epoch = fit = 0.0
    scaled = False
    for stream, count in streams.items():
        speed: Speed = measure(stream, sizes.height, width, acceleration, limit)
        epoch += count * speed.epoch_seconds(stream, trained, held_out)
        fit += count * speed.fit_seconds(stream, trained, held_out)
        scaled = scaled or speed.scaled
    total = streams.total()
    return GroupCost(points, trials, epoch / total, fit / total, scaled)


def _raced(config: StudyConfig, costs: dict[str, GroupCost], share: float) -> tuple[float, float]:
    """Returns hours where all but the finalists stop after one epoch, and after one fold."""
    least = most = 0.0
    for cost in costs.values():
        finalists = min(config.finalists.count, cost.trials)
        full = finalists * config.folds.count * cost.fit_seconds
        least += full + (cost.trials - finalists) * cost.epoch_seconds
        most += full + (cost.trials - finalists) * cost.fit_seconds
    return share * least / 3600, share * most / 3600


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.2g} s"
