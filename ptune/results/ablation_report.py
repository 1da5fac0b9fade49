"""An ablation becomes files: one self-contained page, and its tables as text, Markdown, LaTeX and CSV.

They show counts, metrics and settings; no subject, path, file name or pixel.
"""

from __future__ import annotations

import re

import numpy as np

from ptune import page
from ptune.results import plots
from ptune.results.ablation import AblationResult
from ptune.results.ablation_tables import HEADINGS, PLAIN, columns_table
from ptune.results.contrasts import TaskNumbers
from ptune.results.error_plots import reliability_figure, subjects_figure
from ptune.results.methods import ablation_methods
from ptune.results.stats import Comparison, by_subject
from ptune.results.table import Table

FILE_NAME = "report.html"


def ablation_files(result: AblationResult) -> dict[str, bytes]:
    """Returns the page and the tables of an ablation by file name."""
    tables = result.tables
    files = {
        FILE_NAME: ablation_page(result),
        "tables.txt": "\n".join(table.text() for table in tables.values()),
        "tables.md": "\n".join(table.markdown() for table in tables.values()),
        "tables.tex": "\n".join(table.latex() for table in tables.values()),
    }
    files |= {f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.csv": table.csv() for name, table in tables.items()}
    return {name: text.encode() for name, text in files.items()}


def ablation_page(result: AblationResult) -> str:
    """Returns one HTML document that needs nothing from anywhere else."""
    sections = [("", page.bullets(result.warnings, "warnings"))]
    if result.main is not None:
        sections.append(("Cells", result.main.html()))
    for numbers in result.tasks:
        if numbers.cells:
            sections += _sections(numbers, result.details[numbers.task.task])
    begun = [numbers.task.facts for numbers in result.tasks if numbers.cells]
    if begun:
        sections.append(("Methods", page.paragraph(ablation_methods(result.config, begun))))
    config = result.config
    subtitle = f"{len(config.rows)} rows, {len(config.columns)} columns, tasks {', '.join(config.tasks)}"
    return page.page(f"Ablation {config.ablation}", subtitle, sections)


def _sections(numbers: TaskNumbers, tables: dict[str, Table]) -> list[tuple[str, str]]:
    task = numbers.task.task.capitalize()
    found = [(f"{task}: each cell", tables["statistics"].html() + _forest(numbers))]
    if "columns" in tables:
        found.append((f"{task}: columns", tables["columns"].html() + _columns_forest(numbers)))
    found.append((f"{task}: metrics", tables["metrics"].html() + tables["classes"].html()))
    return [*found, (f"{task}: errors", _errors(numbers)), (f"{task}: folds", tables["folds"].html())]


def _forest(numbers: TaskNumbers) -> str:
    gains = [_gain(item.one, item, numbers.metric) for item in numbers.against_reference.values()]
    if not gains:
        return ""
    label = f"{HEADINGS[numbers.metric]}, difference from {numbers.reference}"
    return _drawn(gains, label, f"forest-{numbers.task.facts.config.study}")


def _columns_forest(numbers: TaskNumbers) -> str:
    names = [line.cells[0] for line in columns_table(numbers).lines]
    pairs = zip(names, numbers.across_columns, strict=True)
    gains = [_gain(name, item, numbers.metric) for name, item in pairs]
    first, *others = numbers.config.columns
    label = f"{HEADINGS[numbers.metric]}, {first} minus {others[0] if len(others) == 1 else 'another'}"
    return _drawn(gains, label, f"columns-{numbers.task.facts.config.study}")


def _drawn(gains: list[plots.Gain], label: str, name: str) -> str:
    note = "Lines are 95 % intervals of one comparison each; a filled dot is supported by the corrected test."
    return plots.svg(plots.forest_figure(gains, label), name) + page.paragraph(note, "caption")


def _gain(name: str, item: Comparison, metric: str) -> plots.Gain:
    """Returns a row of a forest plot in the units of the tables."""
    unit = 1 if metric in PLAIN else 100
    low, high = item.found.interval
    return plots.Gain(name, unit * item.found.difference, unit * low, unit * high, item.supported)


def _errors(numbers: TaskNumbers) -> str:
    """Returns confusion matrices of the reference and of the cell with the highest number, and that cell's errors."""
    names, study = numbers.class_names, numbers.task.facts.config.study
    highest = max(numbers.cells, key=lambda name: numbers.metrics[name][numbers.metric])
    shown = dict.fromkeys([name for name in (numbers.reference, highest) if name in numbers.cells])
    figures = []
    for place, name in enumerate(shown):
        counts = np.rint(by_subject(numbers.cells[name], len(names)).sum(0)).astype(np.int64)
        figure = plots.confusion_figure(counts, names, name)
        figures.append(plots.svg(figure, f"confusion-{place}-{study}", full=False))
    frame = numbers.cells[highest][0]
    figures.append(plots.svg(reliability_figure(frame), f"reliability-{study}", full=False))
    body = "".join(f"<div>{figure}</div>" for figure in figures)
    strip = plots.svg(subjects_figure(frame, names), f"subjects-{study}")
    note = (
        f"Reliability and errors by subject are those of {highest}, with the first seed. Circles are right, triangles "
        f"point to where a video was seen. The report of study {study} has learning curves, attention and single clips."
    )
    return f'<div class="pair wrap">{body}</div>{strip}' + page.paragraph(note, "caption")
