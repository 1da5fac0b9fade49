"""What determines an ablation: cells in rows and columns, each the fusion of some streams, for one or more tasks.

A cell is an expression over fits: streams that several cells share are trained once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ptune.config.base import Strict, load_yaml, nearest, signature_of
from ptune.config.extraction import ExtractConfig
from ptune.config.stream import ClassGrouping, Initial, Modality
from ptune.config.study import (
    Budget,
    FoldsConfig,
    Objective,
    Resources,
    StudyConfig,
    identity_of,
    trial_stream,
)
from ptune.errors import ConfigError

Settings = dict[str, Any]
#: What an ablation's studies have from it.
SHARED = {"objective", "folds", "resources", "init", "grouping", "extraction"}
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,47}$"


@dataclass(frozen=True)
class Cell:
    """One number of an ablation's table.

    Args:
        points: the settings of each stream whose scores are averaged.
    """

    task: str
    row: str
    column: str
    points: tuple[Settings, ...]

    @property
    def name(self) -> str:
        """The row, and the column where there are several."""
        return f"{self.row}, {self.column}" if self.column else self.row


class Place(Strict):
    """One cell of each task, which the others are compared with."""

    row: str
    column: str = ""


class Published(Strict):
    """Figures that others have published of the same cells on other data.

    Args:
        source: who and where.
        values: by task and row, one for each column.
    """

    source: str
    values: dict[str, dict[str, tuple[float, ...]]]


class AblationConfig(Strict):
    """One ablation, as written in a file of search_spaces/.

    Args:
        cohort: path of the manifest, relative to the YAML file.
        tasks: each is a study of its own, named after the ablation and the task.
        seeds: of fits; a cell's metric counts the predictions of all of them.
        fixed: settings of all streams, whatever their system says.
        rows: a modality alone stands for the proposed method's stream on it; else settings, with `system` for one of
            `ptune.config.systems`.
        columns: settings that each stream of a row takes in turn.
        reference: default the first row and column.
        like: study whose subjects keep their folds here.
    """

    ablation: str = Field(pattern=NAME)
    cohort: str
    tasks: tuple[str, ...] = Field(min_length=1)
    objective: Objective = Objective()
    folds: FoldsConfig = FoldsConfig()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    gpu_hours: float | None = Field(None, gt=0)
    resources: Resources = Resources()
    init: Initial = "kinetics"
    grouping: ClassGrouping = ClassGrouping()
    extraction: ExtractConfig = ExtractConfig()
    fixed: Settings = {}
    rows: dict[str, tuple[Modality | Settings, ...]] = Field(min_length=1)
    columns: dict[str, Settings] = Field({"": {}}, min_length=1)
    reference: Place | None = None
    published: Published | None = None
    like: str = ""

    @model_validator(mode="after")
    def _cells_exist(self) -> Self:
        for kind, values in (("tasks", self.tasks), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{kind} has a value twice")
        empty = [name for name, streams in self.rows.items() if not streams]
        if empty:
            raise ValueError(f"row {empty[0]!r} has no stream")
        place = self.compared_with
        for kind, name, known in (("row", place.row, self.rows), ("column", place.column, self.columns)):
            if name not in known:
                raise ValueError(f"reference names {kind} {name!r}, which is not there{nearest(name, list(known))}")
        self._check_published()
        for task in self.tasks:
            self.study(task)
        return self

    def _check_published(self) -> None:
        for task, rows in (self.published.values if self.published else {}).items():
            unknown = [row for row in rows if row not in self.rows]
            if task not in self.tasks or unknown:
                raise ValueError(f"published has {unknown[0] if unknown else task!r}, which is no row or task")
            for row, values in rows.items():
                if len(values) != len(self.columns):
                    raise ValueError(f"published, {row!r}: {len(values)} values for {len(self.columns)} columns")

    @property
    def compared_with(self) -> Place:
        """The cell of each task that the others are compared with."""
        return self.reference or Place(row=next(iter(self.rows)), column=next(iter(self.columns)))

    def cells(self, task: str) -> tuple[Cell, ...]:
        """Returns the cells of a task, row after row."""
        return tuple(
            Cell(task, row, column, tuple(_point(stream) | own for stream in streams))
            for row, streams in self.rows.items()
            for column, own in self.columns.items()
        )

    def study_name(self, task: str) -> str:
        """Returns the name of the study that trains the streams of a task."""
        return f"{self.ablation}-{re.sub(r'[^A-Za-z0-9]+', '-', task).strip('-')[:15]}"

    def study(self, task: str) -> StudyConfig:
        """Returns the study whose trials are the streams of a task's cells, each once for each seed."""
        base: Settings = {
            "study": self.study_name(task),
            "cohort": self.cohort,
            "task": task,
            "stopping": "none",
            "seed": self.seeds[0],
            "fixed": self.fixed,
        }
        base |= self.model_dump(mode="json", include=SHARED)
        points: dict[str, Settings] = {}
        for seed in self.seeds:
            for cell in self.cells(task):
                for point in cell.points:
                    own = seeded(point, seed, self.seeds)
                    stream = trial_stream(self.fixed | own, self.init, f"{self.ablation}, {cell.name}")
                    points.setdefault(identity_of(stream, seed), own)
        budget = Budget(trials=len(points), gpu_hours=self.gpu_hours)
        return StudyConfig.parse(base | {"points": list(points.values()), "budget": budget.model_dump()}, self.ablation)

    def signature(self) -> str:
        """Returns the identity of the ablation; where it runs and what others published is not part of it."""
        return signature_of(self.model_dump(mode="json", exclude={"resources", "published", "gpu_hours"}))


def seeded(point: Settings, seed: int, seeds: tuple[int, ...]) -> Settings:
    """Returns a point with its seed, which is named where there are several."""
    return point | {"seed": seed} if len(seeds) > 1 else point


def load_extended(path: Path) -> Any:
    """Reads a YAML document; `extends: FILE` takes another file's entries where this one has none.

    Raises:
        ConfigError: a file is missing or no YAML, or files extend each other in a circle.
    """
    values, seen = load_yaml(path), {path.resolve()}
    while isinstance(values, dict) and "extends" in values:
        below = path.parent / str(values.pop("extends"))
        if below.resolve() in seen:
            raise ConfigError(path.name, f"extends {below.name}, which extends it", "a file that stands by itself")
        seen.add(below.resolve())
        under = load_yaml(below)
        if not isinstance(under, dict):
            raise ConfigError(below.name, "is no mapping", "an ablation")
        values, path = under | values, below
    return values


def _point(stream: Modality | Mapping[str, Any]) -> Settings:
    if isinstance(stream, str):
        return {"modality": stream}
    return dict(stream)
