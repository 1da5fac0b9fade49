"""A study in the ledger becomes an Optuna study: for its importances, and for tools that read Optuna's files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ptune.replay import StudyFacts, TrialFacts
from ptune.tune.space import distribution

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

STATES = {
    "running": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
#: Fewer finished trials say nothing about which setting matters.
LEAST_TRIALS = 8


def to_optuna(facts: StudyFacts, storage: BaseStorage | None = None) -> optuna.Study:
    """Returns the study with its trials in order of number.

    A setting outside the present search space becomes a user attribute of its trial.

    Args:
        storage: where Optuna keeps it; default in memory.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective = facts.config.objective
    direction = "maximize" if objective.mode == "max" else "minimize"
    study = optuna.create_study(storage=storage, study_name=facts.config.study, direction=direction)
    space = {name: distribution(dimension) for name, dimension in facts.config.space.items()}
    study.add_trials([_trial(trial, space) for _, trial in sorted(facts.trials.items())])
    return study


def importances(facts: StudyFacts) -> dict[str, float] | None:
    """Returns each setting's share of the objective's variance (fANOVA), largest first.

    Returns:
        None with fewer than `LEAST_TRIALS` finished trials, or when no setting varied among them.
    """
    done = facts.finished()
    if len(done) < LEAST_TRIALS or len({trial.value for trial in done}) < 2:
        return None
    names = [name for name in facts.config.space if len({str(trial.params.get(name)) for trial in done}) > 1]
    shared = [name for name in names if all(name in trial.params for trial in done)]
    if not shared:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(to_optuna(facts), evaluator=evaluator, params=shared)
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


def _trial(trial: TrialFacts, space: dict[str, BaseDistribution]) -> FrozenTrial:
    inside = {name: value for name, value in trial.params.items() if name in space and _contains(space[name], value)}
    outside = {name: value for name, value in trial.params.items() if name not in inside}
    last = trial.reports[-1].value if trial.reports else None
    return create_trial(
        state=STATES[trial.state],
        value={"finished": trial.value, "stopped": last}.get(trial.state),
        params=inside,
        distributions={name: space[name] for name in inside},
        intermediate_values={report.step: report.value for report in trial.reports},
        user_attrs={"trial": trial.number, "group": trial.group, "seconds": trial.seconds, **outside},
    )


def _contains(within: BaseDistribution, value: Any) -> bool:
    try:
        return bool(within._contains(within.to_internal_repr(value)))
    except ValueError:
        return False
