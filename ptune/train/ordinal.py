"""An ordinal logistic model: for every boundary between classes, how probable it is that the class lies above it.

Source: Frank and Hall 2001, a simple approach to ordinal classification.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ptune.train.crossfit import Floats, Labels, Model


def ordinal_logistic(values_ND: Floats, labels_N: Labels, classes: int, C: float) -> Model:
    """Learns P(class > k) for each k by an L2 logistic regression on standardised values.

    The model sorts the probabilities of a video, so that they fall with k, and their differences are those of the
    classes: never negative, with sum 1. A boundary that no training video lies beyond, or all do, keeps probability 0
    or 1.

    Args:
        values_ND, labels_N: of the training videos.
        classes: M.
        C: inverse strength of the penalty.

    Differs: Frank and Hall let differences be negative; sorting is the monotone rearrangement of Chernozhukov,
        Fernandez-Val and Galichon 2010.
    """
    boundaries = [_above(values_ND, labels_N > k, C) for k in range(classes - 1)]

    def predict(values: Floats) -> Floats:
        above = np.stack([boundary(values) for boundary in boundaries], axis=1)
        falling = -np.sort(-above, axis=1)
        ends = np.ones((len(values), 1)), np.zeros((len(values), 1))
        return -np.diff(np.hstack([ends[0], falling, ends[1]]), axis=1)

    return predict


def _above(values_ND: Floats, beyond_N: np.ndarray, C: float) -> Model:
    if beyond_N.all() or not beyond_N.any():
        constant = float(beyond_N[0])
        return lambda values: np.full(len(values), constant)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(values_ND, beyond_N)
    return lambda values: np.asarray(model.predict_proba(values)[:, 1])
