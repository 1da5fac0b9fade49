"""Whether intervals, tests and corrected scores keep their promises, on simulated studies whose truth is known.

    python benchmarks/validity.py [STUDIES]         default 2000

25 subjects with four videos each. Subjects differ in how hard they are, so that their videos resemble each other: the
correlation of being right within a subject is printed first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ptune.metrics import from_confusion, metric_of
from ptune.results.stats import FusionRule, Pool, bbc_cv, compare_matrices, holm, nested_choice
from ptune.results.stats.family import best_place
from ptune.results.stats.intervals import resampled_counts
from ptune.results.stats.permutation import exchange_tests

Floats, Ints = NDArray[np.float64], NDArray[np.int64]

SUBJECTS, VIDEOS, CLASSES = 25, 4, 3
NAMES = ("normal", "mild", "severe")
#: Spread of subjects' difficulty, of the chance to be right; half as much again is each cell's own.
SPREAD = 0.15
FAMILY = 6
TRIALS = 64
PLAIN = FusionRule()


def even_labels(random: np.random.Generator) -> Ints:
    return random.integers(0, CLASSES, SUBJECTS * VIDEOS)


def rare_labels(random: np.random.Generator) -> Ints:
    """Returns labels with three severe videos of three subjects."""
    labels = random.integers(0, CLASSES - 1, (SUBJECTS, VIDEOS))
    labels[random.choice(SUBJECTS, 3, replace=False), 0] = CLASSES - 1
    return labels.ravel()


LABELS = {"even classes": even_labels, "three severe videos": rare_labels}


def cells_of(random: np.random.Generator, skills: Sequence[float], labels: Ints) -> Ints:
    """Returns each subject's confusion counts [C,S,M,M] of cells that are right with the given chances."""
    hard_S = random.normal(0, SPREAD, SUBJECTS)
    found = []
    for skill in skills:
        chance = np.clip(skill + np.repeat(hard_S + random.normal(0, SPREAD / 2, SUBJECTS), VIDEOS), 0.02, 0.98)
        wrong = (labels + random.integers(1, CLASSES, len(labels))) % CLASSES
        found.append(counts(labels, np.where(random.random(len(labels)) < chance, labels, wrong)))
    return np.stack(found)


def counts(labels: Ints, predicted: Ints) -> Ints:
    """Returns each subject's confusion counts [S,M,M]."""
    subjects = np.repeat(np.arange(SUBJECTS), VIDEOS)
    cells = (subjects * CLASSES + labels) * CLASSES + predicted
    return np.bincount(cells, minlength=SUBJECTS * CLASSES**2).reshape(SUBJECTS, CLASSES, CLASSES)


def correlation(studies: int) -> None:
    """Prints how much more two videos of one subject are right together than two of different subjects."""
    random = np.random.default_rng(0)
    right = np.array([np.trace(cells_of(random, [0.6], even_labels(random))[0], 0, 1, 2) for _ in range(studies)])
    share = right.mean() / VIDEOS
    both = (right * (right - 1)).mean() / (VIDEOS * (VIDEOS - 1))
    print(f"within-subject correlation of being right: {(both - share**2) / (share * (1 - share)):.2f}", flush=True)


def coverage(metric: str, kind: str, skills: tuple[float, float], studies: int) -> None:
    """Prints how often the interval of a difference holds the truth, which many more subjects tell."""
    random = np.random.default_rng(1)
    total = sum(cells_of(random, skills, LABELS[kind](random)).sum(1) for _ in range(4000))
    one, other = from_confusion(total)[metric]
    truth, inside, below = one - other, 0, 0
    for seed in range(studies):
        pair = cells_of(random, skills, LABELS[kind](random))
        low, high = compare_matrices(pair[0], pair[1], metric, seed=seed).interval
        inside += low <= truth <= high
        below += truth < low
    print(
        f"{metric:9} {kind}, {skills[0]:.2f} against {skills[1]:.2f}: true difference {truth:+.3f}, covered "
        f"{100 * inside / studies:.1f} %, below {100 * below / studies:.1f} %",
        flush=True,
    )


