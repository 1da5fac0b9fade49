"""Cells become tables that mark only what the corrected tests support."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest

from ptune.config.ablation import AblationConfig
from ptune.replay import StudyFacts
from ptune.results.ablation import AblationResult
from ptune.results.ablation_report import ablation_files
from ptune.results.cells import CellResult, TaskCells
from ptune.results.contrasts import TaskNumbers

NAMES = ("normal", "mild", "severe")
SUBJECTS, VIDEOS = 20, 4


def config(**changes):
    values = {
        "ablation": "example",
        "cohort": "canary_cohort.csv",
        "tasks": ["hand", "gait"],
        "init": "random",
        "rows": {"RGB & co_1": ["rgb"], "Flow": ["flow"], "Both": ["rgb", "flow"]},
        "columns": {"+attention": {}, "-attention": {"attention": False}},
        "published": {"source": "Somebody 2020", "values": {"hand": {"Flow": [71.0, 68.6]}}},
    }
    return AblationConfig.parse(values | changes, "test")


def frame(skill, seed, labels=None):
    """Returns predictions that are right with a chance of `skill`, and wrong by one class otherwise."""
    random = np.random.default_rng(seed)
    truth = np.random.default_rng(0).integers(0, 3, SUBJECTS * VIDEOS) if labels is None else labels
    right = random.random(len(truth)) < skill
    predicted = np.where(right, truth, (truth + random.integers(1, 3, len(truth))) % 3)
    subject = np.repeat([f"CANARY-{number:02d}" for number in range(SUBJECTS)], VIDEOS)
    return pd.DataFrame(
        {
            "video_id": [f"v{number:03d}" for number in range(len(truth))],
            "subject": subject,
            "fold": np.repeat(np.arange(SUBJECTS) % 5, VIDEOS),
            "score": truth,
            "label": truth,
            "probabilities": list(np.eye(3)[predicted]),
        }
    )


def result(skills, plan=None, rows=None, problem=""):
    """Returns an ablation whose cells have the given skills in order; None is a cell that lacks a stream."""
    plan = plan or config()
    tasks = []
    for number, task in enumerate(plan.tasks):
        study = plan.study(task)
        cohort = {"digest": "d" * 64, "videos": 80, "subjects": 20, "class_counts": {}}
        facts = StudyFacts(study, cohort, {f"CANARY-{index:02d}": index % 5 for index in range(SUBJECTS)})
        cells = tuple(
            CellResult(
                cell, () if skill is None else (frame(skill, 10 * number + place),), problem if skill is None else ""
            )
            for place, (cell, skill) in enumerate(zip(plan.cells(task), skills, strict=True))
        )
        tasks.append(TaskNumbers(plan, TaskCells(task, facts, cells), rows or {}, {}))
    return AblationResult(plan, tuple(tasks))


def line(table, name):
    return next(line for line in table.lines if line.cells[0] == name)


def test_a_cell_far_better_than_all_others_is_marked_and_bold():
    found = result([0.4, 0.4, 0.95, 0.4, 0.4, 0.4])
    flow = line(found.main, "Flow")
    assert flow.cells[1].endswith("*†")
    assert flow.bold == {1, 3}, "it is the best of both tasks"
    assert found.tasks[0].best == "Flow, +attention"
    assert not any("*" in cell for cell in line(found.main, "Both").cells)
    assert found.main.headings[1:3] == (("hand", "+attention"), ("hand", "-attention"))
    assert "no cell is better" not in found.main.text()


def test_equal_cells_are_not_marked_and_the_highest_is_said_to_be_chance():
    found = result([0.6] * 6)
    text = found.main.text()
    body = text.split("-----\n")[1].split("\n\n")[0]
    assert "†" not in body
    assert text.count("no cell is better than all the others") == 2


def test_predictions_that_know_nothing_are_not_marked():
    """One table of thousands: `make validity` counts how often chance marks a cell."""
    plan = config(tasks=["hand"], published=None)
    found = result([0.33] * 6, plan)
    (numbers,) = found.tasks
    assert numbers.best is None
    assert not any(item.supported for item in numbers.against_reference.values())


def test_a_missing_stream_leaves_a_gap_with_its_reason():
    found = result([0.4, 0.4, None, 0.4, 0.4, 0.4], problem="stream 2 (flow) is failed: loss is nan")
    assert line(found.main, "Flow").cells[1] == "-"
    assert "hand: Cell Flow, +attention: stream 2 (flow) is failed: loss is nan." in found.warnings


def test_averages_are_those_of_the_tasks():
    found = result([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    for row in ("RGB & co_1", "Flow", "Both"):
        cells = [cell.rstrip("*†") for cell in line(found.main, row).cells[1:]]
        hand, gait, average = (np.array(cells[place : place + 2], float) for place in (0, 2, 4))
        assert average == pytest.approx((hand + gait) / 2, abs=0.11)


def test_what_does_not_beat_the_nuisance_row_is_named():
    rows = {"always mild": [frame(0.33, 1)], "nuisance only (duration)": [frame(0.9, 2)]}
    poor = result([0.4] * 6, rows=rows)
    assert any("No cell is shown to beat nuisance only (duration)" in text for text in poor.warnings)
    assert line(poor.main, "nuisance only").kind == "base"
    good = result([0.95] * 6, rows={"always mild": [frame(0.33, 1)], "nuisance only (duration)": [frame(0.35, 2)]})
    assert not any("nuisance" in text for text in good.warnings)


def test_numbers_of_a_class_with_two_subjects_are_not_estimable():
    found = result([0.6] * 6, config(tasks=["hand"]))
    (numbers,) = found.tasks
    rare = [
        frame_.assign(label=np.where(frame_["subject"] < "CANARY-02", 2, 1))
        for frame_ in (item.frames[0] for item in numbers.task.cells)
    ]
    cells = tuple(CellResult(item.cell, (table,)) for item, table in zip(numbers.task.cells, rare, strict=True))
    other = AblationResult(
        found.config, (TaskNumbers(found.config, TaskCells("hand", numbers.task.facts, cells), {}, {}),)
    )
    assert line(other.details["hand"]["classes"], "Flow, +attention").cells[3] == "not estimable"
    assert any("Class severe rests on 2 subjects" in text for text in other.warnings)


def test_published_figures_stand_in_a_column_of_their_own():
    found = result([0.4] * 6)
    table = found.details["hand"]["statistics"]
    assert table.headings[-1] == ("other data", "published")
    assert line(table, "Flow, +attention").cells[-1] == "71.0"
    assert line(table, "Both, +attention").cells[-1] == ""
    assert "published" not in str(found.details["gait"]["statistics"].headings)


def test_one_column_gives_ticks_as_in_the_papers_table_3():
    found = result([0.4, 0.5, 0.6], config(columns={"": {}}, published=None))
    assert [name for _, name in found.main.headings[1:4]] == ["RGB", "Flow", "MBs"]
    assert line(found.main, "Both").cells[1:4] == ("x", "x", "")
    assert found.main.headings[4:] == (("", "hand"), ("", "gait"), ("", "average"))
    assert "columns" not in found.details["hand"]


def test_latex_is_balanced_and_escaped_and_csv_reads_back():
    found = result([0.4, 0.4, 0.95, 0.4, 0.4, 0.4])
    for table in found.tables.values():
        latex = table.latex()
        assert latex.count("{") == latex.count("}")
        body = latex.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
        for row in (row for row in body.splitlines() if row.endswith(r"\\")):
            assert len(re.findall(r"(?<!\\)&", row)) == len(table.headings) - 1
        assert not re.search(r"(?<!\\)[%#_]|[<>†]", latex.replace("% needs", ""))
        rows = list(csv.reader(io.StringIO(table.csv())))
        assert {len(row) for row in rows} == {len(table.headings)}
        assert len(rows) == 1 + len(table.lines)
    assert r"RGB \& co\_1" in found.main.latex()
    assert r"\textbf{" in found.main.latex()
    assert r"\multicolumn{2}{c}{hand}" in found.main.latex()
    assert r"\cmidrule(lr){2-3}" in found.main.latex()


def test_files_name_no_subject_and_no_file():
    files = ablation_files(result([0.4, 0.4, 0.95, 0.4, 0.4, 0.4]))
    assert {"report.html", "tables.tex", "tables.md", "cells.csv", "hand-statistics.csv"} <= set(files)
    everything = b"\n".join(files.values())
    assert b"CANARY" not in everything
    assert b"canary" not in everything
    assert b"http" not in files["report.html"].replace(b"http://www.w3.org", b"")
