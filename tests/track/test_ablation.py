"""A study's best fusion is taken apart: its own fits are reused, its tables lie in files and in MLflow."""

import mlflow
import pytest
import yaml

from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import StudyConfig
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.results.summary import summarise
from ptune.track.ablation import estimate_ablation, load_ablation, run_ablation
from ptune.track.evidence import gather_evidence
from ptune.track.model_card import model_card
from ptune.track.publish import run_study, write_study_report
from tests.tune.chaos import STUDY

SPEC = {
    "ablation": "apart",
    "study": "chaos",
    "cohort": "cohort/cohort.csv",
    "remove": ["attention", "modalities", "pretraining"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("apart")
    size = SyntheticConfig(
        subjects=6,
        clips_per_subject=2,
        fps=12.5,
        seconds=(1.2, 1.6),
        width=64,
        height=48,
        score_weights=(2, 1, 1, 1, 1),
    )
    render_cohort(root / "cohort", size)
    (root / "apart.yaml").write_text(yaml.safe_dump(SPEC))
    return root, Home.open(root / "home")


def test_one_part_is_taken_from_the_best_fusion_at_a_time(place):
    root, home = place
    with pytest.raises(BadInput, match="chaos"):
        load_ablation(root / "apart.yaml", home)
    study = STUDY | {
        "space": {"modality": {"choice": ["flow", "mb"]}},
        "ensemble": {"fewest_streams": 2},
        "stopping": "none",
        "search": "grid",
    }
    run_study(StudyConfig.parse(study, "test"), root, home, workers=2)

    without = (home.reports / "chaos" / "report.html").read_text()
    pictures = write_study_report(home, "chaos", with_frames=True)
    assert pictures.read_text().count("<img") >= 2
    assert "<img" not in without
    assert {path.name for path in (home.reports / "chaos").glob("table.*")} == {"table.md", "table.tex", "table.csv"}

    config = load_ablation(root / "apart.yaml", home)
    assert list(config.rows) == ["complete", "without attention", "without flow", "without mb"]
    estimate = estimate_ablation(config, root, home, workers=2)
    assert "4 cells of 4 streams; 4 fits to train, 4 are there" in estimate.text()

    outcome = run_ablation(config, root, home, workers=2)
    assert outcome.facts()["fits"] == {"trained": 4, "reused": 4}
    assert not outcome.interrupted
    assert outcome.failed == 0
    assert "complete" in outcome.text()

    ledger = Ledger(home.ledger)
    evidence = gather_evidence(summarise(home, "chaos"), ledger)
    assert evidence.ablation["ablation"] == "apart"
    contrasts = {item["one"]: item["difference"] for item in evidence.ablation["contrasts"]}
    assert set(contrasts) == {"without attention", "without flow", "without mb"}
    added = {item.member.name: item.difference.difference for item in evidence.added}
    assert contrasts["without flow"] == pytest.approx(-added["flow"])
    assert "| without attention | " in model_card("chaos", evidence)
    decided = len(ledger.study("chaos").events())
    run_ablation(config, root, home, workers=2)
    assert len(ledger.study("chaos").events()) == decided

    written = {path.name for path in outcome.report.parent.iterdir()}
    assert {"report.html", "tables.md", "tables.tex", "cells.csv", "hand-statistics.csv"} <= written
    client = mlflow.MlflowClient(tracking_uri=home.tracking_uri)
    (experiment,) = [item for item in client.search_experiments() if item.name == "apart-hand"]
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert not any(b"<img" in path.read_bytes() for path in home.artifacts.rglob("*") if path.is_file())
    stored = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"ablation-report.html", "ablation-tables.tex", "overview.html"} <= stored
    assert sum("mlflow.parentRunId" in run.data.tags for run in runs) == 4


def test_a_cohort_that_lacks_people_of_the_study_is_refused(place):
    root, home = place
    lines = (root / "cohort" / "cohort.csv").read_text().splitlines()
    subject = lines[1].split(",")[1]
    (root / "cohort" / "fewer.csv").write_text("\n".join(line for line in lines if f",{subject}," not in line) + "\n")
    (root / "fewer.yaml").write_text(yaml.safe_dump(SPEC | {"ablation": "fewer", "cohort": "cohort/fewer.csv"}))
    with pytest.raises(BadInput, match="lacks 1 subjects of study 'chaos'"):
        run_ablation(load_ablation(root / "fewer.yaml", home), root, home, workers=2)
