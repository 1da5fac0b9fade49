"""Probabilities of streams become the weights of their fusion, by one of three rules.

    average     the streams whose plain average scores best, of all sets of streams
    weights     weights fitted to the labels: the smallest Brier score
    greedy      streams are added one at a time, again and again, each the one that helps most

Each rule is computed for many weightings of the videos at once: B of them, each with C streams of its own, which come
in order of preference. N videos, M classes. Ties go to fewer streams, then to the earlier ones. Knows nothing of
subjects, trials or modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ptune.errors import BadInput
from ptune.metrics import metric_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rule: TypeAlias = Literal["average", "weights", "greedy"]
RULES: tuple[Rule, ...] = get_args(Rule)

#: Values this close are a tie.
TIE = 1e-9
#: A variance smaller than this share of the largest is rounding, and a fitted weight smaller than the next number too.
ROUNDING = 1e-12
NEGLIGIBLE = 1e-6
#: Streams that the greedy rule adds, so that its weights are multiples of a twentieth at the finest.
ROUNDS = 20
#: Streams of which all sets are averaged at most: 16383 sets.
MOST_STREAMS = 14


@dataclass(frozen=True)
class FusionRule:
    """How a fusion is chosen from finished trials.

    Args:
        rule: see above.
        per_modality: how many of the best trials of each modality may take part.
        fewest_streams: smaller fusions are tried, and not chosen; where there are fewer streams, all of them are fused.
    """

    rule: Rule = "average"
    per_modality: int = 1
    fewest_streams: int = 1

    def combinations(self, streams: int) -> int:
        """Returns how many fusions of so many streams the rule scores to make one choice.

        Raises:
            BadInput: too many.
        """
        if self.rule == "greedy":
            return ROUNDS * streams
        if self.rule == "weights":
            return 1
        found = sum(comb(streams, size) for size in range(min(self.fewest_streams, streams), streams + 1))
        if found >= 2**MOST_STREAMS:
            raise BadInput(
                "fusion",
                f"{streams} streams have {found:,} averages",
                f"at most {2**MOST_STREAMS - 1:,}, which {MOST_STREAMS} streams have",
                "Let fewer trials of each modality take part, or choose with rule `greedy` or `weights`.",
            )
        return found


@dataclass(frozen=True)
class Problem:
    """What fusions are chosen by: B weightings of the same N videos.

    Args:
        streams_BCNM: probabilities.
        labels_N: true classes.
        weights_BN: of each video; 0 takes no part.
        metric: one of `ptune.metrics.METRICS` of which more is better.
        fewest: streams that a fusion has at least.
    """

    streams_BCNM: Floats
    labels_N: Ints
    weights_BN: Floats
    metric: str
    fewest: int

    def values(self, fused_BGNM: Floats) -> Floats:
        """Returns the metric of G fusions under each weighting, [B,G]; fusions may lack a common factor."""
        return metric_of(confusions(fused_BGNM, self.labels_N, self.weights_BN), self.metric)


def confusions(fused_BGNM: Floats, labels_N: Ints, weights_BN: Floats) -> Floats:
    """Returns the confusion counts [B,G,M,M] of weighted videos; rows are true classes."""
    draws, fusions, _, classes = fused_BGNM.shape
    each = np.arange(draws * fusions).reshape(draws, fusions, 1)
    cells_BGN = (each * classes + labels_N) * classes + fused_BGNM.argmax(-1)
    weights_BGN = np.broadcast_to(weights_BN[:, None], cells_BGN.shape)
    counts = np.bincount(cells_BGN.ravel(), weights_BGN.ravel(), draws * fusions * classes**2)
    return counts.reshape(draws, fusions, classes, classes).astype(np.float64)


@lru_cache(maxsize=4)
def sets_of(streams: int, fewest: int = 1) -> Floats:
    """Returns all sets of at least so many streams as rows of 0 and 1, float64 [G,C]: small ones first."""
    sizes = range(min(fewest, streams), streams + 1)
    chosen = [places for size in sizes for places in combinations(range(streams), size)]
    found = np.zeros((len(chosen), streams))
    for row, places in zip(found, chosen, strict=True):
        row[list(places)] = 1
    found.flags.writeable = False
    return found


def average(problem: Problem) -> Floats:
    """Returns the weights [B,C] of the plain average that scores best.

    Source: section 4.2 and figure 4 of the paper, "average over all predicted scores", over all sets of streams.
    """
    sets_GC = sets_of(problem.streams_BCNM.shape[1], problem.fewest)
    chosen_BC = sets_GC[_first_best(set_values(problem, sets_GC))]
    return _shares(chosen_BC)


def set_values(problem: Problem, sets_GC: Floats) -> Floats:
    """Returns the metric of the plain average of each set of streams, [B,G]."""
    draws, streams, videos, classes = problem.streams_BCNM.shape
    sums = sets_GC @ problem.streams_BCNM.reshape(draws, streams, -1)
    return problem.values(sums.reshape(draws, len(sets_GC), videos, classes))


def weights(problem: Problem) -> Floats:
    """Returns the weights [B,C], not negative and 1 in sum, under which the fusion's Brier score is smallest.

    The Brier score is convex in the weights, and one answer that is surely wrong cannot rule it as it would rule the
    log score. Its minimum is found exactly, with no start and no tolerance, by non-negative least squares: with Q the
    products of the streams' errors, the x >= 0 that minimises x'Qx + (sum(x) - 1)^2 is a multiple of the weights.
    Streams that do not help get exactly 0. Where fewer than `fewest` get weight, the best average stands in.

    Source: Breiman 1996, stacked regressions; Lawson and Hanson 1974, for the solver.
    """
    draws, streams, videos, classes = problem.streams_BCNM.shape
    shares_BN = _shares(problem.weights_BN)
    errors_BCNM = (problem.streams_BCNM - np.eye(classes)[problem.labels_N]) * np.sqrt(shares_BN)[:, None, :, None]
    errors = errors_BCNM.reshape(draws, streams, videos * classes)
    values_BC, vectors_BCC = np.linalg.eigh(errors @ errors.swapaxes(1, 2))
    # A copy of a stream has no direction of its own: without this, rounding would give it one.
    values_BC[values_BC < ROUNDING * values_BC[:, -1:]] = 0
    roots_BCC = np.sqrt(values_BC)[:, :, None] * vectors_BCC.swapaxes(1, 2)
    target = np.append(np.zeros(streams), 1)
    found = np.stack([nnls(np.vstack([root_CC, np.ones(streams)]), target)[0] for root_CC in roots_BCC])
    found = _shares(found)
    found[found < NEGLIGIBLE] = 0
    few = (found > 0).sum(1) < problem.fewest
    if few.any():
        found[few] = average(
            Problem(
                problem.streams_BCNM[few], problem.labels_N, problem.weights_BN[few], problem.metric, problem.fewest
            )
        )
    return _shares(found)


def greedy(problem: Problem) -> Floats:
    """Returns the weights [B,C], shares of how often each stream was added to a bag whose average scores best.

    Each of `ROUNDS` rounds adds the stream with which the bag scores best, one that it has already where they tie; of
    the bags on the way, the best is taken. The first bag is the best stream alone, so that no single stream is better.
    Up to `fewest` streams, none is added twice.

    Source: Caruana, Niculescu-Mizil, Crew and Ksikes 2004, ensemble selection with replacement.
    """
    draws, streams = problem.streams_BCNM.shape[:2]
    every = np.arange(draws)
    bag_BC, best_BC = np.zeros((draws, streams)), np.zeros((draws, streams))
    sum_BNM, best_B = np.zeros_like(problem.streams_BCNM[:, 0]), np.full(draws, -np.inf)
    for size in range(1, ROUNDS + 1):
        value_BC = problem.values(sum_BNM[:, None] + problem.streams_BCNM)
        if size <= problem.fewest:
            value_BC = np.where(bag_BC > 0, -np.inf, value_BC)
        value_B = value_BC.max(1)
        tied_BC = value_BC >= value_B[:, None] - TIE
        added_B = np.argmax(tied_BC * (1 + (bag_BC > 0)), axis=1)
        bag_BC[every, added_B] += 1
        sum_BNM += problem.streams_BCNM[every, added_B]
        better = value_B > best_B + TIE if size >= problem.fewest else np.zeros(draws, bool)
        best_BC[better], best_B[better] = bag_BC[better], value_B[better]
    return _shares(best_BC)


def _shares(weights_BX: Floats) -> Floats:
    shares: Floats = weights_BX / weights_BX.sum(1, keepdims=True)
    return shares


def _first_best(value_BG: Floats) -> Ints:
    near_BG = value_BG >= value_BG.max(1, keepdims=True) - TIE
    return np.asarray(near_BG.argmax(1), np.int64)


CHOOSE: Mapping[Rule, Callable[[Problem], Floats]] = {"average": average, "weights": weights, "greedy": greedy}
