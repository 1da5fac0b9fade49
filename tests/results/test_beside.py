"""The best fusion beside a row that knows nothing of the movement, and beside one that knows all."""

from pathlib import Path

import numpy as np
import pytest

from ptune.ledger import Ledger, predictions_table
from ptune.metrics import majority, score_frame, stacked
from ptune.replay import Baseline, read_study, study_baselines
from ptune.results.beside import beside, remarks
from ptune.results.fusion import study_frames, study_fusion
from ptune.results.report import write_report
from ptune.results.summary import summarise
from ptune.results.tables import caption, study_table
from tests.example_study import CLASSES, example_study


@pytest.fixture
def study(tmp_path: Path):
    ledger = example_study(tmp_path / "ledger")
    facts = read_study(ledger, "hand")
    frames = study_frames(facts, ledger)
    return ledger, facts, frames, study_fusion(facts, frames)


def answering(frame, chances, key="nuisance", name="nuisance only (duration)", note=""):
    return Baseline(key, name, frame.assign(probabilities=list(chances)), note)


def record(ledger: Ledger, row: Baseline) -> None:
    log = ledger.study("hand")
    rows = row.frame.assign(attention=None).to_dict("records") if row.frame is not None else []
    table = log.keep(predictions_table(rows)) if rows else ""
    content = {"row": row.key, "name": row.name, "note": row.note, "signature": "s", "table": table}
    log.append("decided", what="baseline", **content)


def test_a_row_that_the_fusion_beats_gives_its_gain_and_no_warning(study):
    _, _, _, fusion = study
    row = answering(fusion.frame, majority(fusion.frame["label"], 3))
    (found,) = beside(fusion.frame, [row], "f1_macro", CLASSES)
    gain = fusion.metrics["f1_macro"] - score_frame(row.frame, CLASSES)["f1_macro"]
    assert found.beaten
    assert found.difference.difference == pytest.approx(gain)
    assert found.difference.interval[0] < gain < found.difference.interval[1]
    assert found.text().startswith(f"f1_macro gained over nuisance only (duration): {gain:+.3f} (95 % interval")
    assert remarks([row], [found]) == []


def test_a_row_that_is_as_good_is_said_to_be_not_beaten(study):
    _, _, _, fusion = study
    same = answering(fusion.frame, stacked(fusion.frame))
    perfect = answering(fusion.frame, np.eye(3)[fusion.frame["label"]], "frozen", "frozen Kinetics I3D")
    compared = beside(fusion.frame, [perfect, same], "f1_weighted", CLASSES)
    assert [item.beaten for item in compared] == [False, False]
    better, equal = remarks([perfect, same], compared)
    assert better.startswith("The best fusion is not shown to beat frozen Kinetics I3D (p = ")
    assert "pretraining" in better
    assert equal.startswith("The best fusion is not shown to beat nuisance only (duration) (p = 1)")
    assert "nothing to do with the movement" in equal


def test_what_is_missing_or_left_out_is_said(study):
    _, _, _, fusion = study
    missing = Baseline("frozen", "frozen Kinetics I3D", None, "the weights are missing")
    partial = answering(fusion.frame, majority(fusion.frame["label"], 3), note="left out: side (it does not say)")
    found = remarks([missing, partial], beside(fusion.frame, [missing, partial], "f1_macro", CLASSES))
    assert found[0] == "There is no row of frozen Kinetics I3D: the weights are missing."
    assert found[1] == "The row nuisance only (duration) has left out: side (it does not say)."
    assert "made when the sweep ends" in remarks([], ())[0]


def test_tables_summary_and_report_have_the_rows_of_the_ledger(study, tmp_path):
    from ptune.home import Home

    ledger, facts, frames, fusion = study
    record(ledger, answering(fusion.frame, np.eye(3)[fusion.frame["label"]]))
    record(ledger, Baseline("frozen", "frozen Kinetics I3D", None, "the weights are missing"))
    rows = study_baselines(ledger, read_study(ledger, "hand"))
    assert [row.key for row in rows] == ["frozen", "nuisance"]
    names = [line.cells[0] for line in study_table(facts, frames, fusion, rows).lines]
    assert names[-2:] == ["nuisance only (duration)", "always mild"]
    found = summarise(Home(tmp_path, tmp_path / "features"), "hand")
    assert found.facts()["beside"][0]["row"] == "nuisance only (duration)"
    assert not found.facts()["beside"][0]["beaten"]
    assert "f1_weighted gained over nuisance only (duration): -0." in found.text()
    assert "warning: There is no row of frozen Kinetics I3D: the weights are missing." in found.text()
    page = write_report(tmp_path / "report", "hand", read_study(ledger, "hand"), ledger).read_text()
    for part in ("nuisance only (duration)", "is not shown to beat", "the weights are missing"):
        assert part in page


def test_the_latest_row_of_a_kind_counts(study):
    ledger, _, _, fusion = study
    record(ledger, Baseline("nuisance", "nuisance only", None, "nothing is known"))
    record(ledger, answering(fusion.frame, majority(fusion.frame["label"], 3)))
    (row,) = study_baselines(ledger, read_study(ledger, "hand"))
    assert row.name == "nuisance only (duration)"
    assert np.allclose(stacked(row.frame), majority(fusion.frame["label"], 3))


def test_a_synthetic_cohort_is_captioned_as_such(study):
    _, facts, frames, _ = study
    assert caption(facts, frames).startswith("Study hand")
    facts.cohort["synthetic"] = True
    assert caption(facts, frames).startswith("Synthetic cohort: rendered videos, no patients. Study hand")
    assert "Synthetic cohort" in study_table(facts, frames).text()
