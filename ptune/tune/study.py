"""Opens, extends, revises or resumes a study, and trains fits that are asked for one by one."""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.cluster import ray_session, run_on_cluster
from ptune.config import ExtractConfig, FitSpec, StudyConfig
from ptune.errors import BadInput, LedgerError
from ptune.extract.report import ExtractReport
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import FitRecord, Ledger
from ptune.replay import StudyFacts, read_study, replay
from ptune.steer import AddTrial, Requests
from ptune.train.device import Acceleration
from ptune.train.fit import run_fit
from ptune.tune.baselines import reviewer_rows
from ptune.tune.changes import refuse_changes, same_search
from ptune.tune.conductor import Conductor, Tally
from ptune.tune.evidence import Evidence, evidence_of
from ptune.tune.plan import Plan, make_plan, read_inputs
from ptune.tune.runner import run_trials

#: Objectives to which every class counts the same.
BALANCED = {"f1_macro", "balanced_accuracy"}


@dataclass(frozen=True)
class SweepReport:
    """What one launch of a study did and where it stands; `problem` is what ended it before its time."""

    facts: StudyFacts
    plan: Plan
    extraction: ExtractReport
    tally: Tally
    interrupted: bool
    problem: str = ""


def sweep(
    config: StudyConfig,
    folder: Path,
    home: Home,
    workers: int | None = None,
    watching: AbstractContextManager[Callable[[], object]] | None = None,
    like: StudyFacts | None = None,
    subjects: Container[str] | None = None,
) -> SweepReport:
    """Runs a study to the end of its budget, resuming what the ledger has of it.

    Args:
        folder: where the study's relative paths start.
        workers: CPU cores of a private Ray.
        watching: entered while trials run; what it yields is called on the driver after every event of theirs.
        like: another study, whose subjects keep their folds in a new one.
        subjects: who takes part; default everybody in the manifest.

    Raises:
        BadInput: something the user gave cannot be used; nothing was written.
        StudyChanged: a study of this name has another cohort, folds, task or objective.
        StudyBusy: another process runs it.
    """
    manifest, initial_weights = read_inputs(config, folder, home, subjects)
    ledger = Ledger(home.ledger)
    others = _learnt_from(config, ledger)
    log, requests = ledger.study(config.study), Requests(ledger, config.study)
    with ExitStack() as ending:
        ending.enter_context(log.lease(inherits=True))
        requests.forget_stops()
        past = read_study(ledger, config.study)
        if past is not None:
            refuse_changes(config, past)
        left = _trials_left(config, past) or any(isinstance(request, AddTrial) for request in requests.take())
        if left:
            ending.enter_context(ray_session(home, workers))
        plan, extraction = make_plan(config, manifest, initial_weights, home, past or like, workers)
        facts = open_study(ledger, plan, past)
        epochs = max(config.stream(point).epochs for point in config.points or [_any_point(config)])
        with watching if watching and left else nullcontext(lambda: None) as changed:
            conductor = Conductor(
                facts,
                log,
                plan.order,
                epochs,
                lambda fit: _evidence(ledger, config, fit),
                others,
                changed,
                requests=requests,
            )
            complete = not left or run_trials(conductor, plan)
        if complete and facts.finished():
            reviewer_rows(facts, plan, manifest, workers)
    return SweepReport(facts, plan, extraction, conductor.tally, not complete, conductor.problem)


def _learnt_from(config: StudyConfig, ledger: Ledger) -> list[StudyFacts]:
    found = []
    for name in config.warm_start:
        facts = read_study(ledger, name)
        if facts is None or facts.config.task != config.task or facts.config.objective != config.objective:
            raise BadInput(
                f"study {config.study!r}, warm_start",
                f"{name!r} is not in this home" if facts is None else f"{name!r} has another task or objective",
                "a study of the same task and objective",
                "`ptune status` lists the studies.",
            )
        found.append(facts)
    return found


def _evidence(ledger: Ledger, config: StudyConfig, fit: str) -> Evidence:
    # Predictions are verified when they are read; the driver has no use for weights, nor time to hash them.
    record = ledger.find_fit(fit, verify=False)
    if record is None:
        raise LedgerError(
            f"fit {fit}", "is not in the ledger", "what a trial of this study trained", "Run `ptune ledger check`."
        )
    return evidence_of(record.predictions().to_pylist(), config.objective.metric in BALANCED)


def refit(trial_fit: FitSpec) -> FitSpec:
    """Returns the fit of the same stream on all videos of its study, for the registered model."""
    videos = sorted(trial_fit.train + trial_fit.held_out, key=lambda video: video.video_id)
    return trial_fit.model_copy(update={"train": tuple(videos), "held_out": (), "fold": -1})


def run_fits(
    specs: list[FitSpec], extraction: ExtractConfig, home: Home, workers: int | None = None
) -> list[FitRecord]:
    """Trains fits in parallel; those that the ledger has are reused.

    Returns:
        One record per spec, in order.
    """
    ledger = Ledger(home.ledger)
    missing = [spec for spec in specs if ledger.find_fit(spec.signature()) is None]
    if missing:
        with ray_session(home, workers):
            run_on_cluster(_fit, [(spec, extraction, home) for spec in missing], "refit")
    found = [ledger.find_fit(spec.signature()) for spec in specs]
    return [record for record in found if record is not None]


def _fit(spec: FitSpec, extraction: ExtractConfig, home: Home) -> None:
    run_fit(spec, open_store(home.features, extraction), Ledger(home.ledger), Acceleration.best(), home.weights)


def open_study(ledger: Ledger, plan: Plan, past: StudyFacts | None) -> StudyFacts:
    """Records that a study is opened, extended (another budget) or revised (another space), and returns its state.

    Raises:
        StudyChanged: its cohort, folds, task or objective are others than those it was opened with.
    """
    config = plan.config
    revision = 1
    if past is not None:
        refuse_changes(config, past, plan.cohort)
        if past.config == config:
            return past
        revision = past.revision if same_search(past.config, config) else past.revision + 1
    log = ledger.study(config.study)
    log.append(
        "opened",
        study=config.model_dump(mode="json", by_alias=True),
        cohort=dict(plan.cohort),
        folds=dict(plan.folds),
        revision=revision,
        signature=config.signature(),
    )
    facts = replay(log.events())
    assert facts is not None
    return facts


def _trials_left(config: StudyConfig, past: StudyFacts | None) -> bool:
    if past is None or not same_search(past.config, config):
        return True
    trials = [trial for trial in past.trials.values() if trial.revision == past.revision]
    unfinished = any(trial.state == "running" for trial in trials)
    return unfinished or len(trials) < (len(config.points) or config.budget.trials)


def _any_point(config: StudyConfig) -> dict[str, Any]:
    return {name: dimension.values()[0] for name, dimension in config.space.items()}
