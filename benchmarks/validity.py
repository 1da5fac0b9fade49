"""Whether intervals, tests and corrected scores keep their promises, on simulated studies whose truth is known.

    python benchmarks/validity.py [STUDIES]         default 2000

25 subjects with four videos each; subjects differ in how hard they are, so that their videos resemble each other.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ptune.metrics import from_confusion
from ptune.results.stats import bbc_cv, compare_matrices, holm

SUBJECTS, VIDEOS, CLASSES = 25, 4, 3
#: Spread of subjects' difficulty, of the chance to be right.
SPREAD = 0.15
FAMILY = 6


def answers(random: np.random.Generator, skill: float, hard_S: NDArray[np.float64], labels: NDArray[np.int64]):
    """Returns predicted classes: right with the skill's chance, which is common to both cells for a subject."""
    chance = np.clip(skill + np.repeat(hard_S, VIDEOS), 0.02, 0.98)
    wrong = (labels + random.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(random.random(len(labels)) < chance, labels, wrong)


def matrices(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns each subject's confusion counts [S,M,M]."""
    subjects = np.repeat(np.arange(SUBJECTS), VIDEOS)
    cells = (subjects * CLASSES + labels) * CLASSES + predicted
    return np.bincount(cells, minlength=SUBJECTS * CLASSES**2).reshape(SUBJECTS, CLASSES, CLASSES)


def coverage(metric: str, skills: tuple[float, float], studies: int) -> None:
    """Prints how often the interval of a difference holds the truth, which many more subjects tell."""
    random = np.random.default_rng(1)
    many = [_pair(random, skills) for _ in range(4000)]
    total = np.array([pair.sum(1) for pair in many]).sum(0)
    one, other = from_confusion(total)[metric]
    truth, inside, below = one - other, 0, 0
    for seed in range(studies):
        pair = _pair(random, skills)
        low, high = compare_matrices(pair[0], pair[1], metric, seed=seed).interval
        inside += low <= truth <= high
        below += truth < low
    print(
        f"{metric:12} {skills[0]:.2f} against {skills[1]:.2f}: true difference {truth:+.3f}, covered "
        f"{100 * inside / studies:.1f} %, below {100 * below / studies:.1f} %",
        flush=True,
    )


def _pair(random: np.random.Generator, skills: tuple[float, float]) -> NDArray[np.int64]:
    labels = random.integers(0, CLASSES, SUBJECTS * VIDEOS)
    hard = random.normal(0, SPREAD, SUBJECTS)
    own = random.normal(0, SPREAD / 2, (2, SUBJECTS))
    return np.stack(
        [matrices(labels, answers(random, skill, hard + luck, labels)) for skill, luck in zip(skills, own, strict=True)]
    )


def familywise(metric: str, studies: int) -> None:
    """Prints how often any of a family of cells seems to differ from the first, where none does."""
    random = np.random.default_rng(2)
    wrong = uncorrected = 0
    for seed in range(studies):
        labels = random.integers(0, CLASSES, SUBJECTS * VIDEOS)
        hard = random.normal(0, SPREAD, SUBJECTS)
        cells = [
            matrices(labels, answers(random, 0.6, hard + random.normal(0, SPREAD / 2, SUBJECTS), labels))
            for _ in range(FAMILY + 1)
        ]
        p_values = [compare_matrices(cells[0], cell, metric, seed=seed).p_value for cell in cells[1:]]
        uncorrected += min(p_values) <= 0.05
        wrong += min(holm(p_values)) <= 0.05
    print(
        f"{metric:12} {FAMILY} equal cells: one seems to differ in {100 * uncorrected / studies:.1f} % without, "
        f"{100 * wrong / studies:.1f} % with Holm's correction",
        flush=True,
    )


def selection(metric: str, spread: float, searches: int) -> None:
    """Prints what the best of 64 seems to score, its corrected score, and its true one on other subjects."""
    random = np.random.default_rng(3)
    naive, corrected, truth = [], [], []
    for seed in range(searches):
        labels = random.integers(0, CLASSES, SUBJECTS * VIDEOS)
        hard = random.normal(0, SPREAD, SUBJECTS)
        skills = np.clip(random.normal(0.55, spread, 64), 0.3, 0.9)
        common = {
            "video_id": [f"v{number:03d}" for number in range(len(labels))],
            "subject": np.repeat([f"S{number:02d}" for number in range(SUBJECTS)], VIDEOS),
            "label": labels,
        }
        shared = random.random(len(labels))
        frames = {}
        for number, skill in enumerate(skills):
            # Trials of one search err on the same videos for the most part.
            chance = np.clip(skill + np.repeat(hard, VIDEOS), 0.02, 0.98)
            luck = np.where(random.random(len(labels)) < 0.7, shared, random.random(len(labels)))
            wrong = (labels + random.integers(1, CLASSES, len(labels))) % CLASSES
            predicted = np.where(luck < chance, labels, wrong)
            frames[number] = pd.DataFrame({**common, "probabilities": list(np.eye(CLASSES)[predicted])})
        found = bbc_cv({"flow": frames}, metric, ("a", "b", "c"), seed=seed, draws=500)
        naive.append(found.naive)
        corrected.append(found.corrected)
        truth.append(np.clip(skills[found.members["flow"]] + random.normal(0, SPREAD, 4000), 0.02, 0.98).mean())
    gap = [100 * (np.mean(values) - np.mean(truth)) for values in (naive, corrected)]
    error = 100 * np.std(np.array(corrected) - truth) / np.sqrt(searches)
    print(
        f"{metric:12} best of 64, skills spread by {spread:.2f}: naive {gap[0]:+.2f} points, corrected {gap[1]:+.2f} "
        f"(standard error {error:.2f}) over {searches} searches",
        flush=True,
    )


def main(studies: int = 2000) -> None:
    start = time.monotonic()
    for metric in ("accuracy", "f1_macro"):
        for skills in ((0.6, 0.6), (0.75, 0.6)):
            coverage(metric, skills, studies)
        familywise(metric, studies // 4)
    for spread in (0.0, 0.05, 0.1):
        selection("accuracy", spread, studies // 10)
    print(f"took {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:2]))
