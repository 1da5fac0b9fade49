"""One trial on a Ray actor: its folds in sequence, one result per epoch and per fold. Decides nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from ray import tune

from ptune.errors import FitFailed, WeightsError
from ptune.extract.store import open_store
from ptune.ledger import FitRecord, Ledger
from ptune.metrics import score_rows
from ptune.train.device import Acceleration
from ptune.train.fit import Epoch, Saving, fit_epochs
from ptune.tune.plan import Plan
from ptune.tune.race import rungs_of
from ptune.tune.space import Params

Result = dict[str, Any]
PAYLOAD = "ptune"
#: What the reason of a failure starts with when the configuration asks for more than the device has.
INFEASIBLE = "infeasible"
#: Between two looks at a fit that another actor trains.
PATIENCE_SECONDS = 0.5


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Runs the fits of one trial; each `step` is one epoch or the end of a fold, and the last carries pooled metrics.

    A trial's configuration may name one `fold`: that fit is trained ahead, for the trial's own actor to find.
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
        self.results: Generator[Result, None, None] | None = None
        share = plan.config.resources.gpu or 1.0
        if self.acceleration.device.type == "cuda" and share < 1:
            torch.cuda.set_per_process_memory_fraction(share)
        self.reset_config(config)

    def reset_config(self, new_config: Result) -> bool:
        """Takes the next trial without a new process."""
        self.cleanup()
        params, fold = new_config["params"], new_config.get("fold")
        self.results = self._guarded(self._trial(params) if fold is None else self._ahead(params, fold))
        return True

    def step(self) -> Result:
        """Returns the next result of the trial."""
        assert self.results is not None
        return next(self.results)

    def cleanup(self) -> None:
        """Lets go of the fit that was under way."""
        if self.results is not None:
            self.results.close()

    def _trial(self, params: Params) -> Generator[Result, None, None]:
        metric = self.plan.config.objective.metric
        records: list[FitRecord] = []
        past: list[float] = []
        step = 0
        for fold in self.plan.order:
            reused = self.ledger.find_fit(self.plan.spec(params, fold).signature(), verify=False) is not None
            epochs = self._epochs(params, fold)
            value = 0.0
            while True:
                try:
                    epoch = next(epochs)
                except StopIteration as end:
                    records.append(end.value)
                    break
                step += 1
                value = epoch.metrics[f"validation.{metric}"]
                mean = (sum(past) + value) / (len(past) + 1)
                yield {
                    "kind": "epoch",
                    "fold": fold,
                    "epoch": epoch.number,
                    "step": step,
                    "value": mean,
                    "metrics": epoch.metrics,
                }
            past.append(value)
            yield {"kind": "fitted", "fold": fold, "fit": records[-1].signature, "reused": reused}
        rows = [row for record in records for row in record.predictions().to_pylist()]
        metrics = score_rows(rows, self.plan.config.grouping.names)
        yield {"kind": "finished", "value": metrics[metric], "metrics": metrics}

    def _ahead(self, params: Params, fold: int) -> Generator[Result, None, None]:
        for _ in self._epochs(params, fold):
            yield {"kind": "ahead"}
        yield {"kind": "ready", "fit": self.plan.spec(params, fold).signature()}

    def _epochs(self, params: Params, fold: int) -> Generator[Epoch, None, FitRecord]:
        """Yields the epochs of a fit that no other actor trains meanwhile; at a rung nothing is held."""
        spec = self.plan.spec(params, fold)
        rungs = rungs_of(self.plan.config, spec.stream.epochs) if fold == self.plan.order[0] else ()
        saving = Saving(self.plan.config.resources.checkpoint_seconds, rungs)
        shown = 0
        while True:
            with self._claimed(spec.signature()):
                epochs = fit_epochs(spec, self.store, self.ledger, self.acceleration, self.plan.home.weights, saving)
                while True:
                    try:
                        epoch = next(epochs)
                    except StopIteration as end:
                        record: FitRecord = end.value
                        return record
                    if epoch.number > shown:
                        shown = epoch.number
                        if shown in rungs:
                            break
                        yield epoch
            yield epoch

    @contextmanager
    def _claimed(self, fit: str) -> Generator[None, None, None]:
        """Waits until the fit is finished, or this actor's to train."""
        while self.ledger.find_fit(fit, verify=False) is None:
            claim = self.ledger.claim(fit)
            if claim is not None:
                with claim:
                    yield
                return
            time.sleep(PATIENCE_SECONDS)
        yield

    def _guarded(self, results: Generator[Result, None, None]) -> Generator[Result, None, None]:
        """Adds the seconds that each result took, and ends with the reason when the fit cannot go on."""
        clock = time.monotonic()
        try:
            for result in results:
                yield _sent(result, time.monotonic() - clock)
                clock = time.monotonic()
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            reason = f"{INFEASIBLE}: more GPU memory than there is ({str(error).splitlines()[0]})"
            yield _sent({"kind": "failed", "reason": reason}, time.monotonic() - clock)
        except (FitFailed, WeightsError) as error:
            yield _sent({"kind": "failed", "reason": str(error)}, time.monotonic() - clock)


def _sent(result: Result, seconds: float) -> Result:
    """Returns what Ray Tune takes: it would flatten nested values, so that ours travel as one text."""
    done = result["kind"] in ("finished", "failed", "ready")
    return {"done": done, PAYLOAD: json.dumps({**result, "seconds": seconds})}


def payload(result: Result) -> Result:
    """Returns the values inside a result that came through Ray Tune."""
    return dict(json.loads(result[PAYLOAD]))
