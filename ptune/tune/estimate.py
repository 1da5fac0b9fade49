"""What a study would take, before it starts: its space, what the ledger has, and hours by a measured probe.

Writes nothing but an empty home and needs no Ray.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptune.config import StreamConfig, StudyConfig
from ptune.config.study import Dimension, Value
from ptune.errors import ConfigError
from ptune.extract.estimate import USUAL_ASPECT, Estimate, estimate
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, read_study
from ptune.tune.plan import Plan, plan_of, read_inputs
from ptune.tune.probe import Pace, measure
from ptune.tune.space import Params, all_points, groups, start_points

#: Of a finite space with more points, fits in the ledger are not looked for one by one.
LOOKED_FOR = 100


@dataclass(frozen=True)
class Cost:
    """One modality of a study.

    Args:
        points: of its space; None where it is continuous or too large to count.
        settings: median ones, which were measured.
        pace: measured.
        epoch_seconds, fit_seconds, trial_seconds: on one actor.
    """

    group: str
    points: int | None
    settings: Params
    pace: Pace
    epoch_seconds: float
    fit_seconds: float
    trial_seconds: float


@dataclass(frozen=True)
class StudyEstimate:
    """The cost of a study.

    Args:
        trials: to run at most, those that have ended not counted.
        ended: trials that have.
        fits_there: finished fits of this study, of its start points and of a small finite space.
        actors: trials at once, assumed.
        share: GPUs of an actor; 0 without.
        costs: one per modality.
        extraction: of what features lack.
        limits: hours after which each budget ends the study, if every trial is cross-validated in full.
    """

    study: str
    trials: int
    ended: int
    folds: int
    fits_there: int
    actors: int
    share: float
    costs: tuple[Cost, ...]
    extraction: Estimate
    limits: dict[str, float]

    @property
    def first(self) -> str:
        """The budget that ends the study first."""
        return min(self.limits, key=lambda name: self.limits[name])

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self) | {"extraction": self.extraction.facts(), "ends_first": self.first}

    def text(self) -> str:
        """Returns what a terminal shows."""
        lines = [
            f"study {self.study}: at most {self.trials} trials of {self.folds} folds, {self.trials * self.folds} fits",
            f"{self.ended} trials have ended; the ledger has {self.fits_there} fits that are reused",
            "features: " + self.extraction.text().replace("\n", "\n  "),
            "",
        ]
        for cost in self.costs:
            size = "a continuous or very large space" if cost.points is None else f"{cost.points} points"
            lines += [
                f"{cost.group}: {size}; {_time(cost.epoch_seconds)} an epoch, {_time(cost.fit_seconds)} a fit, "
                f"{_time(cost.trial_seconds)} a trial of all folds",
                f"  measured: {cost.pace.how}",
                "  settings: " + (", ".join(f"{name} {_shown(value)}" for name, value in cost.settings.items()) or "-"),
            ]
        device = f"{self.share:g} GPU each" if self.share else "CPU"
        lines += [
            "",
            f"In full, on {self.actors} actors ({device}); what is stopped early takes less:",
            *(f"  {name}: ends after {_time(hours * 3600)}" for name, hours in self.limits.items()),
            f"The budget of {self.first} ends the study first.",
        ]
        return "\n".join(lines)


def estimate_study(config: StudyConfig, folder: Path, home: Home, workers: int | None = None) -> StudyEstimate:
    """Returns what running a study on this machine would take.

    Args:
        folder: where the study's relative paths start.
        workers: CPU cores; default all.

    Raises:
        BadInput: what `sweep` would refuse.
    """
    manifest, initial_weights = read_inputs(config, folder, home)
    past = read_study(Ledger(home.ledger), config.study)
    plan = plan_of(config, manifest, initial_weights, home, past)
    costs = tuple(_cost(plan, group) for group in groups(config))
    points = [cost.points for cost in costs]
    known = [trial for trial in past.trials.values() if trial.revision == past.revision] if past else []
    ended = sum(trial.state != "running" for trial in known)
    trials = config.budget.trials if None in points else min(config.budget.trials, sum(point or 0 for point in points))
    share, actors = _actors(config, workers)
    left = max(trials - ended, 0)
    return StudyEstimate(
        study=config.study,
        trials=left,
        ended=ended,
        folds=config.folds.count,
        fits_there=_fits_there(plan, past),
        actors=actors,
        share=share,
        costs=costs,
        extraction=estimate(manifest.videos, config.extraction, home, workers),
        limits=_limits(config, costs, left, actors, share, sum(trial.seconds for trial in known)),
    )


def _cost(plan: Plan, group: str) -> Cost:
    config = plan.config
    settings = median_point(config, group)
    stream = config.stream(settings)
    extraction, videos, folds = config.extraction, len(plan.videos), config.folds.count
    width = round(extraction.height * USUAL_ASPECT) if extraction.keep_aspect else extraction.width
    pace = measure(stream, len(config.grouping.names), extraction.height, width)
    held_out = videos / folds
    fit = pace.fit_seconds(stream, videos - held_out, held_out)
    points = all_points(config, group)
    size = None if points is None else len(points)
    return Cost(group, size, settings, pace, pace.epoch_seconds(stream, videos - held_out, held_out), fit, fit * folds)


def median_point(config: StudyConfig, group: str) -> Params:
    """Returns the point of a group whose settings are the middle of their ranges, by logarithm where the range is."""
    point: Params = {"modality": group} if "modality" in config.space else {}
    for name in config.space:
        if name != "modality" and all(
            point.get(other, _median(config.space[other])) == value for other, value in config.space[name].when.items()
        ):
            point[name] = _median(config.space[name])
    try:
        config.stream(point)
    except ConfigError as error:
        raise ConfigError(
            f"study {config.study!r}", f"its median settings contradict each other ({error.found})"
        ) from None
    return point


def _median(dimension: Dimension) -> Value:
    if dimension.choice is not None:
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in dimension.choice)
        ordered = sorted(dimension.choice) if numbers else list(dimension.choice)
        # Of two in the middle the larger one: it costs more.
        return ordered[len(ordered) // 2] if numbers else ordered[0]
    low, high = dimension.int_ or dimension.float_ or (0, 0)
    middle = math.sqrt(low * high) if dimension.log else (low + high) / 2
    return round(middle) if dimension.int_ is not None else middle


def _fits_there(plan: Plan, past: StudyFacts | None) -> int:
    ledger, config = Ledger(plan.home.ledger), plan.config
    streams: dict[str, StreamConfig] = {}
    for group in groups(config):
        points = all_points(config, group) or []
        listed = points if len(points) <= LOOKED_FOR else []
        for point in [*listed, *_whole(start_points(config, group), group, config)]:
            streams |= _stream(config, point)
    for trial in past.trials.values() if past else ():
        streams |= _stream(config, trial.params)
    return sum(
        ledger.find_fit(plan.spec(stream, fold).signature()) is not None
        for stream in streams.values()
        for fold in plan.order
    )


def _stream(config: StudyConfig, point: Params) -> dict[str, StreamConfig]:
    """Returns the stream of a point under its signature; nothing where the settings contradict each other."""
    try:
        stream = config.stream(point)
    except ConfigError:
        return {}
    return {stream.signature(): stream}


def _whole(points: Sequence[Params], group: str, config: StudyConfig) -> list[Params]:
    """Returns points with their modality, without those that leave something open."""
    named = [({"modality": group} if "modality" in config.space else {}) | point for point in points]
    return [point for point in named if set(point) == set(config.space)]


def _actors(config: StudyConfig, workers: int | None) -> tuple[float, int]:
    """Returns the GPUs of an actor, and how many actors this machine holds."""
    import torch

    gpus = torch.cuda.device_count()
    share = config.resources.gpu if config.resources.gpu is not None else float(gpus > 0)
    rooms = [(workers or os.cpu_count() or 1) / config.resources.cpu]
    if share:
        rooms.append(max(gpus, 1) / share)
    return share, max(1, int(min(rooms) + 1e-9))


def _limits(
    config: StudyConfig, costs: Sequence[Cost], trials: int, actors: int, share: float, spent: float
) -> dict[str, float]:
    each = sum(cost.trial_seconds for cost in costs) / len(costs) / 3600
    limits = {"trials": trials * each / actors}
    if config.budget.gpu_hours is not None:
        rate = share or 1.0
        limits["gpu_hours"] = max(config.budget.gpu_hours - spent / 3600 * rate, 0.0) / rate / actors
    if config.budget.hours is not None:
        limits["hours"] = config.budget.hours
    return limits


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()


def _time(seconds: float) -> str:
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "minutes"), (172_800, 3600, "hours")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:.3g} days"
