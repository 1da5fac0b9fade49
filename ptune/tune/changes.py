"""What a study was opened with and what it is asked to be now: the same, extended, revised, or refused."""

from __future__ import annotations

from typing import Any

from ptune.config import StudyConfig
from ptune.errors import StudyChanged
from ptune.replay import StudyFacts
from ptune.tune.plan import Plan

#: Fields of a study that its results cannot outlive.
FIXED_FOR_LIFE = ("task", "objective", "folds", "grouping", "extraction")
#: Fields whose change is a new revision: trials of an older one count no longer.
SEARCHED = {"space", "fixed", "start_from", "init", "seed", "stopping", "finalists"}


def same_search(one: StudyConfig, other: StudyConfig) -> bool:
    """Returns whether trials of one count for the other: only budgets and the like differ."""
    return one.model_dump(mode="json", include=SEARCHED) == other.model_dump(mode="json", include=SEARCHED)


def refuse_changes(plan: Plan, past: StudyFacts) -> None:
    """Refuses what would make a study's results incomparable.

    Raises:
        StudyChanged: its cohort, folds, task or objective are others than those it was opened with.
    """
    changes = []
    for name in FIXED_FOR_LIFE:
        before, now = getattr(past.config, name), getattr(plan.config, name)
        if before != now:
            changes.append(f"{name} was {_shown(before)} and is {_shown(now)}")
    if past.cohort["digest"] != plan.cohort["digest"]:
        before, now = past.cohort, plan.cohort
        changes.append(
            f"the cohort had {before['videos']} videos of {before['subjects']} subjects (digest "
            f"{before['digest'][:8]}) and has {now['videos']} of {now['subjects']} ({now['digest'][:8]})"
        )
    if changes:
        raise StudyChanged(
            f"study {plan.config.study!r}",
            "; ".join(changes),
            "the cohort, folds, task and objective it was opened with",
            "Run it under a new name with --as NAME; finished fits are reused where they are the same.",
        )


def _shown(value: Any) -> str:
    return str(value.model_dump(mode="json")) if hasattr(value, "model_dump") else repr(value)
