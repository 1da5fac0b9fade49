"""Lets Ray Tune start, stop and place what the conductor asks for. Decides nothing, keeps nothing."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import cloudpickle, tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ptune.config import signature_of
from ptune.config.study import Resources
from ptune.errors import PtuneError
from ptune.tune.conductor import Conductor
from ptune.tune.plan import Plan
from ptune.tune.trainable import INFEASIBLE, TrialRunner, payload

#: The conductor says how many actors there are; Ray Tune asks it again whenever there are fewer than this.
MOST_ACTORS = 10_000


def run_trials(conductor: Conductor, plan: Plan) -> bool:
    """Runs trials until the conductor has no more to do, and returns whether it came to that; Ray must be connected.

    Ray Tune's own folder is scratch: the ledger is what a study resumes from.
    """
    searcher = _RaySearcher(conductor)
    each = _resources(plan.config.resources, conductor.facts.max_gpus)
    conductor.places.there, conductor.places.gpus_each = _slots(each), each.get("gpu", 0.0)
    storage = plan.home.ray / f"{plan.config.study}-{uuid.uuid4().hex[:8]}"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialRunner, plan=plan), each),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_RayScheduler(conductor),
            num_samples=-1,
            max_concurrent_trials=MOST_ACTORS,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=str(plan.home.ray),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        with _actors_may_run_out_of_memory():
            tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return searcher.finished and not conductor.leaving


class _NodeOutOfMemory(RayActorError):  # type: ignore[misc]
    """An actor is gone because its node had no memory left."""


@contextmanager
def _actors_may_run_out_of_memory() -> Iterator[None]:
    """Lets Ray Tune take an actor that Ray's memory monitor ended for one that died.

    Ray says so by an OutOfMemoryError; Ray Tune 2.60 knows RayActorError alone and would end the whole study.
    """
    known = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = _NodeOutOfMemory(error_msg=str(exception))
        known(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = known


def _resources(asked: Resources, max_gpus: int | None) -> dict[str, float]:
    import ray

    gpu = asked.gpu
    if gpu is None:
        gpu = 1.0 if max_gpus or asked.accelerator or ray.cluster_resources().get("GPU", 0) else 0.0
    kind = {f"accelerator_type:{asked.accelerator}": 0.001} if asked.accelerator else {}
    return {"cpu": asked.cpu} | ({"gpu": gpu} if gpu else {}) | kind


def _slots(each: dict[str, float]) -> int:
    """Returns how many actors the cluster's nodes hold now, at least one."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    shares = {{"cpu": "CPU", "gpu": "GPU"}.get(name, name): share for name, share in each.items()}
    return max(1, sum(min(int(node.get(name, 0) / shares[name] + 1e-9) for name in shares) for node in nodes))


def _error_of(trial: Any) -> Exception | None:
    """Returns what ended an actor, which Ray Tune has just written beside the driver; it looks for it elsewhere."""
    path = trial.pickled_error_file
    if path is None:
        return None
    with open(path, "rb") as handle:
        found: Exception = cloudpickle.load(handle)
    return found


def _trial_name(trial: Any) -> str:
    fold = trial.config.get("fold")
    ahead = "" if fold is None else f"-fold-{fold}"
    return f"trial-{trial.config['number']:04d}-{signature_of(trial.config['params'])[:8]}{ahead}-{trial.trial_id}"


class _RaySearcher(Searcher):  # type: ignore[misc]
    """Hands the conductor's tasks to Ray Tune."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor
        self.finished = False

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Ray stores a tuner to restore it, which ptune never does."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the next trial's configuration; None while something that runs may lead to more."""
        task = self.conductor.next_task()
        if task is None:
            self.finished = self.conductor.leaving or not (self.conductor.active or self.conductor.places.full)
            return str(Searcher.FINISHED) if self.finished else None
        return {"number": task.number, "params": task.params} | ({} if task.fold is None else {"fold": task.fold})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the conductor that an actor has left; how its trial ended, the scheduler has told."""
        self.conductor.places.leave()

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: the ledger is the state."""


class _RayScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes Ray Tune's results to the conductor and its decisions back."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing, as the searcher does."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Returns whether the trial goes on."""
        told = self.conductor.reported_ahead if "fold" in trial.config else self.conductor.reported
        goes_on = told(trial.config["number"], payload(result))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Records the last result."""
        if "fold" in trial.config:
            self.conductor.reported_ahead(trial.config["number"], payload(result))
        else:
            self.conductor.ended(trial.config["number"], payload(result))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tells the conductor why an actor is gone; one that ran a fold ahead is no loss."""
        if "fold" in trial.config:
            return
        number, error = trial.config["number"], _error_of(trial)
        cause = getattr(error, "cause", None)
        if isinstance(cause, OSError | PtuneError):
            self.conductor.halt(str(cause))
        elif isinstance(error, _NodeOutOfMemory):
            # Of a node that runs out of memory Ray may end the actor beside the one that takes too much.
            self.conductor.lost(number, f"{INFEASIBLE}: its node ran out of memory")
        elif isinstance(error, RayTaskError):
            self.conductor.failed(number, f"{type(cause or error).__name__}: {cause or error}".splitlines()[0])
        else:
            self.conductor.lost(number)

    def debug_string(self) -> str:
        """Returns one line for Ray's own logs."""
        return "ptune race"
