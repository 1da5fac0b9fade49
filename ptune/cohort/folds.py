"""Subjects become folds: each subject in one fold, classes spread as evenly as subjects allow.

Knows nothing of videos beyond how many of each class a subject has.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from ptune.errors import FoldError

RARE_SUBJECTS = 3


def assign_folds(
    labels: Mapping[str, Sequence[int]], count: int, seed: int, existing: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Returns the fold of every subject, stratified by class at subject level.

    Subjects come rarest class first; each goes to the fold that has the fewest subjects of its classes (its rarest
    class counts first), then the fewest subjects, then the fewest videos. No fold takes more than
    ceil(subjects / count) of its own accord. Where every subject has one class and nothing exists yet, the subjects
    of a class and all subjects differ by at most one between folds; where subjects have several classes this holds
    for the rarest class.

    Args:
        labels: class index of each video of each subject; the order of neither matters.
        count: number of folds.
        seed: breaks ties.
        existing: folds of subjects that never move; subjects that left the cohort are passed over.

    Raises:
        FoldError: fewer subjects than folds, one class only, or a fold that would stay empty.

    Source: section 4, 25 subjects in 5 folds. Differs: how the paper's folds were drawn is not stated.
    """
    _check(labels, count)
    kept = {subject: fold for subject, fold in sorted((existing or {}).items()) if subject in labels}
    beyond = sorted(subject for subject, fold in kept.items() if not 0 <= fold < count)
    if beyond:
        raise FoldError(
            "folds",
            f"subject {beyond[0]} is in fold {kept[beyond[0]]}",
            f"folds 0 to {count - 1}",
            "Keep the number of folds of an existing split, or start a new one.",
        )
    ranks = _rarity(labels)
    totals = [_Load() for _ in range(count)]
    for subject, fold in kept.items():
        totals[fold].add(labels[subject])
    capacity = -(-len(labels) // count)
    folds = dict(kept)
    for subject in sorted(labels.keys() - kept.keys(), key=lambda name: _turn(name, labels[name], ranks, seed)):
        classes = sorted(set(labels[subject]), key=ranks.__getitem__)
        open_folds = [fold for fold in range(count) if totals[fold].subjects < capacity]
        best = min(open_folds, key=lambda fold: (totals[fold].key(classes), _draw(seed, subject, str(fold))))
        totals[best].add(labels[subject])
        folds[subject] = best
    empty = [fold for fold in range(count) if not totals[fold].subjects]
    if empty:
        raise FoldError(
            "folds",
            f"fold {empty[0]} has no subject",
            "a subject in every fold",
            "Start a new split or ask for fewer folds.",
        )
    return dict(sorted(folds.items()))


class _Load:
    """What one fold holds so far."""

    def __init__(self) -> None:
        self.subjects = 0
        self.videos = 0
        self.by_class: Counter[int] = Counter()

    def add(self, labels: Sequence[int]) -> None:
        self.subjects += 1
        self.videos += len(labels)
        self.by_class.update(set(labels))

    def key(self, classes: Sequence[int]) -> tuple[list[int], int, int]:
        return [self.by_class[index] for index in classes], self.subjects, self.videos


def _check(labels: Mapping[str, Sequence[int]], count: int) -> None:
    if count < 2:
        raise FoldError("folds", f"{count} asked for", "at least 2", "Raise folds.count.")
    idle = sorted(subject for subject, own in labels.items() if not own)
    if idle:
        raise FoldError("folds", f"subject {idle[0]} has no video", "at least one video per subject")
    if len(labels) < 2:
        raise FoldError(
            "folds",
            f"{len(labels)} subject" + ("" if len(labels) == 1 else "s"),
            "at least 2: a model is judged on people it has not seen",
            "Add videos of other people.",
        )
    if len(labels) < count:
        raise FoldError(
            "folds",
            f"{len(labels)} subjects for {count} folds",
            "at least one subject per fold",
            f"Set folds.count to {len(labels)} or less, or add subjects.",
        )
    if len({label for own in labels.values() for label in own}) < 2:
        raise FoldError(
            "folds",
            "all videos are of one class",
            "at least two classes in the cohort",
            "Check the column `score` and the grouping of scores into classes.",
        )


def _rarity(labels: Mapping[str, Sequence[int]]) -> dict[int, int]:
    """Returns the rank of each class, 0 for the one with the fewest subjects."""
    subjects = Counter(label for own in labels.values() for label in set(own))
    videos = Counter(label for own in labels.values() for label in own)
    order = sorted(subjects, key=lambda label: (subjects[label], videos[label], -label))
    return {label: rank for rank, label in enumerate(order)}


def _turn(subject: str, own: Sequence[int], ranks: Mapping[int, int], seed: int) -> tuple[int, int, int, str]:
    rarest = min(ranks[label] for label in own)
    share = sum(ranks[label] == rarest for label in own)
    return rarest, -share, -len(own), _draw(seed, subject)


def _draw(seed: int, *words: str) -> str:
    return hashlib.sha256("\0".join((str(seed), *words)).encode()).hexdigest()


def fold_warnings(
    labels: Mapping[str, Sequence[int]], folds: Mapping[str, int], class_names: Sequence[str]
) -> list[str]:
    """Returns a sentence for each class that is rare or missing from a fold; none of them is a reason to stop."""
    warnings = []
    every = sorted(set(folds.values()))
    for index, name in enumerate(class_names):
        having = [subject for subject, own in labels.items() if index in own]
        if not having:
            warnings.append(f"class {name!r} has no video: the model cannot learn it")
            continue
        if len(having) < RARE_SUBJECTS:
            count = f"{len(having)} subject" + ("" if len(having) == 1 else "s")
            warnings.append(f"class {name!r} has {count}, fewer than {RARE_SUBJECTS}: its numbers are not estimable")
        missing = sorted(set(every) - {folds[subject] for subject in having})
        if missing:
            warnings.append(f"class {name!r} is missing from fold{'s' * (len(missing) > 1)} {_listed(missing)}")
    return warnings


def _listed(numbers: Sequence[int]) -> str:
    words = [str(number) for number in numbers]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
