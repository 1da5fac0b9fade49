"""What has nothing to do with the movement predicts the class: how long a clip is, how bright, which side, which visit.

A stream that is no better than this may have learnt how the videos were made. Clip lengths differ by class in the
paper's table 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from ptune.config import FitVideo
from ptune.extract.circumstances import Circumstances
from ptune.replay import Baseline
from ptune.train.crossfit import Floats, Labels, Model, cross_fit

KEY, NAME = "nuisance", "nuisance only"
MEASURED = ("duration", "brightness")
NOTED = ("side", "visit")
#: Inverse strength of the L2 penalty, scikit-learn's default.
C = 1.0


def nuisance_row(
    videos: Sequence[FitVideo],
    folds: Mapping[str, int],
    circumstances: Mapping[str, Circumstances],
    class_names: Sequence[str],
) -> Baseline:
    """Returns the row of a multinomial logistic regression on duration, brightness, side and visit.

    Measured values are standardised on each fold's training subjects. Sides and visits that at least two subjects share
    are one-hot; others tell nothing about a subject that was not seen. The row's name lists what was used, its note
    what was not and why.

    Args:
        folds: fold of each subject.
        circumstances: by video id.
        class_names: M names.
    """
    columns: dict[str, Floats] = {}
    left_out = []
    for name in (*MEASURED, *NOTED):
        values = [getattr(circumstances[video.video_id], name) for video in videos]
        found = _measured(values) if name in MEASURED else _noted(values, [video.subject for video in videos])
        if isinstance(found, str):
            left_out.append(f"{name} ({found})")
        else:
            columns[name] = found
    note = f"left out: {', '.join(left_out)}" if left_out else ""
    if not columns:
        return Baseline(KEY, NAME, None, note)
    numbers = sum(name in MEASURED for name in columns)

    def learn(values_ND: Floats, labels_N: Labels) -> Model:
        return _logistic(values_ND, labels_N, numbers, len(class_names))

    frame = cross_fit(videos, folds, np.hstack(list(columns.values())), learn)
    return Baseline(KEY, f"{NAME} ({', '.join(columns)})", frame, note)


def _measured(values: Sequence[float | None]) -> Floats | str:
    """Returns one column, or why there is none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"not known of {len(values) - len(known)} videos"
    return np.array(known, np.float64)[:, None] if len(set(known)) > 1 else "the same in all videos"


def _noted(values: Sequence[str], subjects: Sequence[str]) -> Floats | str:
    """Returns a column for each value that tells videos of two subjects from others, or why there is none."""
    if not any(values):
        return "the manifest does not say"
    if len(set(values)) == 1:
        return "the same in all videos"
    owners = defaultdict(set)
    for value, subject in zip(values, subjects, strict=True):
        owners[value].add(subject)
    shared = sorted(value for value in owners if value and len(owners[value]) > 1)
    return np.array(values)[:, None] == np.array(shared) if shared else "no two subjects share one"


def _logistic(values_ND: Floats, labels_N: Labels, numbers: int, classes: int) -> Model:
    """Learns from columns of which the first `numbers` are to be standardised."""
    seen = np.unique(labels_N)
    if len(seen) == 1:
        return lambda values: np.tile(np.eye(classes)[seen[0]], (len(values), 1))
    mean_D, spread_D = values_ND.mean(0), values_ND.std(0)
    mean_D[numbers:], spread_D[numbers:] = 0, 1
    spread_D[spread_D == 0] = 1
    model = LogisticRegression(C=C, max_iter=1000).fit((values_ND - mean_D) / spread_D, labels_N)

    def predict(values: Floats) -> Floats:
        chances_NM = np.zeros((len(values), classes))
        chances_NM[:, seen] = model.predict_proba((values - mean_D) / spread_D)
        return chances_NM

    return predict
