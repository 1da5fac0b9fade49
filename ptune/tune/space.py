"""A search space in ptune's words becomes Optuna's suggestions, one group (modality) at a time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ptune.config import StreamConfig, StudyConfig
from ptune.config.study import Dimension, Value

Params = dict[str, Any]
MOST_POINTS = 100_000


def groups(study: StudyConfig) -> tuple[str, ...]:
    """Returns the modalities of the study; each has its own incumbent and share of the trials."""
    if study.points:
        return tuple(dict.fromkeys(study.stream(point).modality for point in study.points))
    searched = study.space.get("modality")
    if searched is not None:
        return tuple(str(value) for value in searched.choice or ())
    return (str(study.fixed.get("modality", StreamConfig.model_fields["modality"].default)),)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Returns Optuna's form of one dimension."""
    if dimension.choice is not None:
        return CategoricalDistribution(dimension.choice)
    if dimension.int_ is not None:
        return IntDistribution(*dimension.int_, log=dimension.log)
    assert dimension.float_ is not None
    return FloatDistribution(*dimension.float_, log=dimension.log)


def suggest(trial: optuna.Trial, study: StudyConfig, group: str) -> Params:
    """Returns one point of the space within a group; a dimension whose condition does not hold is left out."""
    params: Params = {"modality": group} if "modality" in study.space else {}
    for name, dimension in _ordered(study.space):
        if name != "modality" and _holds(dimension, params):
            params[name] = _suggest(trial, name, dimension)
    return params


def _suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return trial.suggest_categorical(name, dimension.choice)
    if dimension.int_ is not None:
        return trial.suggest_int(name, *dimension.int_, log=dimension.log)
    assert dimension.float_ is not None
    return trial.suggest_float(name, *dimension.float_, log=dimension.log)


def distributions(study: StudyConfig, params: Params) -> dict[str, BaseDistribution]:
    """Returns the distributions of the dimensions that a point uses."""
    return {name: distribution(study.space[name]) for name in params if name != "modality"}


def start_points(study: StudyConfig, group: str) -> list[Params]:
    """Returns the points of `start_from` that belong to a group; Optuna draws what they leave open.

    `paper` is the paper's settings as far as the space contains them.
    """
    points = []
    for start in study.start_from:
        point = _paper_point(study) if start == "paper" else dict(start)
        if point.pop("modality", group) == group:
            points.append(point)
    return points


def fits_space(study: StudyConfig, params: Params) -> bool:
    """Returns whether a point has a value, within bounds, for each setting whose condition holds, and no other."""
    needed = {name for name, dimension in _ordered(study.space) if _holds(dimension, params)}
    return set(params) == needed and all(study.space[name].contains(params[name]) for name in needed)


def _paper_point(study: StudyConfig) -> Params:
    defaults = StreamConfig().model_dump()
    point: Params = {}
    for name, dimension in study.space.items():
        value: Any = defaults
        for part in name.split("."):
            value = value[part]
        if name != "modality" and dimension.contains(value):
            point[name] = value
    return point


def all_points(study: StudyConfig, group: str) -> list[Params] | None:
    """Returns every point of a finite group, or None when a dimension is continuous or there are too many to list."""
    if study.points:
        return [point for point in study.points if study.stream(point).modality == group]
    points: list[Params] = [{"modality": group}] if "modality" in study.space else [{}]
    for name, dimension in _ordered(study.space):
        if name == "modality":
            continue
        values: tuple[Value, ...]
        if dimension.choice is not None:
            values = dimension.choice
        elif dimension.int_ is not None:
            values = tuple(range(dimension.int_[0], dimension.int_[1] + 1))
        else:
            return None
        points = list(
            itertools.chain.from_iterable(
                [point | {name: value} for value in values] if _holds(dimension, point) else [point] for point in points
            )
        )
        if len(points) > MOST_POINTS:
            return None
    return points


def count_points(study: StudyConfig, group: str) -> int | None:
    """Returns how many points a group has without listing them, or None when it is continuous."""
    if study.points:
        return len(all_points(study, group) or ())
    conditions = {other for dimension in study.space.values() for other in dimension.when}
    counted: list[tuple[Params, int]] = [({"modality": group} if "modality" in study.space else {}, 1)]
    for name, dimension in _ordered(study.space):
        if name == "modality":
            continue
        if dimension.float_ is not None:
            return None
        low, high = dimension.int_ or (0, -1)
        values = dimension.choice if dimension.choice is not None else range(low, high + 1)
        following = []
        for point, count in counted:
            if not _holds(dimension, point):
                following.append((point, count))
            elif name in conditions:
                following += [(point | {name: value}, count) for value in values]
            else:
                following.append((point, count * len(values)))
        counted = following
    return sum(count for _, count in counted)


def usual_points(study: StudyConfig, group: str) -> list[Params]:
    """Returns points that cost what the group's points do on average.

    Those of a list; of a search one, with middle values of numbers and the first of other choices.
    """
    if study.points:
        return all_points(study, group) or []
    point: Params = {"modality": group} if "modality" in study.space else {}
    for name, dimension in _ordered(study.space):
        if name != "modality" and _holds(dimension, point):
            point[name] = _middle(dimension)
    return [point]


def _middle(dimension: Dimension) -> Value:
    if dimension.choice is not None:
        numbers = sorted(value for value in dimension.choice if isinstance(value, int | float))
        return numbers[len(numbers) // 2] if len(numbers) == len(dimension.choice) else dimension.choice[0]
    low, high = dimension.int_ or dimension.float_ or (0, 0)
    middle = math.sqrt(low * high) if dimension.log else (low + high) / 2
    return round(middle) if dimension.int_ is not None else middle


def _ordered(space: dict[str, Dimension]) -> list[tuple[str, Dimension]]:
    """Returns dimensions so that each comes after those it depends on."""
    done: dict[str, Dimension] = {}
    waiting = dict(space)
    while waiting:
        ready = [name for name, dimension in waiting.items() if all(other in done for other in dimension.when)]
        if not ready:
            raise ValueError(f"conditions of {', '.join(waiting)} depend on each other in a circle")
        for name in ready:
            done[name] = waiting.pop(name)
    return list(done.items())


def _holds(dimension: Dimension, params: Params) -> bool:
    return all(params.get(other) == value for other, value in dimension.when.items())
