"""Strict frozen models, their signatures, and reading them from YAML with helpful refusals.

The only place that reads and writes YAML.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ptune.errors import ConfigError

#: A bump changes the signatures of everything that the stage produces.
STAGE_VERSIONS = {"extract": 2, "train": 1, "protocol": 1, "fusion": 1}


def signature_of(value: Any) -> str:
    """Returns 32 hex digits that identify a JSON value: sha256 of its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Strict(BaseModel):
    """A frozen record that refuses unknown keys and nonsense at birth."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def signature(self) -> str:
        """Returns the identity of this record: equal settings, equal signature."""
        return signature_of(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, values: Any, where: str) -> Self:
        """Builds the record from plain values.

        Raises:
            ConfigError: names every wrong key with its nearest known neighbour, and every wrong value.
        """
        if not isinstance(values, dict):
            raise ConfigError(where, f"{type(values).__name__} {values!r}", "a mapping of settings")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(where, _explain(cls, error), "", "See search_spaces/ for working examples.") from None


def load_yaml(path: Path) -> Any:
    """Reads one YAML document.

    Raises:
        ConfigError: the file is missing or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(path.name, "there is no such file", "a YAML file", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path.name, f"cannot be read ({type(error).__name__})", "a YAML text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "the file"
        problem = getattr(error, "problem", error)
        raise ConfigError(path.name, f"{line} is not YAML ({problem})", "a YAML document") from None


def dump_yaml(values: Any) -> str:
    """Returns plain values as a YAML document, which `load_yaml` reads as the same values."""
    return str(yaml.safe_dump(values, sort_keys=False))


def nearest(word: str, known: list[str]) -> str:
    """Returns ' (did you mean X?)' for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            parts.append(f"unknown key {place!r}{nearest(key, _known_keys(model, item['loc'][:-1]))}")
        else:
            found = "" if item["type"] == "missing" or not place else f", found {item['input']!r}"
            parts.append(f"{place or 'settings'}: {item['msg'].removeprefix('Value error, ')}{found}")
    return "; ".join(parts)


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [field.alias or name for name, field in model.model_fields.items()]
