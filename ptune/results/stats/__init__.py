"""Out-of-fold predictions become statements with their uncertainty; the subject is the unit, never the video.

Videos of one subject resemble each other, so that a test over videos would claim far more evidence than there is.
Knows nothing of studies, trials or how predictions came about.

    cells -> intervals, permutation -> comparison -> family      differences between cells of a table
                                    -> majority                  one cell against the constant answer
    cells -> intervals -> rules -> pool -> selection             the score of having chosen the best of many
"""

from ptune.results.stats.cells import (
    ESTIMABLE_SUBJECTS,
    Cell,
    FoldMean,
    Support,
    by_subject,
    class_subjects,
    fold_mean,
    fold_support,
    pooled_confusion,
    pooled_metrics,
    why_not_comparable,
)
from ptune.results.stats.comparison import Difference, compare_matrices, paired_bootstrap
from ptune.results.stats.family import LEVEL, Comparison, best_cell, compare_family, holm
from ptune.results.stats.intervals import cluster_interval, expanded_percentiles, interval_of
from ptune.results.stats.majority import AgainstMajority, beats_majority
from ptune.results.stats.permutation import exchange_test, sign_flip_test
from ptune.results.stats.pool import Candidates, Choice, Key, Member, Pool, members_of
from ptune.results.stats.rules import MOST_STREAMS, RULES, FusionRule, Rule, sets_of
from ptune.results.stats.selection import Corrected, Nested, bbc_cv, nested_choice

__all__ = [
    "ESTIMABLE_SUBJECTS",
    "LEVEL",
    "MOST_STREAMS",
    "RULES",
    "AgainstMajority",
    "Candidates",
    "Cell",
    "Choice",
    "Comparison",
    "Corrected",
    "Difference",
    "FoldMean",
    "FusionRule",
    "Key",
    "Member",
    "Nested",
    "Pool",
    "Rule",
    "Support",
    "bbc_cv",
    "beats_majority",
    "best_cell",
    "by_subject",
    "class_subjects",
    "cluster_interval",
    "compare_family",
    "compare_matrices",
    "exchange_test",
    "expanded_percentiles",
    "fold_mean",
    "fold_support",
    "holm",
    "interval_of",
    "members_of",
    "nested_choice",
    "paired_bootstrap",
    "pooled_confusion",
    "pooled_metrics",
    "sets_of",
    "sign_flip_test",
    "why_not_comparable",
]
