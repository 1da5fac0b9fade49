"""A study's best fusion becomes an ablation that takes one of its components away at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ptune.config.ablation import NAME, AblationConfig, Settings, load_extended
from ptune.config.base import Strict
from ptune.config.study import StudyConfig, trial_stream
from ptune.errors import ConfigError

Component = Literal[
    "attention",
    "focal loss",
    "modalities",
    "segments",
    "pretraining",
    "scale jitter",
    "random crops",
    "mirroring",
    "exact mirroring",
]
COMPLETE = "complete"
#: What a stream is without a component. Modalities are left out of the fusion instead.
WITHOUT: dict[str, Settings] = {
    "attention": {"attention": False},
    "focal loss": {"focal": {"alpha": 1.0, "gamma": 0.0}},
    "segments": {"segments": 1},
    "pretraining": {"init": "random", "trainable": "all", "frozen_norm": "none"},
    "scale jitter": {"augment.scales": [1.0]},
    "random crops": {"augment.scales": []},
    "mirroring": {"augment.mirror": "none"},
    "exact mirroring": {"augment.mirror": "image"},
}


class LeaveOneOut(Strict):
    """Which components of which study's best fusion are taken away, as written in a file of search_spaces/.

    Args:
        study: in the home; its task, folds, objective and settings are the ablation's.
        cohort: path of the study's manifest, relative to the YAML file.
        seeds: default the study's, with which it has the complete fusion already.
        remove: components that a stream does not have are passed over.
    """

    ablation: str = Field(pattern=NAME)
    study: str
    cohort: str
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    gpu_hours: float | None = Field(None, gt=0)
    remove: tuple[Component, ...] = Field(min_length=1)

    def resolve(self, study: StudyConfig, members: Mapping[str, Settings]) -> AblationConfig:
        """Returns the ablation of a fusion.

        Args:
            study: as its ledger has it.
            members: all settings of each fused stream, by its name in the fusion.

        Raises:
            ConfigError: there is nothing to take away.
        """
        rows = {COMPLETE: list(members.values())}
        for component in self.remove:
            rows |= _without(component, members, study)
        if len(rows) == 1:
            raise ConfigError(
                self.ablation, f"no stream of study {self.study!r} has {', '.join(self.remove)}", "something to remove"
            )
        points = [point for row in rows.values() for point in row]
        fixed = {name: value for name, value in points[0].items() if all(_same(point, name, value) for point in points)}
        own = {row: [_apart(point, fixed) for point in streams] for row, streams in rows.items()}
        values = study.model_dump(
            mode="json", include={"task", "objective", "folds", "resources", "init", "grouping", "extraction"}
        )
        values |= self.model_dump(mode="json", exclude={"study", "remove"})
        values |= {"seeds": self.seeds or (study.seed,), "tasks": [values.pop("task")], "like": self.study}
        values |= {"rows": own, "fixed": fixed}
        return AblationConfig.parse(values, self.ablation)


def read_ablation(path: Path) -> AblationConfig | LeaveOneOut:
    """Reads an ablation from YAML.

    Raises:
        ConfigError: missing file, no YAML, unknown key or impossible value.
    """
    values = load_extended(path)
    if isinstance(values, dict) and "space" in values:
        raise ConfigError(path.name, "a study", "an ablation", "Run it with `ptune sweep`.")
    if isinstance(values, dict) and "remove" in values:
        return LeaveOneOut.parse(values, path.name)
    return AblationConfig.parse(values, path.name)


def _without(component: str, members: Mapping[str, Settings], study: StudyConfig) -> dict[str, list[Settings]]:
    """Returns the rows of an ablation that a component gives: none where no stream changes."""
    if component == "modalities":
        return {
            f"without {name}": [point for other, point in members.items() if other != name]
            for name in members
            if len(members) > 1
        }
    changed = []
    for point in members.values():
        stream = trial_stream(point, study.init, "study")
        has = stream.augment.mirror == "exact" and stream.modality != "rgb"
        changed.append(_replaced(point, WITHOUT[component]) if has or component != "exact mirroring" else point)
    alike = all(
        trial_stream(before, study.init, "study") == trial_stream(after, study.init, component)
        for before, after in zip(members.values(), changed, strict=True)
    )
    return {} if alike else {f"without {component}": changed}


def _replaced(point: Settings, changes: Settings) -> Settings:
    """Returns settings with others in their place, at whatever depth these are given."""
    kept = {name: value for name, value in point.items() if not any(_within(name, changed) for changed in changes)}
    return kept | changes


def _within(name: str, changed: str) -> bool:
    return name == changed or name.startswith(f"{changed}.")


def _same(point: Settings, name: str, value: Any) -> bool:
    return name in point and point[name] == value and isinstance(point[name], bool) == isinstance(value, bool)


def _apart(point: Settings, fixed: Settings) -> Settings:
    return {name: value for name, value in point.items() if name not in fixed}
