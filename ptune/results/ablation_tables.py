"""Numbers of an ablation become lines: the paper's shape, statistics of each cell, columns against each other, classes.

A bold number with a dagger is better than every other of its task; an asterisk tells a cell apart from the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ptune.config import signature_of
from ptune.config.ablation import AblationConfig
from ptune.metrics import METRICS
from ptune.results.contrasts import TaskNumbers
from ptune.results.stats import ESTIMABLE_SUBJECTS, LEVEL, Comparison, class_subjects, fold_support
from ptune.results.table import Line, Table
from ptune.results.tables import decimal, origin, percent, protocol_name, support_rows

TICKS = {"rgb": "RGB", "flow": "Flow", "mb": "MBs"}
TICK, MISSING, APART, BEST = "x", "-", "*", "†"
#: Metrics that are no shares.
PLAIN = {"kappa_quadratic", "mae", "spearman"}
HEADINGS = {
    "accuracy": "accuracy",
    "f1_weighted": "weighted F1",
    "f1_macro": "macro F1",
    "balanced_accuracy": "balanced acc.",
    "kappa_quadratic": "kappa",
    "mae": "MAE",
    "within_one": "within one",
    "spearman": "Spearman",
}
ZERO_RULE = "A quotient by zero counts as 0, in resamples too."


def task_tables(numbers: TaskNumbers) -> dict[str, Table]:
    """Returns the tables of one task by a short name."""
    found = {"statistics": statistics_table(numbers)}
    if numbers.across_columns:
        found["columns"] = columns_table(numbers)
    return found | {"metrics": metrics_table(numbers), "classes": classes_table(numbers), "folds": folds_table(numbers)}


def main_table(config: AblationConfig, tasks: Sequence[TaskNumbers]) -> Table:
    """Returns the table in the paper's shape: under each task its columns, then their averages over tasks.

    Where there is one column, ticks say which modalities a row fuses, as in the paper's table 3.
    """
    columns = list(config.columns)
    ticks = TICKS if len(columns) == 1 else {}
    write = _writer(config.objective.metric)
    headings = [("", ""), *(("", name) for name in ticks.values())]
    averaged = len(tasks) > 1
    above = [*(numbers.task.task for numbers in tasks), *(["average"] if averaged else [])]
    headings += [(name, column) if len(columns) > 1 else ("", name) for name in above for column in columns]
    lines = []
    for row in config.rows:
        texts: list[str] = []
        values: list[float | None] = []
        bold = set()
        for numbers in tasks:
            for column in columns:
                name = _name(row, column)
                if name == numbers.best:
                    bold.add(1 + len(ticks) + len(texts))
                texts.append(_marked(numbers, name))
                values.append(numbers.value(name))
        used = {modality for modality in ticks if _uses(config, row, modality)}
        cells = [row, *(TICK if modality in used else "" for modality in ticks), *texts]
        if averaged:
            for place in range(len(columns)):
                own = [value for value in values[place :: len(columns)] if value is not None]
                cells.append(write(sum(own) / len(own)) if len(own) == len(tasks) else MISSING)
        lines.append(Line(tuple(cells), "", frozenset(bold)))
    for kind in dict.fromkeys(_kind(name) for numbers in tasks for name in numbers.rows):
        cells = [kind, *("" for _ in ticks)]
        for numbers in tasks:
            found = [numbers.value(name) for name in numbers.rows if _kind(name) == kind]
            cells += [write(found[0]) if found and found[0] is not None else MISSING, *("" for _ in columns[1:])]
        lines.append(Line((*cells, *("" for _ in columns if averaged)), "base"))
    return Table(_main_caption(config, tasks), tuple(headings), tuple(lines), tuple(_main_notes(config, tasks)))


def statistics_table(numbers: TaskNumbers) -> Table:
    """Returns each cell with its interval, the mean over folds, and how it compares with the reference."""
    write = _writer(numbers.metric)
    published = numbers.config.published
    given = published.values.get(numbers.task.task, {}) if published else {}
    heading = HEADINGS[numbers.metric]
    headings = [("pooled", heading), ("pooled", "95 % interval"), ("by fold", "mean ± SD")]
    headings += [("minus reference", "difference"), ("minus reference", "95 % interval")]
    headings += [("minus reference", "p"), ("minus reference", "Holm")]
    headings += [("other data", "published")] if given else []
    places = {item.name: item.cell for item in numbers.task.cells}
    lines = []
    for name in numbers.everything:
        folds = numbers.folds[name]
        cells = [name, _marked(numbers, name), _interval(numbers.intervals[name], write)]
        cells += [
            f"{write(folds.mean)} ± {write(folds.deviation)}",
            *_against(numbers.against_reference.get(name), write),
        ]
        if given:
            cell = places.get(name)
            values = given.get(cell.row, ()) if cell else ()
            column = list(numbers.config.columns).index(cell.column) if cell else 0
            cells.append(f"{values[column]:.1f}" if values else "")
        lines.append(Line(tuple(cells), "base" if name in numbers.rows else "", frozenset({1} & _best(numbers, name))))
    notes = [
        f"The reference is {numbers.reference}. p: exchange test over subjects, two-sided; Holm: corrected over the "
        f"{len(numbers.against_reference)} cells of this family."
    ]
    if published and given:
        notes.append(f"Published: {published.source}; other videos of other people, not comparable with these columns.")
    return Table(task_caption(numbers), (("", ""), *headings), tuple(lines), tuple(notes))


def columns_table(numbers: TaskNumbers) -> Table:
    """Returns what each row's first column gains over its others."""
    write = _writer(numbers.metric)
    first, *others = numbers.config.columns
    cells = {item.name: item.cell for item in numbers.task.cells}
    lines = []
    for item in numbers.across_columns:
        cell = cells[item.other]
        name = cell.row if len(others) == 1 else f"{cell.row}: {first} minus {cell.column}"
        lines.append(Line((name, *_against(item, write))))
    over = f"{first} minus {others[0]}" if len(others) == 1 else f"{first} minus another"
    headings = (("", ""), *((over, name) for name in ("difference", "95 % interval", "p", "Holm")))
    note = f"{HEADINGS[numbers.metric]}, paired on the same videos; Holm: corrected over the {len(lines)} rows."
    return Table(task_caption(numbers), headings, tuple(lines), (note,))


