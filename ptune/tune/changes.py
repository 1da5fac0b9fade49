"""What a study was opened with and what it is asked to be now: the same, extended, revised, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.config import StudyConfig
from ptune.errors import StudyChanged
from ptune.replay import StudyFacts

#: Fields of a study that its results cannot outlive.
FIXED_FOR_LIFE = ("task", "objective", "folds", "grouping", "extraction")
#: Fields whose change is a new revision: trials of an older one count no longer.
SEARCHED = {"space", "points", "fixed", "start_from", "init", "seed", "stopping", "finalists"}


def same_search(one: StudyConfig, other: StudyConfig) -> bool:
    """Returns whether trials of one count for the other: only budgets and the like differ."""
    return one.model_dump(mode="json", include=SEARCHED) == other.model_dump(mode="json", include=SEARCHED)


def refuse_changes(config: StudyConfig, past: StudyFacts, cohort: Mapping[str, Any] | None = None) -> None:
    """Refuses what would make a study's results incomparable.

    Args:
        cohort: what is known of it after extraction; without, settings alone are compared.

    Raises:
        StudyChanged: its cohort, folds, task or objective are others than those it was opened with.
    """
    changes = []
    for name in FIXED_FOR_LIFE:
        before, now = getattr(past.config, name), getattr(config, name)
        if before != now:
            changes.append(f"{name} was {_shown(before)} and is {_shown(now)}")
    if cohort is not None and past.cohort["digest"] != cohort["digest"]:
        changes.append(
            f"the cohort had {past.cohort['videos']} videos of {past.cohort['subjects']} subjects (digest "
            f"{past.cohort['digest'][:8]}) and has {cohort['videos']} of {cohort['subjects']} ({cohort['digest'][:8]})"
        )
    if changes:
        raise StudyChanged(
            f"study {config.study!r}",
            "; ".join(changes),
            "the cohort, folds, task and objective it was opened with",
            "Run it under a new name with --as NAME; finished fits are reused where they are the same.",
        )


def _shown(value: Any) -> str:
    return str(value.model_dump(mode="json")) if hasattr(value, "model_dump") else repr(value)
