"""The evidence of a version becomes its model card, in Markdown: for what, learnt from whom, how judged, what not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptune.results.stats import ESTIMABLE_SUBJECTS
from ptune.track.evidence import Evidence

DISCLAIMER = (
    "**Not a medical device.** It has been cleared by no authority for diagnosis or treatment, and nothing that "
    "concerns a patient may rest on it alone."
)
#: Metrics by the names that people know.
TITLES = {
    "f1_weighted": "weighted F1",
    "f1_macro": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "kappa_quadratic": "quadratic kappa",
    "within_one": "at most one class off",
    "mae": "mean error in classes",
    "spearman": "rank correlation",
}
SHORTENED = "\n\n*Shortened; the whole card is the artifact `model_card.md` of the model.*\n"


def model_card(name: str, evidence: Evidence, longest: int | None = None) -> str:
    """Returns the model card.

    Args:
        longest: number of characters at which it is cut, and says so.
    """
    sections = (_use, _streams, _population, _judgement, _limits, _origin)
    card = "\n\n".join([f"# {name}", DISCLAIMER, *(section(evidence) for section in sections)]) + "\n"
    if longest is None or len(card) <= longest:
        return card
    whole, _, _ = card[: longest - len(SHORTENED)].rpartition("\n")
    return whole + SHORTENED


def _use(evidence: Evidence) -> str:
    grouping = evidence.grouping
    classes = ", ".join(
        f"{name} ({_scores(scores)})" for name, scores in zip(grouping.names, grouping.scores, strict=True)
    )
    return (
        "## Intended use\n\n"
        f"Research: to score videos of the task **{evidence.task}**, one person each, by severity: {classes}. "
        "It answers with a probability of each class. It is made for videos like those it learnt from: the same task, "
        "taken and cut in the same way."
    )


def _scores(scores: Sequence[int]) -> str:
    return f"score{'' if len(scores) == 1 else 's'} {' and '.join(map(str, scores))}"


def _streams(evidence: Evidence) -> str:
    names = ", ".join(f"{item.name} (trial {item.trial}, weight {item.weight:.2f})" for item in evidence.members)
    return f"Fused streams, chosen by the rule `{evidence.rule}`: {names}."


def _population(evidence: Evidence) -> str:
    cohort, names = evidence.cohort, evidence.grouping.names
    rows = [
        (name, str(cohort["class_counts"].get(name, 0)), str(subjects))
        for name, subjects in zip(names, evidence.class_subjects, strict=True)
    ]
    return (
        "## Training population\n\n"
        f"{evidence.origin}Task {evidence.task}: {cohort['videos']} videos of {cohort['subjects']} subjects; a subject "
        "counts in every class of which there is a video. Nothing is recorded of age, sex, treatment or place.\n\n"
        + _table(("class", "videos", "subjects"), rows)
    )


def _judgement(evidence: Evidence) -> str:
    least, most = evidence.corrected.interval
    test = evidence.against_majority
    lines = [
        "## How it was judged",
        f"Cross-validation with {evidence.folds} subject-disjoint folds: each video was scored by networks that had "
        "not seen its subject. The registered networks were trained on all subjects and are not judged themselves. "
        "Metrics are pooled over all videos; 95 % intervals come from resampling subjects.",
        _table(
            ("metric", "value", "95 % interval", "majority class"),
            [_metric(evidence, metric, title) for metric, title in TITLES.items()],
        ),
        f"The fusion was chosen by its {TITLES[evidence.metric]} on these videos. Corrected for that: "
        f"**{evidence.corrected.corrected:.3f}** ({least:.3f} to {most:.3f}).",
        f"Accuracy gained over the majority class, per subject: {test.difference:+.3f} "
        f"({test.interval[0]:+.3f} to {test.interval[1]:+.3f}), p = {test.p_value:.2g}, sign-flip test over "
        f"{test.subjects} subjects.",
        *(item.text() for item in evidence.beside),
        _added(evidence),
        _ablation(evidence.ablation, evidence.metric),
    ]
    return "\n\n".join(lines)


def _metric(evidence: Evidence, metric: str, title: str) -> tuple[str, ...]:
    low, high = evidence.intervals[metric]
    return title, f"{evidence.metrics[metric]:.3f}", f"{low:.3f} to {high:.3f}", f"{evidence.majority[metric]:.3f}"


def _added(evidence: Evidence) -> str:
    if not evidence.added:
        return "What each stream adds: there is only one."
    told = ", ".join(
        "{} {:+.3f} ({:+.3f} to {:+.3f})".format(
            item.member.name, item.difference.difference, *item.difference.interval
        )
        for item in evidence.added
    )
    return f"What each stream adds to the {TITLES[evidence.metric]} of the others: {told}."


def _ablation(ablation: Mapping[str, Any] | None, metric: str) -> str:
    if ablation is None:
        return "Leave-one-out ablation of this fusion: none."
    rows = [
        (
            item["one"],
            f"{item['difference']:+.3f}",
            "{:+.3f} to {:+.3f}".format(*item["interval"]),
            f"{item['corrected']:.2g}",
        )
        for item in ablation["contrasts"]
    ]
    head = f"Leave-one-out ablation `{ablation['ablation']}`: what the {TITLES[metric]} changes by."
    return head + "\n\n" + _table(("left", "difference", "95 % interval", "p (Holm)"), rows)


def _limits(evidence: Evidence) -> str:
    names = evidence.grouping.names
    few = [name for name, count in zip(names, evidence.class_subjects, strict=True) if count < ESTIMABLE_SUBJECTS]
    limits = [
        f"It rests on {evidence.against_majority.subjects} subjects of one cohort. Other places, cameras, raters and "
        "patients were not tested.",
        *(
            f"Class {name} rests on fewer than {ESTIMABLE_SUBJECTS} subjects: how well it is told is not known."
            for name in few
        ),
        "Whether its probabilities are calibrated was not tested.",
        "Several settings were tried on these subjects; beside the corrected score, every number above is optimistic.",
        *evidence.warnings,
    ]
    return "## Limits\n\n" + "\n".join(f"- {text}" for text in limits)


def _origin(evidence: Evidence) -> str:
    code = evidence.code
    stages = ", ".join(f"{name} {version}" for name, version in code["stages"].items())
    lines = [
        f"Study `{evidence.study}`, signature `{evidence.signature}`",
        f"Cohort: manifest digest `{evidence.cohort['digest']}`",
        f"Predictions that it is judged by: sha256 `{evidence.table}`, in the ledger",
        f"Code: ptune {code['ptune']}, commit {code['commit'] or 'unknown'}; stages {stages}",
    ]
    return "## Where it comes from\n\n" + "\n".join(f"- {text}" for text in lines)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
