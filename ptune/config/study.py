"""What determines a study: cohort, task, objective, folds, budget and the search space, as in the YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ptune.config.base import Strict, load_yaml, nearest, signature_of
from ptune.config.extraction import ExtractConfig
from ptune.config.stream import ClassGrouping, Initial, StreamConfig
from ptune.config.systems import settings_of
from ptune.errors import ConfigError

Value = bool | int | float | str
MetricName = Literal["f1_weighted", "f1_macro", "accuracy", "balanced_accuracy", "kappa_quadratic"]


class Objective(Strict):
    """The pooled out-of-fold metric that the search improves."""

    metric: MetricName = "f1_weighted"
    mode: Literal["max"] = "max"


class FoldsConfig(Strict):
    """Subject-disjoint cross-validation."""

    count: int = Field(5, ge=2)
    seed: int = 0


class Budget(Strict):
    """When to stop: after so many trials, GPU-hours of all launches, or hours of this launch."""

    trials: int = Field(64, ge=1)
    gpu_hours: float | None = Field(None, gt=0)
    hours: float | None = Field(None, gt=0)


class Resources(Strict):
    """What an actor that trains one fit at a time gets: a fraction of a GPU shares it, 0 trains on the CPU.

    Args:
        gpu: default 1 where Ray has GPUs or is to get some, else 0.
        cpu: cores.
        max_gpus: so many GPUs are used at once at most, and asked for even where there are fewer now: a cluster that
            grows does. Default: those that are there.
        accelerator: kind of GPU as Ray calls it, such as A100; trials run nowhere else.
        checkpoint_seconds: what the loss of a node costs at most; less for nodes that come and go.
    """

    gpu: float | None = Field(None, ge=0)
    cpu: float = Field(1.0, gt=0)
    max_gpus: int | None = Field(None, ge=1)
    accelerator: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    checkpoint_seconds: float = Field(20.0, gt=0)

    @model_validator(mode="after")
    def _limit_has_room(self) -> Self:
        if self.gpu == 0 and (self.max_gpus or self.accelerator):
            raise ValueError("gpu is 0, so that max_gpus and accelerator say nothing; leave them out")
        if self.gpu and self.max_gpus and self.gpu > self.max_gpus:
            raise ValueError(f"one trial takes {self.gpu:g} GPUs, more than max_gpus")
        return self


class Finalists(Strict):
    """Each value of `per` keeps its own incumbent, its share of the trials and `count` full cross-validations."""

    per: Literal["modality"] = "modality"
    count: int = Field(2, ge=1)


class Ensemble(Strict):
    """What the registered model is made of: the best fusion with at least this many streams."""

    fewest_streams: int = Field(1, ge=1)


class Dimension(Strict):
    """One searched setting: exactly one of choice, int, float; `when` names the settings it depends on."""

    choice: tuple[Value, ...] | None = None
    int_: tuple[int, int] | None = Field(None, alias="int")
    float_: tuple[float, float] | None = Field(None, alias="float")
    log: bool = False
    when: dict[str, Value] = {}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in (self.choice, self.int_, self.float_) if kind is not None]
        if len(kinds) != 1:
            raise ValueError("needs exactly one of choice, int, float")
        bounds = self.int_ or self.float_
        if bounds and bounds[0] > bounds[1]:
            raise ValueError(f"lower bound {bounds[0]} is above upper bound {bounds[1]}")
        if self.log and (not bounds or bounds[0] <= 0):
            raise ValueError("log needs an int or float range above 0")
        if self.choice is not None and not self.choice:
            raise ValueError("choice is empty")
        return self

    def contains(self, value: Any) -> bool:
        """Returns whether a value is one of the dimension's; True is no number here, and 2.5 no int."""
        if self.choice is not None:
            return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in self.choice)
        kinds = (int,) if self.int_ else (int, float)
        bounds = self.int_ or self.float_
        return bounds is not None and type(value) in kinds and bounds[0] <= value <= bounds[1]

    def values(self) -> tuple[Value, ...]:
        """Returns extreme values of the dimension, to check that settings accept them."""
        return self.choice if self.choice is not None else tuple(self.int_ or self.float_ or ())


