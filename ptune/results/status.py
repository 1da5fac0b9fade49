"""Study events become numbers that say where each study stands. Reads the ledger only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptune.config import StudyConfig, nearest
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, TrialFacts, read_study
from ptune.results.privacy import public_reason

LAUNCH = "hours since start"


@dataclass(frozen=True)
class Budget:
    """How much of one budget is used; `unit` is trials, hours since the start, or what training is measured in."""

    unit: str
    used: float
    limit: float | None


@dataclass(frozen=True)
class Standing:
    """Where a study stands, in numbers.

    Args:
        counts: trials of the present revision by state; `waiting` ones are not among the `running`.
        hours_left: until the first budget ends, at the pace so far and with as many trials at once as now; None while
            that cannot be told.
        last_reasons: why the latest stopped and the latest failed trial ended.
    """

    counts: Mapping[str, int]
    budgets: tuple[Budget, ...]
    hours_left: float | None
    last_reasons: Mapping[str, str]


def state_of(trial: TrialFacts) -> str:
    """Returns running, waiting (at a rung of the race), finished, stopped or failed."""
    return "waiting" if trial.state == "running" and trial.waiting else trial.state


def present_trials(facts: StudyFacts) -> list[TrialFacts]:
    """Returns the trials of the present revision by number."""
    return [trial for _, trial in sorted(facts.trials.items()) if trial.revision == facts.revision]


def standing(facts: StudyFacts, launch_seconds: float | None = None) -> Standing:
    """Returns the numbers of a study.

    Args:
        launch_seconds: since the launch that runs the study began; None where that is not known.
    """
    trials = present_trials(facts)
    counts = Counter(state_of(trial) for trial in trials)
    reasons: dict[str, str] = {
        trial.state: public_reason(trial.reason, facts.folds)
        for number in facts.ended
        if (trial := facts.trials[number]).revision == facts.revision and trial.state in ("stopped", "failed")
    }
    budgets = _budgets(facts, trials, launch_seconds)
    return Standing(counts, budgets, _hours_left(facts.config, trials, counts, budgets), reasons)


def _budgets(facts: StudyFacts, trials: list[TrialFacts], launch_seconds: float | None) -> tuple[Budget, ...]:
    limits, gpu = facts.config.budget, facts.config.resources.gpu
    ended = sum(trial.state != "running" for trial in trials)
    hours = sum(trial.seconds for trial in facts.trials.values()) / 3600
    found = [
        Budget("trials", ended, limits.trials),
        Budget(_unit(facts.config), hours * (gpu or 1.0), limits.gpu_hours),
    ]
    if launch_seconds is not None:
        found.append(Budget(LAUNCH, launch_seconds / 3600, limits.hours))
    return tuple(found)


def _unit(config: StudyConfig) -> str:
    if config.resources.gpu == 0:
        return "core-hours"
    return "GPU-hours" if config.resources.gpu or config.budget.gpu_hours else "hours of training"


def _hours_left(
    config: StudyConfig, trials: list[TrialFacts], counts: Mapping[str, int], budgets: tuple[Budget, ...]
) -> float | None:
    at_once = counts.get("running", 0)
    ended = [trial for trial in trials if trial.state != "running"]
    found = []
    if at_once:
        for budget in budgets:
            if budget.limit is None:
                continue
            left = max(budget.limit - budget.used, 0.0)
            if budget.unit == LAUNCH:
                found.append(left)
            elif budget.unit == "trials" and ended:
                begun = sum(trial.seconds for trial in trials if trial.state == "running")
                mean = sum(trial.seconds for trial in ended) / len(ended)
                found.append(max(left * mean - begun, 0.0) / 3600 / at_once)
            elif budget.unit != "trials":
                found.append(left / (config.resources.gpu or 1.0) / at_once)
    return min(found, default=None)


def require_study(home: Home, name: str) -> StudyFacts:
    """Returns a study of the ledger.

    Raises:
        BadInput: there is none of that name.
    """
    ledger = Ledger(home.ledger)
    facts = read_study(ledger, name)
    if facts is None:
        known = ledger.studies()
        raise BadInput(
            f"study {name!r}",
            f"is not in this home{nearest(name, known)}",
            f"one of {', '.join(known)}" if known else "a study that a sweep has opened",
            "`ptune sweep SPACE.yaml` opens one.",
        )
    return facts


def plain_line(facts: StudyFacts, launch_seconds: float | None = None) -> str:
    """Returns a study in one line."""
    config, found = facts.config, standing(facts, launch_seconds)
    best = facts.finished()[:1]
    parts = [
        ", ".join(f"{count} {state}" for state, count in sorted(found.counts.items())) or "no trial yet",
        *(f"best {config.objective.metric} {trial.value:.3f} (trial {trial.number})" for trial in best),
        *(amount(budget) for budget in found.budgets),
        *([f"about {duration(found.hours_left)} left"] if found.hours_left is not None else []),
    ]
    return f"{config.study}: " + "; ".join(parts)


def status_facts(facts: StudyFacts, launch_seconds: float | None = None) -> dict[str, Any]:
    """Returns where a study stands, as plain values; arguments as in `standing`."""
    found, finished = standing(facts, launch_seconds), facts.finished()
    trials = present_trials(facts)
    return {
        "study": facts.config.study,
        "revision": facts.revision,
        "trials": dict(found.counts),
        "budget": facts.config.budget.trials,
        "budgets": {budget.unit: {"used": budget.used, "limit": budget.limit} for budget in found.budgets},
        "hours_left": found.hours_left,
        "last_reasons": dict(found.last_reasons),
        "metric": facts.config.objective.metric,
        "best": finished[0].value if finished else None,
        "best_trial": finished[0].number if finished else None,
        "best_params": finished[0].params if finished else None,
        "training_hours": sum(trial.seconds for trial in trials) / 3600,
        "running": [
            {"trial": trial.number, "params": trial.params, "fold": last.fold, "epoch": last.epoch, "value": last.value}
            for trial in trials
            if state_of(trial) == "running"
            for last in trial.reports[-1:]
        ],
    }


def amount(budget: Budget) -> str:
    """Returns a budget in words: `12.10 of 48 GPU-hours`."""
    used = f"{budget.used:.2g}" if 0 < budget.used < 1 else f"{budget.used:.{0 if budget.unit == 'trials' else 1}f}"
    limit = "" if budget.limit is None else f" of {budget.limit:g}"
    return f"{used}{limit} {budget.unit}"


def duration(hours: float) -> str:
    """Returns hours in the unit that suits them."""
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} min"
