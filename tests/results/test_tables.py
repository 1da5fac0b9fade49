"""A table carries what it rests on and what a constant answer would score."""

from pathlib import Path

import numpy as np
import pandas as pd

from ptune.replay import StudyFacts, read_study
from ptune.results.fusion import study_frames, study_fusion
from ptune.results.privacy import WITHHELD, public_reason
from ptune.results.tables import decimal, percent, study_signature, study_table, warnings_of
from tests.example_study import example_study


def example(tmp_path: Path, trials: int = 9) -> tuple[StudyFacts, dict[int, pd.DataFrame]]:
    ledger = example_study(tmp_path, trials=trials)
    facts = read_study(ledger, "hand")
    assert facts is not None
    return facts, study_frames(facts, ledger)


def test_table_has_trials_fusions_and_the_majority_row(tmp_path: Path) -> None:
    facts, frames = example(tmp_path)
    fusion = study_fusion(facts, frames)
    table = study_table(facts, frames, fusion)
    names = [line.cells[0] for line in table.lines]
    assert names[0] == f"trial-{facts.finished()[0].number:02d} {facts.finished()[0].group}"
    assert names[-5:] == ["rgb + flow", "rgb + mb", "flow + mb", "rgb + flow + mb", "always mild"]
    for part in ("60 videos", "12 subjects", "3 subject-disjoint folds (seed 0)", "8 snippets of 16 frames"):
        assert part in table.caption
    assert study_signature(facts)[:12] in table.caption
    lines = table.text().splitlines()
    widths = {len(line) for line in lines[2 : 4 + len(names)]}
    assert len(widths) == 1
    assert table.markdown().count("\n| ") == len(names) + 2


def test_a_study_without_finished_trials_still_shows_the_majority(tmp_path: Path) -> None:
    facts, _ = example(tmp_path, trials=0)
    (line,) = study_table(facts, {}).lines
    assert line.cells[0] == "always mild"
    assert study_fusion(facts, {}) is None


def test_rare_classes_absent_folds_and_missing_streams_are_named(tmp_path: Path) -> None:
    facts, frames = example(tmp_path, trials=2)
    rare = {
        number: frame.assign(label=np.where(frame["subject"] == frame["subject"][0], frame["label"], 1))
        for number, frame in frames.items()
    }
    text = " ".join(warnings_of(facts, rare, study_fusion(facts, rare)))
    assert "not estimable" in text
    assert "holds no video of class" in text
    assert "No finished trial of mb" in text
    assert "optimistic" in text


def test_numbers_that_round_to_zero_have_no_sign() -> None:
    assert (percent(-0.0001), decimal(-0.001), percent(-0.01), decimal(-0.25)) == ("0.0", "0.00", "-1.0", "-0.25")


def test_reasons_that_name_files_or_subjects_are_withheld() -> None:
    subjects = ["P-anna", "7"]
    for text in ("/data/x is gone", "clip 3.mp4 is damaged", "p-Anna has no video", "subject 7 is in two folds"):
        assert public_reason(text, subjects) == WITHHELD
    assert public_reason("loss is nan at epoch 7\ntrace", subjects) == "loss is nan at epoch 7"