def stream_from(settings: dict[str, Any], where: str) -> StreamConfig:
    """Builds a stream from flat settings; a dot in a key goes one level down (`focal.alpha`)."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        parts = key.split(".")
        target = nested
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ValueError(f"{key!r} contradicts another setting")
        target[parts[-1]] = dict(value) if isinstance(value, dict) else value
    return StreamConfig.parse(nested, where)


def trial_stream(settings: dict[str, Any], init: Initial, where: str) -> StreamConfig:
    """Builds the stream of a trial from flat settings, among which `system` and `seed` may be.

    Args:
        init: where neither the settings nor their system say otherwise.
    """
    own = {name: value for name, value in settings.items() if name not in ("system", "seed")}
    if "system" in settings:
        modality = str(own.get("modality", StreamConfig.model_fields["modality"].default))
        own = settings_of(str(settings["system"]), modality) | own
    return stream_from({"init": init} | own, where)


def identity_of(stream: StreamConfig, seed: int) -> str:
    """Returns what two trials that train the same have in common."""
    return f"{stream.signature()} {seed}"


class StudyConfig(Strict):
    """One study, as written in a file of search_spaces/.

    Args:
        cohort: path of the manifest, relative to the YAML file.
        start_from: points that run first; `paper` is the paper's settings, a mapping gives some or all of a point.
        warm_start: studies of the same task and objective, from whose trials the search learns.
        search: who proposes points; `grid` lists those of a finite space.
        stopping: which trials are cut short; see ptune.tune.race and ptune.tune.rules.
        points: the settings of exactly these trials, in place of a search. A point may name its `seed`.
        fixed: settings that all trials share. Here and in the space, `system` takes what a system of
            `ptune.config.systems` brings, as far as nothing else is said.
        seeds of folds, search and fits all derive from `folds.seed` and `seed`.
    """

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    cohort: str
    task: str
    objective: Objective = Objective()
    folds: FoldsConfig = FoldsConfig()
    budget: Budget = Budget()
    resources: Resources = Resources()
    start_from: tuple[Literal["paper"] | dict[str, Value], ...] = ()
    warm_start: tuple[str, ...] = ()
    finalists: Finalists = Finalists()
    ensemble: Ensemble = Ensemble()
    init: Initial = "kinetics"
    seed: int = 0
    search: Literal["tpe", "random", "grid"] = "tpe"
    stopping: Literal["race", "asha", "median", "none"] = "race"
    grouping: ClassGrouping = ClassGrouping()
    extraction: ExtractConfig = ExtractConfig()
    space: dict[str, Dimension] = {}
    points: tuple[dict[str, Any], ...] = ()
    fixed: dict[str, Any] = {}

    @field_validator("stopping", mode="before")
    @classmethod
    def _named_as_today(cls, stopping: Any) -> Any:
        # What ledgers of version 0.1 say.
        return "race" if stopping == "halving" else stopping

    @field_validator("space")
    @classmethod
    def _modality_is_closed(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        if "epochs" in space:
            raise ValueError("epochs cannot be searched, trials are compared epoch by epoch; put it under fixed")
        if "seed" in space:
            raise ValueError("seed is no setting to search; list points that name their seeds")
        for name, dimension in space.items():
            for other in dimension.when:
                if other not in space:
                    hint = nearest(other, list(space))
                    raise ValueError(f"{name!r} depends on {other!r}, which is not searched{hint}")
        return space

    @model_validator(mode="after")
    def _listed_or_searched(self) -> Self:
        if not self.space and not self.points:
            raise ValueError("search space is empty")
        if not self.points:
            return self
        fields = type(self).model_fields
        others = ("space", "start_from", "warm_start", "search")
        given = [name for name in others if getattr(self, name) != fields[name].default]
        if given:
            raise ValueError(f"points are the whole study: {', '.join(given)} cannot be given beside them")
        if len({self.identity(point) for point in self.points}) != len(self.points):
            raise ValueError("two points are the same stream with the same seed")
        if self.stopping != "none" and len({self.stream(point).epochs for point in self.points}) > 1:
            raise ValueError("points differ in epochs, and trials are compared epoch by epoch; set stopping: none")
        return self

    @model_validator(mode="after")
    def _streams_exist(self) -> Self:
        if not self.space:
            return self
        for start in self.start_from:
            for name, value in start.items() if isinstance(start, dict) else ():
                if name not in self.space:
                    raise ValueError(
                        f"start_from names {name!r}, which is not searched{nearest(name, list(self.space))}"
                    )
                if not self.space[name].contains(value):
                    raise ValueError(f"start_from gives {name!r} the value {value!r}, which is not in its space")
        if self.search == "grid" and any(dimension.float_ for dimension in self.space.values()):
            raise ValueError("a grid needs choices and ints; give floats as choices")
        twice = sorted(set(self.space) & set(self.fixed))
        if twice:
            raise ValueError(f"{', '.join(twice)} is both searched and fixed")
        first = {name: dimension.values()[0] for name, dimension in self.space.items()}
        base = self.fixed | first
        for name, dimension in self.space.items():
            for value in dimension.values():
                trial_stream(base | {name: value}, self.init, f"search space, {name}")
        return self

    def signature(self) -> str:
        """Returns the identity of the study; where it runs is not part of it."""
        return signature_of(self.model_dump(mode="json", exclude={"resources"}))

    @property
    def varied(self) -> tuple[str, ...]:
        """Names of the settings in which trials may differ."""
        return tuple(dict.fromkeys([*self.space, *(name for point in self.points for name in point)]))

    def stream(self, params: dict[str, Any]) -> StreamConfig:
        """Returns the stream of a trial."""
        return trial_stream(self.fixed | params, self.init, "trial")

    def seed_of(self, params: dict[str, Any]) -> int:
        """Returns the seed of a trial's fits."""
        return int(params.get("seed", self.seed))

    def identity(self, params: dict[str, Any]) -> str:
        """Returns what two trials of the study that train the same have in common."""
        return identity_of(self.stream(params), self.seed_of(params))

    @classmethod
    def load(cls, path: Path) -> StudyConfig:
        """Reads a study from YAML.

        Raises:
            ConfigError: missing file, no YAML, unknown key or impossible value.
        """
        values = load_yaml(path)
        if isinstance(values, dict) and "ablation" in values:
            raise ConfigError(path.name, "an ablation", "a study", "Run it with `ptune ablate`.")
        return cls.parse(values, path.name)
