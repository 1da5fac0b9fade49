"""Study events become a few lines that say where each study stands. Reads the ledger only."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ptune.config import nearest
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import StudyFacts, read_study


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


def study_status(home: Home, name: str | None) -> tuple[list[dict[str, Any]], str]:
    """Returns the state of one study or of all, as plain values and as text."""
    names = [name] if name else Ledger(home.ledger).studies()
    facts = [_status(require_study(home, each)) for each in names]
    return facts, "\n".join(_line(item) for item in facts) or "no study in this home yet"


def _status(facts: StudyFacts) -> dict[str, Any]:
    trials = [trial for trial in facts.trials.values() if trial.revision == facts.revision]
    finished = facts.finished()
    return {
        "study": facts.config.study,
        "trials": dict(Counter(trial.state for trial in trials)),
        "budget": facts.config.budget.trials,
        "metric": facts.config.objective.metric,
        "best": finished[0].value if finished else None,
        "best_params": finished[0].params if finished else None,
        "training_hours": sum(trial.seconds for trial in trials) / 3600,
        "running": [
            {"trial": trial.number, "params": trial.params, "fold": last.fold, "epoch": last.epoch, "value": last.value}
            for trial in trials
            if trial.state == "running" and trial.reports
            for last in trial.reports[-1:]
        ],
    }


def _line(item: dict[str, Any]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in sorted(item["trials"].items())) or "no trial yet"
    best = "" if item["best"] is None else f", best {item['metric']} {item['best']:.3f}"
    lines = [
        f"{item['study']}: {states} of {item['budget']} trials{best}, {item['training_hours']:.2f} hours of training"
    ]
    lines += [
        f"  trial {run['trial']}: fold {run['fold'] + 1}, epoch {run['epoch']}, {item['metric']} {run['value']:.3f}"
        for run in item["running"]
    ]
    return "\n".join(lines)
