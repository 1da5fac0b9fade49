"""A study in the ledger becomes one self-contained HTML page: what was found, how, and what to be careful about.

It shows counts, metrics and settings; no subject, path, file name or pixel. Knows nothing of MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ptune import page
from ptune.home import write_bytes
from ptune.ledger import Ledger
from ptune.metrics import PER_CLASS, majority_class, majority_row
from ptune.replay import StudyFacts
from ptune.results import plots
from ptune.results.fusion import Fusion, study_corrected, study_frames, study_fusion
from ptune.results.privacy import public_reason
from ptune.results.stats import ESTIMABLE_SUBJECTS, beats_majority, class_subjects, cluster_interval, pooled_confusion
from ptune.results.tables import (
    UNITS,
    caption,
    percent,
    protocol_name,
    study_labels,
    study_signature,
    study_table,
    trial_name,
    warnings_of,
)

if TYPE_CHECKING:
    import pandas as pd

FILE_NAME = "report.html"
MOST_CURVES = 12
NETWORKS = {
    "i3d": "an Inflated-3D Inception-V1",
    "inception2d": "a 2-D Inception-V1 on stacked frames",
    "slowfast_4x16": "a SlowFast 4x16 ResNet-50",
    "slowfast_8x8": "a SlowFast 8x8 ResNet-50",
}
STATE_ORDER = {"finished": 0, "running": 1, "stopped": 2, "failed": 3}


def write_report(
    folder: Path,
    name: str,
    facts: StudyFacts,
    ledger: Ledger,
    fusion: Fusion | None = None,
    extras: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Writes the report of a study and returns its path, `folder`/report.html.

    Args:
        name: of the study.
        fusion: the chosen fusion; default the best one by the study's objective.
        extras: more tables by their heading (a champion, a held-out test), each a mapping of name to text;
            nothing in them may name a subject or a file.
    """
    frames = study_frames(facts, ledger)
    chosen = fusion or study_fusion(facts, frames)
    sections = [("", _summary(facts, frames, chosen)), ("Results", _results(facts, frames, chosen))]
    if chosen is not None:
        sections.append(("Errors", _errors(facts, chosen)))
    sections += [("Search", _search(facts)), ("Learning curves", _curves(facts))]
    if chosen is not None:
        sections.append(("Attention", _attention(facts, frames, chosen)))
    sections.append(("Trials", _trials(facts)))
    for heading, content in (extras or {}).items():
        sections.append((heading, page.table(["", ""], [[key, text] for key, text in content.items()], (1,))))
    sections.append(("Methods", page.paragraph(methods(facts))))
    html = page.page(f"Study {name}", caption(facts, frames), sections)
    path = folder / FILE_NAME
    write_bytes(path, html.encode())
    return path


def summary(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion | None) -> str:
    """Returns the result in two sentences, with its interval and the majority class beside it."""
    names = facts.config.grouping.names
    labels = study_labels(facts, frames)
    if fusion is None:
        return f"No trial of {len(facts.trials)} has finished yet."
    metric = facts.config.objective.metric
    word, constant = plots.WORDS.get(metric, metric), names[majority_class(labels, len(names))]
    low, high = cluster_interval(fusion.frame, metric, names)
    base = majority_row(labels, names)[metric]
    gain = beats_majority(fusion.frame, len(names))
    corrected = study_corrected(facts, frames)
    members = " and ".join(f"{modality} ({trial_name(facts.trials[n])})" for modality, n in fusion.members.items())
    verb = "Fusing" if len(fusion.members) > 1 else "The stream"
    return (
        f"{verb} {members} scores subjects it has not seen with {word} {percent(fusion.value)} "
        f"(95 % interval {percent(low)} to {percent(high)} over {gain.subjects} subjects); "
        f"corrected for having been chosen on the same subjects {percent(corrected.corrected)} "
        f"({percent(corrected.interval[0])} to {percent(corrected.interval[1])}); "
        f"always answering {constant} gives {percent(base)}. Per subject, accuracy is "
        f"{abs(100 * gain.difference):.1f} points {'above' if gain.difference >= 0 else 'below'} that constant answer "
        f"({percent(gain.interval[0])} to {percent(gain.interval[1])}, one-sided p = {gain.p_value:.2g})."
    )


