"""MLflow says what the ledger says, once, and nothing about who was filmed."""

import logging
import shutil
import time
from pathlib import Path

import pytest

from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.results.summary import report_study
from ptune.track.project import Projector, SyncReport
from ptune.track.store import RunStore
from ptune.track.writer import Pace, projection
from tests.example_study import MANIFEST, SUBJECT, example_study


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with an example study, synced twice."""
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home.open(tmp_path_factory.mktemp("home"))
    example_study(home.ledger)
    report_study(home, "hand")
    projector = Projector(home, "hand")
    clock = time.monotonic()
    assert projector.sync() == SyncReport(created=10, updated=0)
    print(f"sync of 9 trials: {time.monotonic() - clock:.2f} s")
    assert Projector(home, "hand").sync() == SyncReport(created=0, updated=0)
    patch.undo()
    return home


@pytest.fixture
def home(filled: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return filled


def runs_of(home: Home) -> dict[str, object]:
    store = Projector(home, "hand").store
    return {run.info.run_name: run for run in store.client.search_runs([store.experiment])}


def test_runs_are_named_nested_and_ended_as_in_the_ledger(home: Home) -> None:
    runs = runs_of(home)
    parent = runs.pop("hand")
    assert parent.info.run_id == Projector(home, "hand").parent_run_id()
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    status = {name: run.info.status for name, run in runs.items()}
    assert len(status) == 9
    assert status["trial-03 flow"] == "FINISHED"
    assert status["trial-05 rgb"] == "KILLED"
    assert status["trial-06 flow"] == "FAILED"
    assert status["trial-07 mb"] == parent.info.status == "RUNNING"


def test_params_and_metrics_are_those_of_the_trial(home: Home) -> None:
    facts = read_study(Ledger(home.ledger), "hand")
    run, trial = runs_of(home)["trial-03 flow"], facts.trials[3]
    assert run.data.params == {name: str(value) for name, value in trial.params.items()}
    assert run.data.metrics["f1_weighted"] == pytest.approx(trial.value)
    assert {f"fold{fold}.f1_weighted" for fold in range(3)} <= set(run.data.metrics)
    assert run.data.tags["ptune.folds"] == "3 of 3"


def test_curves_have_one_point_per_step_after_many_syncs(home: Home) -> None:
    run = runs_of(home)["trial-03 flow"]
    points = Projector(home, "hand").store.client.get_metric_history(run.info.run_id, "validation.f1_weighted")
    assert [point.step for point in points] == list(range(1, 37))


def test_a_crash_between_metrics_and_tags_logs_nothing_twice(home: Home) -> None:
    run = runs_of(home)["trial-04 mb"]
    Projector(home, "hand").store.client.set_tag(run.info.run_id, "ptune.logged_reports", "0")
    projector = Projector(home, "hand")
    assert projector.sync() == SyncReport(0, 1)
    assert len(projector.store.client.get_metric_history(run.info.run_id, "loss")) == 36


def test_artifacts_and_dataset(home: Home) -> None:
    runs, client = runs_of(home), Projector(home, "hand").store.client
    names = {item.path for item in client.list_artifacts(runs["trial-03 flow"].info.run_id)}
    assert names == {"confusion.png", "learning_curves.png"}
    parent = runs["hand"]
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        "overview.html",
        "overview.md",
        "report.html",
        "table.csv",
        "table.md",
        "table.tex",
    }
    (dataset,) = [item.dataset for item in client.get_run(parent.info.run_id).inputs.dataset_inputs]
    assert dataset.digest == "ab12" * 8
    assert '"subjects": 12' in dataset.profile
    assert parent.data.metrics["f1_weighted"] > 0.5


def test_no_subject_and_no_file_name_leaves_the_ledger(home: Home) -> None:
    files = [home.root / "mlflow.db", *home.root.glob("mlflow.db-*")]
    files += [path for folder in (home.artifacts, home.reports) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes().lower()
        for secret in (SUBJECT, MANIFEST, "visit.mp4"):
            assert secret.lower().encode() not in content, f"{secret} in {path.name}"


def test_more_events_update_the_same_runs(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.ledger, tmp_path / "ledger")
    other = Home.open(tmp_path)
    Projector(other, "hand").sync()
    log = Ledger(other.ledger).study("hand")
    log.append("reported", trial=7, fold=1, epoch=1, step=37, value=0.5, metrics={"loss": 0.5})
    log.append("stopped", trial=7, step=37, reason="below the median")
    assert Projector(other, "hand").sync() == SyncReport(0, 2)
    run = runs_of(other)["trial-07 mb"]
    assert (run.info.status, run.data.tags["ptune.reason"]) == ("KILLED", "below the median")
    assert runs_of(other)["hand"].info.status == "FINISHED"


def test_a_store_that_is_away_costs_a_sweep_one_warning_at_its_end(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    pace = Pace(between=0.01, first_pause=0.01, longest_pause=0.02, at_end=0.3)
    with caplog.at_level(logging.WARNING, "ptune"), projection(home, "hand", pace) as poke:
        for _ in range(50):
            poke()
            time.sleep(0.002)
    first, last = (record.getMessage() for record in caplog.records)
    assert "goes on" in first
    assert "ptune sync hand" in last


def test_nothing_is_written_beside_the_home(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example_study(tmp_path / "home" / "ledger", trials=1)
    Projector(Home.open(tmp_path / "home"), "hand").sync()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_step_that_arrived_is_not_logged_again_by_whoever_comes_next(home: Home, tmp_path: Path) -> None:
    place = Home.open(tmp_path / "place")
    first = RunStore(place, "steps")
    run = first.create("0", "trial-00", {}, started=1_000)
    first.log_metrics(run, [("loss", 0.5, 1), ("loss", 0.4, 2)])
    second = RunStore(place, "steps")
    second.log_metrics(second.known["0"], [("loss", 0.45, 2), ("loss", 0.3, 3), ("accuracy", 0.8, 1)])
    points = {
        key: [(point.step, point.value) for point in second.client.get_metric_history(run.run_id, key)]
        for key in ("loss", "accuracy")
    }
    assert points == {"loss": [(1, 0.5), (2, 0.4), (3, 0.3)], "accuracy": [(1, 0.8)]}