def familywise(metric: str, kind: str, studies: int) -> None:
    """Prints how often any of a family of cells seems to differ from the first, where none does."""
    random = np.random.default_rng(2)
    pairs = [(0, cell) for cell in range(1, FAMILY + 1)]
    wrong = uncorrected = 0
    for seed in range(studies):
        cells = cells_of(random, [0.6] * (FAMILY + 1), LABELS[kind](random))
        p_values = exchange_tests(cells, pairs, metric, seed)
        uncorrected += min(p_values) <= 0.05
        wrong += min(holm(p_values)) <= 0.05
    print(
        f"{metric:9} {kind}, {FAMILY} equal cells: one seems to differ in {100 * uncorrected / studies:.1f} % without, "
        f"{100 * wrong / studies:.1f} % with Holm's correction",
        flush=True,
    )


def marking(metric: str, kind: str, studies: int) -> None:
    """Prints how often a cell is marked as best where labels were permuted, so that no cell knows anything."""
    random = np.random.default_rng(4)
    marked = 0
    for seed in range(studies):
        labels = LABELS[kind](random)
        shuffled = random.permutation(labels)
        shared = random.random(len(labels)) < 0.5
        usual = np.where(random.random(len(labels)) < 0.6, labels, random.integers(0, CLASSES, len(labels)))
        cells = []
        for skill in np.linspace(0.4, 0.9, FAMILY + 1):
            own = np.where(random.random(len(labels)) < skill, labels, random.integers(0, CLASSES, len(labels)))
            cells.append(counts(shuffled, np.where(shared, usual, own)))
        marked += best_place(np.stack(cells), metric, seed=seed) is not None
    print(f"{metric:9} {kind}, labels permuted: a cell is marked in {100 * marked / studies:.2f} %", flush=True)


