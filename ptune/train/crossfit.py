"""A model that learns in moments becomes an out-of-fold table like a trial's: each video is predicted by a model that
learnt from the other folds' subjects.

Knows nothing of what the values are or how a model learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptune.config import FitVideo

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
#: Values [N,D] become class probabilities [N,M].
Model = Callable[[Floats], Floats]
#: Values [N,D] and labels [N] of the training subjects become a model.
Learner = Callable[[Floats, Labels], Model]


def cross_fit(
    videos: Sequence[FitVideo], folds: Mapping[str, int], values_ND: NDArray[Any], learn: Learner
) -> pd.DataFrame:
    """Returns columns video_id, subject, fold, score, label and probabilities, sorted by video id.

    Args:
        videos: N, in the order of the values.
        folds: fold of each subject.
        learn: called once for every fold.
    """
    import pandas as pd

    values_ND = np.asarray(values_ND, np.float64)
    labels_N = np.array([video.label for video in videos], np.int64)
    fold_N = np.array([folds[video.subject] for video in videos], np.int64)
    found: list[Any] = [None] * len(videos)
    for fold in np.unique(fold_N):
        held_out = np.flatnonzero(fold_N == fold)
        training = np.flatnonzero(fold_N != fold)
        chances = learn(values_ND[training], labels_N[training])(values_ND[held_out])
        for index, row in zip(held_out, chances, strict=True):
            found[index] = row.tolist()
    table = pd.DataFrame([video.model_dump() for video in videos]).assign(fold=fold_N, probabilities=found)
    columns = ["video_id", "subject", "fold", "score", "label", "probabilities"]
    return table[columns].sort_values("video_id", ignore_index=True)