def metrics_table(numbers: TaskNumbers) -> Table:
    """Returns all metrics of each cell: of classes, and of their order."""
    headings = [("", ""), *(("as classes", HEADINGS[name]) for name in METRICS[:4])]
    headings += [("as an order", HEADINGS[name]) for name in METRICS[4:]]
    lines = [
        Line(
            (name, *(_writer(metric)(numbers.metrics[name][metric]) for metric in METRICS)),
            "base" if name in numbers.rows else "",
        )
        for name in numbers.everything
    ]
    note = f"Kappa has quadratic weights; MAE is in classes; within one: at most one class off. {ZERO_RULE}"
    return Table(task_caption(numbers), tuple(headings), tuple(lines), (note,))


def classes_table(numbers: TaskNumbers) -> Table:
    """Returns the F1 of each class, where enough subjects have it."""
    names = numbers.class_names
    subjects = class_subjects(numbers.frame, len(names))
    lines = []
    for name in numbers.everything:
        values = [percent(numbers.metrics[name][f"f1.{label}"]) for label in names]
        shown = [
            value if count >= ESTIMABLE_SUBJECTS else "not estimable"
            for value, count in zip(values, subjects, strict=True)
        ]
        lines.append(Line((name, *shown), "base" if name in numbers.rows else ""))
    headings = (("", ""), *(("F1 of class", label) for label in names))
    note = f"Not estimable: fewer than {ESTIMABLE_SUBJECTS} subjects have a video of the class. {ZERO_RULE}"
    return Table(task_caption(numbers), headings, tuple(lines), (note,))


def folds_table(numbers: TaskNumbers) -> Table:
    """Returns how many videos and subjects of each class each fold holds out."""
    names = numbers.class_names
    rows, folds = support_rows(fold_support(numbers.frame, names), names)
    lines = [Line(tuple(row)) for row in rows]
    headings = (("", "class"), *(("held out in fold", str(fold)) for fold in folds))
    return Table(task_caption(numbers), headings, tuple(lines), ("Videos (subjects).",))