class Search:
    """A search over trials whose streams see the label through a noise that is theirs in part.

    Args:
        skills: of each trial, as the distance of the true class's logit; noise has variance 1.
    """

    def __init__(self, random: np.random.Generator, spread: float, modalities: int) -> None:
        self.random = random
        self.skills = np.maximum(random.normal(1.0, spread, TRIALS), 0)
        self.modality = np.arange(TRIALS) % modalities

    def chances(self, trials: Sequence[int], labels: Ints, subjects: int) -> Floats:
        """Returns probabilities [T,N,M] for videos of new subjects; half of the noise is common to all trials."""
        shape = (len(labels), CLASSES)
        hard = np.repeat(self.random.normal(0, 0.6, subjects), len(labels) // subjects)
        common, by_modality = (
            self.random.normal(0, 1, shape),
            self.random.normal(0, 1, (self.modality.max() + 1, *shape)),
        )
        truth = np.eye(CLASSES)[labels]
        found = []
        for trial in trials:
            noise = 0.5 * common + 0.5 * by_modality[self.modality[trial]] + 0.7 * self.random.normal(0, 1, shape)
            logits = truth * (self.skills[trial] + hard)[:, None] + noise
            found.append(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
        return np.stack(found)


def selection(
    metric: str,
    spread: float,
    studies: int,
    modalities: int = 1,
    survivors: int = TRIALS,
    how: FusionRule = PLAIN,
) -> None:
    """Prints what the choice of trial and fusion seems to score, its corrected score, and its true one.

    The true score is that on 1000 other subjects. The luck that all trials of a study share is taken off all three
    scores: it has mean zero and would only blur them.

    Args:
        survivors: how many trials a race leaves, that stops the others by their accuracy on the first fold.
    """
    random = np.random.default_rng(3)
    names = np.repeat([f"S{number:02d}" for number in range(SUBJECTS)], VIDEOS)
    folds = np.repeat(np.arange(SUBJECTS) // 5, VIDEOS)
    errors = []
    for seed in range(studies):
        search, labels = Search(random, spread, modalities), even_labels(random)
        chances_TNM = search.chances(range(TRIALS), labels, SUBJECTS)
        right_TN = chances_TNM.argmax(-1) == labels
        first_fold = right_TN[:, : 5 * VIDEOS].mean(1)
        alive = np.sort(np.argsort(-first_fold, kind="stable")[:survivors])
        candidates: dict[str, dict[int, pd.DataFrame]] = {}
        for trial in alive.tolist():
            frame = {"video_id": range(len(labels)), "subject": names, "fold": folds, "label": labels}
            candidates.setdefault(str(search.modality[trial]), {})[trial] = pd.DataFrame(
                frame | {"probabilities": list(chances_TNM[trial])}
            )
        found = bbc_cv(candidates, metric, NAMES, seed=seed, draws=500, rule=how.rule, per_modality=how.per_modality)
        pool = Pool(candidates, CLASSES, how)
        drawn = resampled_counts(SUBJECTS, 500, seed)
        published = metric_of(pool.choose(drawn, metric).left_out_BMM, metric).mean()
        others = random.integers(0, CLASSES, 1000 * VIDEOS)
        fresh_TNM = search.chances(range(TRIALS), others, 1000)
        fused = np.tensordot(
            [member.weight for member in found.members], fresh_TNM[[member.trial for member in found.members]], 1
        ).argmax(-1)
        matrix = np.bincount(others * CLASSES + fused, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
        truth = float(metric_of(matrix, metric))
        luck = right_TN.mean() - (fresh_TNM.argmax(-1) == others).mean()
        inside = found.interval[0] <= truth <= found.interval[1]
        nested = nested_choice(candidates, metric, NAMES, how).value
        scores = np.array([found.naive, found.corrected, nested, published]) - truth - luck
        errors.append([*scores, inside, truth])
    naive, corrected, nested, published, covered, true = 100 * np.mean(errors, axis=0)
    noise = 100 * np.std(errors, axis=0)[1] / np.sqrt(studies)
    what = "trials alone" if modalities == 1 else f"fusions of {modalities}"
    what += "" if how == PLAIN else f" by {how.rule}, {how.per_modality} of each modality"
    raced = "" if survivors == TRIALS else f", {survivors} survive the first fold"
    print(
        f"{metric:9} best of {TRIALS}, {what}, skills spread by {spread:.1f}{raced}: naive {naive:+.2f} points, "
        f"corrected {corrected:+.2f} (standard error {noise:.2f}; as published {published:+.2f}), "
        f"nested {nested:+.2f}; interval covers {covered:.1f} %; true score {true:.2f}",
        flush=True,
    )


def main(studies: int = 2000) -> None:
    start = time.monotonic()
    correlation(4000)
    for metric in ("accuracy", "f1_macro"):
        for skills in ((0.6, 0.6), (0.75, 0.6)):
            coverage(metric, "even classes", skills, studies)
        familywise(metric, "even classes", studies)
        marking(metric, "even classes", studies // 2)
    for skills in ((0.6, 0.6), (0.75, 0.6)):
        coverage("f1_macro", "three severe videos", skills, studies)
    familywise("f1_macro", "three severe videos", studies)
    marking("f1_macro", "three severe videos", studies // 2)
    for metric, spread in (("accuracy", 0.0), ("accuracy", 0.2), ("accuracy", 0.4), ("f1_macro", 0.2)):
        selection(metric, spread, studies // 5)
    selection("accuracy", 0.2, studies // 5, modalities=3)
    selection("accuracy", 0.2, studies // 5, survivors=16)
    for how in (FusionRule("weights"), FusionRule("greedy"), FusionRule("weights", 3), FusionRule("greedy", 3)):
        selection("accuracy", 0.2, studies // 5, modalities=3, how=how)
    print(f"took {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:2]))
