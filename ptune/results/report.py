"""A study in the ledger becomes one self-contained HTML page: what was found, how, and what to be careful about.

It shows counts, metrics and settings; no subject, path or file name, and no pixel unless asked for. Knows nothing of
MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptune import page
from ptune.extract.store import FeatureStore
from ptune.home import write_bytes
from ptune.ledger import Ledger
from ptune.metrics import majority_class, majority_row
from ptune.replay import Baseline, StudyFacts, study_baselines
from ptune.results import plots
from ptune.results.added import added_by_each, added_table
from ptune.results.beside import beside, remarks
from ptune.results.errors import clips_section, errors_section
from ptune.results.examples import examples_section
from ptune.results.fusion import Fusion, fuse_members, plain, study_corrected, study_frames, study_fusion
from ptune.results.methods import study_methods
from ptune.results.overview import importance_section
from ptune.results.privacy import public_reason
from ptune.results.stats import beats_majority, cluster_interval, compare_family, fold_support
from ptune.results.tables import (
    caption,
    percent,
    study_labels,
    study_table,
    support_rows,
    trial_name,
    warnings_of,
)

if TYPE_CHECKING:
    import pandas as pd

FILE_NAME = "report.html"
MOST_CURVES = 12
STATE_ORDER = {"finished": 0, "running": 1, "stopped": 2, "failed": 3}


def write_report(
    folder: Path,
    name: str,
    facts: StudyFacts,
    ledger: Ledger,
    fusion: Fusion | None = None,
    extras: Mapping[str, Mapping[str, str]] | None = None,
    importance: Mapping[str, float] | None = None,
    store: FeatureStore | None = None,
) -> Path:
    """Writes the report of a study, and its table in other formats, and returns the path `folder`/report.html.

    Args:
        name: of the study.
        fusion: the chosen fusion; default the best one by the study's objective.
        extras: more tables by their heading (a champion, a held-out test), each a mapping of name to text;
            nothing in them may name a subject or a file.
        importance: share of the objective's variance by setting.
        store: features of the study's videos, where the page is to show some of them.
    """
    frames = study_frames(facts, ledger)
    chosen, rows = fusion or study_fusion(facts, frames), study_baselines(ledger, facts)
    sections = [("", _summary(facts, frames, chosen, rows)), ("Results", _results(facts, frames, chosen, rows))]
    if chosen is not None:
        sections.append(("Comparisons", _comparisons(facts, frames, chosen)))
        sections.append(("What each stream adds", _added(facts, frames, chosen)))
        sections.append(("Errors", errors_section(facts, chosen)))
        sections.append(("Clips", clips_section(chosen, frames, facts.config.grouping.names)))
        sections.append(("Folds", _folds(facts, chosen.frame)))
    sections += [("Search", _search(facts)), ("Learning curves", _curves(facts))]
    if not facts.config.points:
        sections.append(("Which settings matter", importance_section(facts, importance)))
    if chosen is not None:
        sections.append(("Attention", _attention(facts, frames, chosen)))
        if store is not None:
            sections.append(("Example videos", examples_section(facts, frames, chosen, store)))
    sections.append(("Trials", _trials(facts)))
    for heading, content in (extras or {}).items():
        sections.append((heading, page.table(["", ""], [[key, text] for key, text in content.items()], (1,))))
    sections.append(("Methods", page.paragraph(study_methods(facts))))
    html = page.page(f"Study {name}", caption(facts, frames), sections)
    table = study_table(facts, frames, chosen, rows)
    files = {"table.md": table.markdown(), "table.tex": table.latex(), "table.csv": table.csv()}
    for file, text in (files | {FILE_NAME: html}).items():
        write_bytes(folder / file, text.encode())
    return folder / FILE_NAME


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
    corrected = study_corrected(facts, frames, fusion.how)
    weights = [""] * len(fusion.members) if plain(fusion.members) else [f"{m.weight:.2f} of " for m in fusion.members]
    members = " and ".join(
        f"{weight}{member.name} ({trial_name(facts.trials[member.trial])})"
        for weight, member in zip(weights, fusion.members, strict=True)
    )
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


def _summary(
    facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion | None, rows: Sequence[Baseline]
) -> str:
    text = page.paragraph(summary(facts, frames, fusion), "summary")
    warnings = warnings_of(facts, frames, fusion)
    if fusion is not None:
        compared = beside(fusion.frame, rows, fusion.metric, facts.config.grouping.names)
        text += "".join(page.paragraph(item.text()) for item in compared)
        warnings += remarks(rows, compared)
    return text + page.bullets(warnings, "warnings")


def _results(
    facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion | None, baselines: Sequence[Baseline]
) -> str:
    return study_table(facts, frames, fusion, baselines).html()


def _comparisons(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion) -> str:
    """Returns how all other streams and fusions compare with the chosen one, on the same videos."""
    names, metric = facts.config.grouping.names, fusion.metric
    cells = {trial_name(facts.trials[number]): [frame] for number, frame in frames.items()}
    cells |= {
        item.name: [fuse_members(frames, item.members)]
        for item in fusion.tried
        if len(item.members) > 1 and item.members != fusion.members
    }
    chosen = fusion.name if len(fusion.members) > 1 else trial_name(facts.trials[fusion.members[0].trial])
    cells[chosen] = [fusion.frame]
    pairs = [(name, chosen) for name in cells if name != chosen]
    if not pairs:
        return page.paragraph("There is nothing to compare the only stream with.", "soft")
    gains = []
    for item in compare_family(cells, pairs, metric, names):
        low, high = item.found.interval
        gains.append(plots.Gain(item.one, 100 * item.found.difference, 100 * low, 100 * high, item.supported))
    figure = plots.forest_figure(gains, f"{plots.WORDS.get(metric, metric)}, difference from {chosen}, points")
    note = (
        f"{chosen} was chosen because it scores best here, which favours it. Lines are 95 % intervals of one "
        "comparison each, over resampled subjects; a filled dot is supported after Holm's correction over all of them."
    )
    return plots.svg(figure, "forest") + page.paragraph(note, "caption")


def _added(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion) -> str:
    added = added_by_each(frames, fusion, facts.config.grouping.names)
    return added_table(added).html() if added else page.paragraph("One stream alone scores best.", "soft")


def _folds(facts: StudyFacts, frame: pd.DataFrame) -> str:
    names = facts.config.grouping.names
    rows, folds = support_rows(fold_support(frame, names), names)
    table = page.table(["class", *(f"fold {fold}" for fold in folds)], rows)
    return table + page.paragraph("Videos (subjects) that each fold holds out.", "caption")


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
    singles = {member.modality: member.trial for item in fusion.tried for member in item.members}
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
    keys = [key for key in facts.config.varied if any(key in trial.params for trial in trials)]
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