def task_caption(numbers: TaskNumbers) -> str:
    """Returns what a table of one task rests on: videos, subjects, folds, seeds, protocol, signature."""
    config, frame = numbers.config, numbers.frame
    return (
        f"{origin(numbers.task.facts)}Ablation {config.ablation}, task {numbers.task.task}: {len(frame)} videos of "
        f"{frame['subject'].nunique()} subjects, {_design(config)}, {protocol_name(numbers.task.facts)}, "
        f"signature {_signature(config, [numbers])}."
    )


def _main_caption(config: AblationConfig, tasks: Sequence[TaskNumbers]) -> str:
    counts = "; ".join(
        f"{numbers.task.task} {len(numbers.frame)} videos of {numbers.frame['subject'].nunique()} subjects"
        for numbers in tasks
        if numbers.cells
    )
    protocols = " or ".join(dict.fromkeys(protocol_name(numbers.task.facts) for numbers in tasks))
    first = next(numbers for numbers in tasks if numbers.cells)
    return (
        f"{origin(first.task.facts)}Ablation {config.ablation}: {HEADINGS[config.objective.metric]}; {counts}; "
        f"{_design(config)}, {protocols}, signature {_signature(config, tasks)}."
    )


def _design(config: AblationConfig) -> str:
    seeds = ", ".join(map(str, config.seeds))
    return (
        f"{config.folds.count} subject-disjoint folds (seed {config.folds.seed}), {len(config.seeds)} seed"
        f"{'' if len(config.seeds) == 1 else 's'} of training ({seeds}), pooled out-of-fold predictions"
    )


def _signature(config: AblationConfig, tasks: Sequence[TaskNumbers]) -> str:
    return signature_of([config.signature(), [numbers.task.facts.cohort["digest"] for numbers in tasks]])[:12]


def _main_notes(config: AblationConfig, tasks: Sequence[TaskNumbers]) -> list[str]:
    place = config.compared_with
    notes = [
        f"{APART} differs from {_name(place.row, place.column)} of its task (exchange test over subjects, Holm's "
        f"correction over its cells, p <= {LEVEL:g}). {BEST} and bold: better than every other cell of its task "
        "(Holm's correction over all pairs)."
    ]
    for numbers in tasks:
        if numbers.cells and numbers.best is None and len(numbers.cells) > 1:
            highest = max(numbers.cells, key=lambda name: numbers.metrics[name][numbers.metric])
            notes.append(
                f"{numbers.task.task}: no cell is better than all the others; {highest} has the highest number."
            )
    if len(config.seeds) == 1:
        notes.append("One seed: what differs from one training to the next is in no interval.")
    return notes


def _name(row: str, column: str) -> str:
    return f"{row}, {column}" if column else row


def _kind(row: str) -> str:
    """Returns a row's name without what it was made of, which may differ between tasks."""
    return row.partition(" (")[0]


def _uses(config: AblationConfig, row: str, modality: str) -> bool:
    points = next(cell.points for cell in config.cells(config.tasks[0]) if cell.row == row)
    return any(point.get("modality", config.fixed.get("modality", "rgb")) == modality for point in points)


def _writer(metric: str) -> Callable[[float], str]:
    return decimal if metric in PLAIN else percent


def _best(numbers: TaskNumbers, name: str) -> set[int]:
    return {1} if numbers.best == name else set()


def _marked(numbers: TaskNumbers, name: str) -> str:
    value = numbers.value(name)
    if value is None:
        return MISSING
    contrast = numbers.against_reference.get(name)
    apart = APART if contrast is not None and contrast.supported else ""
    return f"{_writer(numbers.metric)(value)}{apart}{BEST if numbers.best == name else ''}"


def _interval(interval: tuple[float, float], write: Callable[[float], str]) -> str:
    return f"{write(interval[0])} to {write(interval[1])}"


def _against(contrast: Comparison | None, write: Callable[[float], str]) -> list[str]:
    if contrast is None:
        return ["", "", "", ""]
    difference = contrast.found.difference
    signed = write(difference)
    signed = signed if signed.startswith("-") else f"+{signed}"
    return [signed, _interval(contrast.found.interval, write), _p(contrast.found.p_value), _p(contrast.corrected)]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