def methods(facts: StudyFacts) -> str:
    """Returns the paragraph on methods with the study's own numbers."""
    config, cohort = facts.config, facts.cohort
    groups = ", ".join(
        f"{name} (scores {', '.join(map(str, scores))}; {cohort['class_counts'].get(name, 0)} videos)"
        for name, scores in zip(config.grouping.names, config.grouping.scores, strict=True)
    )
    streams = [facts.stream(trial) for trial in (facts.finished() or facts.trials.values())]
    epochs = _range([stream.epochs for stream in streams])
    segments = _range([stream.segments for stream in streams])
    frames = _range([stream.snippet_frames for stream in streams])
    initial = "Kinetics-400 weights" if config.init == "kinetics" else "random weights"
    networks = " or ".join(sorted({NETWORKS[stream.backbone] for stream in streams}))
    consecutive = all(stream.sampling == "consecutive" and stream.frame_stride == 1 for stream in streams)
    frames = f"{frames} consecutive frames" if consecutive else f"{frames} frames in order"
    return (
        f"{cohort['videos']} videos of {cohort['subjects']} subjects (task {config.task}) were grouped into {groups}. "
        f"Videos were reduced to {config.extraction.width} x {config.extraction.height} pixels; optical flow is TV-L1, "
        f"motion boundaries are spatial derivatives of the flow. Each stream is {networks} started "
        f"from {initial} and trained on one snippet of {frames} from each of {segments} segments of "
        f"a video, with Adam and focal loss, for {epochs} epochs; the last epoch is used. Settings were searched over "
        f"{len(facts.trials)} trials with {config.folds.count}-fold cross-validation; no subject is in the training "
        f"and the held-out part of a fold (seed {config.folds.seed}). Held-out videos were scored with "
        f"{protocol_name(facts)}, whose class probabilities are averaged; streams are fused by averaging theirs. "
        "Metrics are computed once, on the pooled out-of-fold predictions; intervals resample subjects, and the test "
        "against the constant answer flips signs of per-subject differences. The corrected score repeats the choice "
        "of trials and fusion without a quarter of the subjects, drawn anew each time, and scores it on those (after "
        "the bootstrap bias correction of Tsamardinos et al. 2018); trials that were stopped early are never chosen. "
        f"Cohort {str(cohort['digest'])[:12]}, study signature {study_signature(facts)[:12]}."
    )


def _summary(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion | None) -> str:
    text = page.paragraph(summary(facts, frames, fusion), "summary")
    return text + page.bullets(warnings_of(facts, frames, fusion), "warnings")


def _results(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion | None) -> str:
    table = study_table(facts, frames, fusion)
    kinds = ["base" if row.name.startswith("always ") else "" for row in table.rows]
    rows = [row.cells() for row in table.rows]
    return page.table(table.headings, rows, (), kinds) + page.paragraph(f"{table.caption} {UNITS}", "caption")


def _errors(facts: StudyFacts, fusion: Fusion) -> str:
    names = facts.config.grouping.names
    figure = plots.confusion_figure(pooled_confusion(fusion.frame, len(names)), names, fusion.name)
    rows = []
    for name, subjects in zip(names, class_subjects(fusion.frame, len(names)), strict=True):
        values = [fusion.metrics[f"{kind}.{name}"] for kind in PER_CLASS[:3]]
        shown = [percent(value) for value in values] if subjects >= ESTIMABLE_SUBJECTS else ["not estimable"] * 3
        rows.append([name, *shown, f"{fusion.metrics[f'support.{name}']:.0f}", str(subjects)])
    table = page.table(["class", "precision", "recall", "F1", "videos", "subjects"], rows)
    beside = page.paragraph(
        f"Within one class: {percent(fusion.metrics['within_one'])} % of videos. "
        f"Rank correlation with the clinician's class: {fusion.metrics['spearman']:.2f}.",
        "soft",
    )
    return f'<div class="pair"><div>{plots.svg(figure, "confusion", full=False)}</div><div>{table}{beside}</div></div>'


def _search(facts: StudyFacts) -> str:
    note = (
        "Dots are pooled out-of-fold values of finished trials on the full test protocol; crosses are the last value "
        "of other trials on the cheap validation protocol, on the folds they reached."
    )
    return plots.svg(plots.history_figure(facts), "history") + page.paragraph(note, "caption")


def _curves(facts: StudyFacts) -> str:
    trials = facts.finished()
    if not trials:
        return page.paragraph("No trial has finished yet.", "soft")
    shown = trials[:MOST_CURVES]
    omitted = f" The best {len(shown)} of {len(trials)} finished trials are shown." if len(trials) > len(shown) else ""
    figure = plots.curves_overview(shown, facts.config.objective.metric)
    note = f"Validation protocol after each epoch; thin lines are folds, the bold line is their mean.{omitted}"
    return plots.svg(figure, "curves") + page.paragraph(note, "caption")


def _attention(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion) -> str:
    singles = {modality: number for item in fusion.tried for modality, number in item.members.items()}
    streams = {trial_name(facts.trials[number]): frames[number] for number in singles.values() if number in frames}
    figure = plots.attention_figure(streams, facts.config.grouping.names)
    if figure is None:
        return page.paragraph(
            "These streams have no attention unit, or it gives every snippet the same weight.", "soft"
        )
    note = (
        "Attention weight of each snippet of the test protocol, averaged over held-out videos by true class. Weights "
        "of 0 to 1 scale a snippet's features; they are not probabilities of a symptom."
    )
    return plots.svg(figure, "attention") + page.paragraph(note, "caption")


def _trials(facts: StudyFacts) -> str:
    trials = sorted(
        facts.trials.values(), key=lambda item: (STATE_ORDER[item.state], -(item.value or 0.0), item.number)
    )
    keys = [key for key in facts.config.space if any(key in trial.params for trial in trials)]
    rows = [
        [
            trial_name(trial),
            trial.state,
            "" if trial.value is None else percent(trial.value),
            *(_setting(trial.params.get(key)) for key in keys),
            f"{trial.seconds:.0f}" if trial.seconds else "",
            public_reason(trial.reason, facts.folds),
        ]
        for trial in trials
    ]
    metric = facts.config.objective.metric
    headings = ["trial", "state", plots.WORDS.get(metric, metric), *keys, "seconds", "reason"]
    return page.table(headings, rows, (1, len(headings) - 1))


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _range(values: list[int]) -> str:
    if not values:
        return "?"
    low, high = np.min(values), np.max(values)
    return str(low) if low == high else f"{low} to {high}"
