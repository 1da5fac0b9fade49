"""Opens or resumes a study and runs it with Ray Tune, which here only starts, stops and places trials."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ptune.cluster import ray_session
from ptune.config import ExtractConfig, FitSpec, StudyConfig, signature_of
from ptune.errors import StudyChanged
from ptune.extract.report import ExtractReport
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import FitRecord, Ledger
from ptune.progress import progress
from ptune.replay import StudyFacts, read_study, replay
from ptune.train.device import Acceleration
from ptune.train.fit import run_fit
from ptune.tune.conductor import Conductor, Tally
from ptune.tune.plan import Plan, make_plan, read_inputs
from ptune.tune.trainable import TrialRunner, payload

#: Fields of a study that its results cannot outlive.
FIXED_FOR_LIFE = ("task", "objective", "folds", "grouping", "extraction")


@dataclass(frozen=True)
class SweepReport:
    """What one launch of a study did and where it stands."""

    facts: StudyFacts
    plan: Plan
    extraction: ExtractReport
    tally: Tally
    interrupted: bool


def sweep(
    config: StudyConfig,
    folder: Path,
    home: Home,
    workers: int | None = None,
    on_end: Callable[[], object] = lambda: None,
) -> SweepReport:
    """Runs a study to the end of its budget, resuming what the ledger has of it.

    Args:
        folder: where the study's relative paths start.
        workers: CPU cores of a private Ray.
        on_end: called on the driver whenever a trial has ended.

    Raises:
        BadInput: something the user gave cannot be used; nothing was written.
        StudyChanged: a study of this name has another cohort, folds, task or objective.
    """
    manifest, initial_weights = read_inputs(config, folder, home)
    ledger = Ledger(home.ledger)
    past = read_study(ledger, config.study)
    with ray_session(home, workers) if _trials_left(config, past) else nullcontext():
        plan, extraction = make_plan(config, manifest, initial_weights, home, past, workers)
        facts = open_study(ledger, plan, past)
        epochs = config.stream(_any_point(config)).epochs
        conductor = Conductor(facts, ledger.study(config.study), epochs, on_end=on_end)
        _run(conductor, plan)
    interrupted = any(trial.state == "running" for trial in facts.trials.values())
    return SweepReport(facts, plan, extraction, conductor.tally, interrupted)


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
        with ray_session(home, workers), progress("refit", len(missing)) as bar:
            import ray

            gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
            remote = ray.remote(num_cpus=1, num_gpus=gpus)(_fit)
            waiting = [remote.remote(spec, extraction, home) for spec in missing]
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)
                bar.advance(len(done))
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
        _refuse_changes(plan, past)
        if past.config == config:
            return past
        same_space = _searched(past.config) == _searched(config)
        revision = past.revision if same_space else past.revision + 1
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


def _searched(config: StudyConfig) -> dict[str, Any]:
    names = {"space", "fixed", "start_from", "init", "seed", "stopping", "finalists"}
    return config.model_dump(mode="json", include=names)


def _refuse_changes(plan: Plan, past: StudyFacts) -> None:
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


def _trials_left(config: StudyConfig, past: StudyFacts | None) -> bool:
    if past is None or _searched(past.config) != _searched(config):
        return True
    ended = sum(trial.revision == past.revision and trial.state != "running" for trial in past.trials.values())
    return ended < config.budget.trials


def _any_point(config: StudyConfig) -> dict[str, Any]:
    return {name: dimension.values()[0] for name, dimension in config.space.items()}


def _run(conductor: Conductor, plan: Plan) -> None:
    """Lets Ray Tune run trials until the conductor proposes no more."""
    import ray

    config = plan.config
    left = config.budget.trials - conductor.tally.trials_before
    if left <= 0:
        return
    resources = ray.cluster_resources()
    gpu = resources.get("GPU", 0) > 0
    slots = max(1, int(resources.get("GPU", 0) if gpu else resources.get("CPU", 1)))
    storage = plan.home.ray / f"{config.study}-{uuid.uuid4().hex[:8]}"
    trainable = tune.with_resources(
        tune.with_parameters(TrialRunner, plan=plan), {"cpu": 1, "gpu": 1} if gpu else {"cpu": 1}
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with progress("sweep", left * conductor.steps) as bar:
        conductor.on_step = lambda steps: bar.advance(steps, _best(conductor.facts))
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_RaySearcher(conductor),
                scheduler=_RayScheduler(conductor),
                num_samples=left,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=storage.name,
                storage_path=str(plan.home.ray),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _best(facts: StudyFacts) -> str:
    finished = facts.finished()
    return f"best {facts.config.objective.metric} {finished[0].value:.3f}" if finished else ""


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']:04d}-{signature_of(trial.config['params'])[:8]}"


class _RaySearcher(Searcher):  # type: ignore[misc]
    """Hands the conductor's proposals to Ray Tune."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the next trial's configuration."""
        proposal = self.conductor.propose()
        if proposal is None:
            return str(Searcher.FINISHED)
        return {"number": proposal.number, "params": proposal.params}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the scheduler has told the conductor."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: the ledger is the state."""


class _RayScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes Ray Tune's results to the conductor and its decisions back."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Returns whether the trial goes on."""
        goes_on = self.conductor.reported(trial.config["number"], payload(result))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Records the last result."""
        self.conductor.ended(trial.config["number"], payload(result))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Records a trial that Ray gave up."""
        last_line = str(trial.get_error() or "no trace").strip().splitlines()[-1]
        self.conductor.failed(trial.config["number"], f"its worker failed: {last_line}")

    def debug_string(self) -> str:
        """Returns one line for Ray's own logs."""
        return "ptune race"
