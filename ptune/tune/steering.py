"""What a person types to steer a study becomes requests that fit it; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptune.config import nearest
from ptune.config.study import Dimension, Value
from ptune.errors import BadInput
from ptune.replay import StudyFacts
from ptune.steer import AddTrial, LimitGpus, StopTrial


def trial_to_add(facts: StudyFacts, settings: Sequence[str]) -> AddTrial:
    """Returns the request for a point of the study's space.

    Args:
        settings: `name=value`, one for each searched setting whose condition holds.

    Raises:
        BadInput: they are no point of the space, or a trial has it already; says all that is wrong.
    """
    where, space = f"trial of study {facts.config.study!r}", facts.config.space
    if facts.config.points:
        found = "its trials are listed, not searched"
        raise BadInput(where, found, "a study with a search space", "Add it to the file.")
    params: dict[str, Any] = {}
    problems = []
    for text in settings:
        name, separator, value = text.partition("=")
        if name in params:
            problems.append(f"{name} is given twice")
        elif not separator or name not in space:
            problems.append(
                f"{name!r} is not searched{nearest(name, list(space))}" if separator else f"{text!r} lacks ="
            )
        else:
            try:
                params[name] = _read(space[name], value)
            except ValueError:
                problems.append(f"{name} is {value!r}, which is not {_allowed(space[name])}")
    if not problems:
        needed = {name for name, dimension in space.items() if _holds(dimension, params)}
        problems += [f"{name} is missing, {_allowed(space[name])}" for name in space if name in needed - set(params)]
        problems += [f"{name} is given, but {_condition(space[name])} does not hold" for name in set(params) - needed]
    if problems:
        raise BadInput(where, "; ".join(problems), "one value for each searched setting", "Nothing was asked.")
    wanted = facts.config.stream(params).signature()
    for trial in facts.trials.values():
        if trial.revision == facts.revision and facts.stream(trial).signature() == wanted:
            raise BadInput(where, f"trial {trial.number} has these settings ({trial.state})", "a new point")
    return AddTrial(params)


def trial_to_stop(facts: StudyFacts, number: int) -> StopTrial:
    """Returns the request to end a trial.

    Raises:
        BadInput: there is no such trial, or it has ended.
    """
    trial = facts.trials.get(number)
    running = [str(other.number) for other in facts.trials.values() if other.state == "running"]
    if trial is None or trial.state != "running":
        found = "does not exist" if trial is None else f"is {trial.state}"
        expected = f"one that runs or waits: {', '.join(running)}" if running else "one that runs or waits; none does"
        raise BadInput(f"trial {number} of study {facts.config.study!r}", found, expected)
    return StopTrial(number)


def gpus_to_use(facts: StudyFacts, most: int) -> LimitGpus:
    """Returns the request to use so many GPUs at once at most.

    Raises:
        BadInput: the study uses none, or a trial needs more.
    """
    each = facts.config.resources.gpu
    if each == 0 or (each or 0) > most:
        found = "uses none" if each == 0 else f"needs {each:g} for one trial"
        raise BadInput(f"GPUs of study {facts.config.study!r}", found, f"that {most} could be a limit")
    return LimitGpus(most)


def _read(dimension: Dimension, text: str) -> Value:
    """Raises ValueError where the text is no value of the dimension."""
    value: Value
    if dimension.choice is not None:
        named = {word: choice for choice in dimension.choice for word in _words(choice)}
        if text.lower() in named:
            return named[text.lower()]
        value = float(text)
        if value in dimension.choice and not isinstance(dimension.choice[dimension.choice.index(value)], bool):
            return dimension.choice[dimension.choice.index(value)]
        raise ValueError(text)
    value = int(text) if dimension.int_ is not None else float(text)
    low, high = dimension.int_ or dimension.float_ or (value, value)
    if not low <= value <= high:
        raise ValueError(text)
    return value


def _words(choice: Value) -> tuple[str, ...]:
    if isinstance(choice, bool):
        return ("true", "yes") if choice else ("false", "no")
    return (str(choice).lower(),)


def _allowed(dimension: Dimension) -> str:
    if dimension.choice is not None:
        return "one of " + ", ".join(str(choice).lower() for choice in dimension.choice)
    low, high = dimension.values()
    return f"{'a whole number' if dimension.int_ else 'a number'} from {low:g} to {high:g}"


def _holds(dimension: Dimension, params: dict[str, Any]) -> bool:
    return all(params.get(other) == value for other, value in dimension.when.items())


def _condition(dimension: Dimension) -> str:
    return " and ".join(f"{other} {str(value).lower()}" for other, value in dimension.when.items())
