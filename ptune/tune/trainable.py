"""One trial on a Ray actor: its folds in sequence, one result per epoch. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import torch
from ray import tune

from ptune.errors import FitFailed, WeightsError
from ptune.extract.store import open_store
from ptune.ledger import FitRecord, Ledger
from ptune.metrics import score_rows
from ptune.train.device import Acceleration
from ptune.train.fit import Epoch, fit_epochs
from ptune.tune.plan import Plan

Result = dict[str, Any]
PAYLOAD = "ptune"


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Runs the fits of one trial; each `step` is one epoch, and a last one carries the pooled metrics.

    The ledger keeps finished fits and checkpoints of interrupted ones: a trial that starts again on another node
    repeats nothing but its reports.
    """

    def setup(self, config: Result, plan: Plan | None = None) -> None:
        """Prepares the actor once."""
        assert plan is not None
        self.plan = plan
        self.ledger = Ledger(plan.home.ledger)
        self.store = open_store(plan.home.features, plan.config.extraction)
        self.acceleration = Acceleration.best()
        self.results = self._run(config["params"])

    def reset_config(self, new_config: Result) -> bool:
        """Takes the next trial without a new process."""
        self.results = self._run(new_config["params"])
        return True

    def step(self) -> Result:
        """Returns the next result of the trial."""
        return next(self.results)

    def _run(self, params: Result) -> Generator[Result, None, None]:
        metric = self.plan.config.objective.metric
        stream = self.plan.config.stream(params)
        records: list[FitRecord] = []
        past: list[float] = []
        fitted: Result | None = None
        step = 0
        try:
            for fold in range(self.plan.config.folds.count):
                spec = self.plan.spec(stream, fold)
                reused = self.ledger.find_fit(spec.signature()) is not None
                epochs = fit_epochs(spec, self.store, self.ledger, self.acceleration, self.plan.home.weights)
                value = 0.0
                while True:
                    try:
                        epoch: Epoch = next(epochs)
                    except StopIteration as end:
                        records.append(end.value)
                        break
                    step += 1
                    value = epoch.metrics[f"validation.{metric}"]
                    mean = (sum(past) + value) / (len(past) + 1)
                    yield _result(
                        "epoch", fitted, fold=fold, epoch=epoch.number, step=step, value=mean, metrics=epoch.metrics
                    )
                    fitted = None
                past.append(value)
                seconds = 0.0 if reused else records[-1].summary["seconds"]
                fitted = {"fold": fold, "fit": records[-1].signature, "reused": reused, "seconds": seconds}
        except (FitFailed, WeightsError, torch.cuda.OutOfMemoryError) as error:
            yield _result("failed", fitted, reason=str(error))
            return
        rows = [row for record in records for row in record.predictions().to_pylist()]
        metrics = score_rows(rows, self.plan.config.grouping.names)
        yield _result("finished", fitted, value=metrics[metric], metrics=metrics)


def _result(kind: str, fitted: Result | None, **content: Any) -> Result:
    """Returns what Ray Tune takes: it would flatten nested values, so that ours travel as one text."""
    return {"done": kind != "epoch", PAYLOAD: json.dumps({"kind": kind, "fitted": fitted, **content})}


def payload(result: Result) -> Result:
    """Returns the values inside a result that came through Ray Tune."""
    return dict(json.loads(result[PAYLOAD]))
