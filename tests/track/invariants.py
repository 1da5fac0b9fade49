"""What must be true of a study's MLflow runs, whatever happened on the way; asks MLflow itself, not ptune's client."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import TrialFacts, read_study
from ptune.track.project import SKIPPED_PER_EPOCH

STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def check_runs(home: Home, study: str) -> int:
    """Compares the runs of a study with its ledger and returns the number of metric points that were compared.

    Each trial has exactly one run, in the state of the trial; the study has one parent run, which is not RUNNING once
    no trial is. Every finite reported value is there once, at its step; steps rise strictly; nothing else is there.
    """
    facts = read_study(Ledger(home.ledger), study)
    assert facts is not None
    client = MlflowClient(tracking_uri=home.tracking_uri)
    named = [item for item in client.search_experiments() if item.name == study]
    assert len(named) == 1, f"{len(named)} experiments are called {study}"
    runs = list(client.search_runs([named[0].experiment_id], max_results=10_000))
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1, f"{len(parents)} parent runs"
    children = Counter(int(run.data.tags["ptune.trial"]) for run in runs if run not in parents)
    assert children == Counter(list(facts.trials)), f"runs by trial: {children}"
    if all(trial.state != "running" for trial in facts.trials.values()):
        assert not [run.info.run_name for run in runs if run.info.status == "RUNNING"]
    by_trial = {int(run.data.tags["ptune.trial"]): run for run in runs if run not in parents}
    return sum(_check_trial(client, trial, by_trial[number]) for number, trial in facts.trials.items())


def _check_trial(client: MlflowClient, trial: TrialFacts, run: Run) -> int:
    assert run.info.status == STATUS[trial.state], f"trial {trial.number} is {trial.state}, its run {run.info.status}"
    assert run.data.params == {name: str(value) for name, value in trial.params.items()}
    compared = 0
    for key in run.data.metrics:
        points = client.get_metric_history(run.info.run_id, key)
        steps = [point.step for point in points]
        assert all(left < right for left, right in pairwise(steps)), (
            f"trial {trial.number}, {key}: {[(point.timestamp, point.step, point.value) for point in points]}"
        )
        expected = _reported(trial, key)
        if expected:
            assert {point.step: point.value for point in points} == expected, f"trial {trial.number}, {key}"
            compared += len(points)
    reported = {key for report in trial.reports for key in report.metrics if not SKIPPED_PER_EPOCH.search(key)}
    lost = {key for key in reported if _reported(trial, key)} - set(run.data.metrics)
    assert not lost, f"trial {trial.number} lacks {lost}"
    if trial.reports:
        assert "objective" in run.data.metrics
    for name, value in trial.metrics.items():
        assert run.data.metrics[name] == value, f"trial {trial.number}, {name}"
    return compared


def _reported(trial: TrialFacts, key: str) -> dict[int, float]:
    values = {
        report.step: report.value if key == "objective" else report.metrics.get(key, math.nan)
        for report in trial.reports
    }
    return {step: value for step, value in values.items() if math.isfinite(value)}
