"""Streams become one prediction: the weighted average of their probabilities on the same videos.

Knows nothing of training; a fusion is computed from what the ledger holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ptune.config import Modality
from ptune.errors import BadInput
from ptune.ledger import Ledger
from ptune.metrics import score_frame, stacked
from ptune.replay import StudyFacts, out_of_fold
from ptune.results.stats import (
    MOST_STREAMS,
    Candidates,
    Choice,
    Corrected,
    FusionRule,
    Member,
    Pool,
    bbc_cv,
    members_of,
    sets_of,
    why_not_comparable,
)

if TYPE_CHECKING:
    import pandas as pd

MODALITIES: tuple[str, ...] = get_args(Modality)
#: Combinations that are told of; where there are more, the best ones.
MOST_TOLD = 20
#: Weights this close are the same.
EQUAL = 1e-9


@dataclass(frozen=True)
class Combination:
    """One fusion that was tried.

    Args:
        name: the modalities, as in the paper's tables, `flow + mb`; the trials, where a modality has several.
    """

    name: str
    members: tuple[Member, ...]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Fusion:
    """The best fusion and others that were tried.

    Args:
        members: streams that take part, by modality.
        frame: its out-of-fold predictions, as `fuse` returns them.
        metric: what the trials, and by most rules the fusion, were chosen by.
        how: the rule of the choice.
        tried: other combinations and this one, in the order of the paper's table: single streams first.
        combinations: how many were scored.
        missing: modalities without a finished trial.
    """

    members: tuple[Member, ...]
    frame: pd.DataFrame
    metric: str
    metrics: dict[str, float]
    how: FusionRule
    tried: tuple[Combination, ...]
    combinations: int
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The modalities, `flow + mb`, with their weights where these differ: `0.60 flow + 0.40 mb`."""
        return fusion_name(self.members)

    @property
    def value(self) -> float:
        """The metric it was chosen by."""
        return self.metrics[self.metric]

    def decision(self) -> dict[str, Any]:
        """Returns the content of the `decided` event that records this choice."""
        return {
            "what": "fusion",
            "rule": self.how.rule,
            "per_modality": self.how.per_modality,
            "members": [member.facts() for member in self.members],
            "metric": self.metric,
            "metrics": self.metrics,
        }


def fusion_name(members: Sequence[Member], by_trial: bool = False) -> str:
    """Returns what a fusion is called: by the modalities of its members, or by their trials."""
    names = [member.title if by_trial else member.name for member in members]
    if plain(members):
        return " + ".join(names)
    return " + ".join(f"{member.weight:.2f} {name}" for member, name in zip(members, names, strict=True))


def plain(members: Sequence[Member]) -> bool:
    """Returns whether all members weigh the same."""
    return _alike([member.weight for member in members])


def _alike(weights: Sequence[float]) -> bool:
    return bool(np.ptp(weights) < EQUAL)


def fuse(frames: Sequence[pd.DataFrame], weights: Sequence[float] | None = None) -> pd.DataFrame:
    """Returns the late fusion of streams: columns video_id, subject, fold, score, label and mean probabilities.

    Rows are sorted by video id. Attention belongs to one stream and is left out.

    Args:
        frames: one table per stream, as `ptune.replay.out_of_fold` returns it.
        weights: of each stream, not negative; they need not sum to 1. Default the plain average.

    Raises:
        BadInput: the streams saw different videos, folds or labels; says which.

    Source: section 4.2 and figure 4, "average over all predicted scores".
    """
    if not frames:
        raise BadInput("fusion", "no stream", "at least one")
    ordered = [frame.sort_values("video_id", ignore_index=True) for frame in frames]
    first = ordered[0]
    for number, other in enumerate(ordered[1:], 2):
        problem = why_not_comparable(first, other, ("stream 1", f"stream {number}"))
        if problem:
            raise BadInput(
                "fusion",
                problem,
                "the same videos, subjects, folds and labels in every stream, each video once",
                "Fuse trials of one study that finished on the same cohort.",
            )
    alike = weights is None or _alike(weights)
    mean = np.average([stacked(frame) for frame in ordered], axis=0, weights=None if alike else weights)
    return first[["video_id", "subject", "fold", "score", "label"]].assign(probabilities=list(mean))


def fuse_members(frames: Mapping[Any, pd.DataFrame], members: Sequence[Member]) -> pd.DataFrame:
    """Returns `fuse` of the members' tables, which lie under their keys."""
    return fuse([frames[member.key] for member in members], [member.weight for member in members])


def choose_fusion(
    candidates: Candidates, metric: str, class_names: Sequence[str], how: FusionRule | None = None
) -> Fusion:
    """Returns the best fusion of finished trials.

    The default takes the best trial of each modality and the plain average of those whose average scores best: three
    modalities give the paper's seven combinations. Ties go to fewer streams, then to the earlier modality.
    The value of the chosen fusion is optimistic: it was picked on the data that it is measured on. `bbc_cv` and
    `nested_choice` estimate it without that.

    Args:
        candidates: finished trials of each modality, out-of-fold table by trial number.
        metric: one of `ptune.metrics.METRICS` of which more is better.
        class_names: M names.
        how: the rule of the choice.

    Raises:
        BadInput: there is no candidate at all, streams differ in videos, folds or labels, or there are too many.
    """
    known = [*MODALITIES, *(name for name in candidates if name not in MODALITIES)]
    filled = {name: candidates[name] for name in known if candidates.get(name)}
    if not filled:
        raise BadInput("fusion", "no finished trial", "one in at least one modality", "Let the sweep finish a trial.")
    how = how or FusionRule()
    pool = Pool(filled, len(class_names), how)
    choice = pool.choose(np.ones((1, pool.subjects)), metric)
    members, tried = choice.members(0), []
    for item in _told(pool, choice, metric):
        metrics = score_frame(_of_candidates(filled, item), class_names)
        tried.append(Combination(fusion_name(item, how.per_modality > 1), item, metrics))
    frame = _of_candidates(filled, members)
    missing = tuple(name for name in known if name not in filled)
    return Fusion(
        members, frame, metric, score_frame(frame, class_names), how, tuple(tried), pool.combinations, missing
    )


def _of_candidates(candidates: Candidates, members: Sequence[Member]) -> pd.DataFrame:
    frames = [candidates[member.modality][member.key] for member in members]
    return fuse(frames, [member.weight for member in members])


def _told(pool: Pool, choice: Choice, metric: str) -> list[tuple[Member, ...]]:
    """Returns which combinations to tell of: plain averages, or single streams and what was chosen."""
    streams = [pool.streams[place] for place in choice.streams_BC[0]]
    if pool.how.rule != "average":
        alone = [members_of(streams, row) for row in np.eye(len(streams))]
        return list(dict.fromkeys([*alone, choice.members(0)]))
    sets_GC = sets_of(len(streams), 1 if len(streams) <= MOST_STREAMS else len(streams))
    if len(sets_GC) > MOST_TOLD:
        values_G = pool.set_values(choice.streams_BC, sets_GC, metric)
        sets_GC = sets_GC[np.sort(np.argsort(-values_G, kind="stable")[:MOST_TOLD])]
    return [members_of(streams, row) for row in sets_GC / sets_GC.sum(1, keepdims=True)]


def study_frames(facts: StudyFacts, ledger: Ledger) -> dict[int, pd.DataFrame]:
    """Returns the out-of-fold table of every finished trial by its number, best trial first."""
    return {trial.number: out_of_fold(ledger, trial) for trial in facts.finished()}


def study_fusion(facts: StudyFacts, frames: Mapping[int, pd.DataFrame]) -> Fusion | None:
    """Returns the best plain average of a study by its own objective, or None while no trial has finished.

    Args:
        frames: as `study_frames` returns them.
    """
    if not frames:
        return None
    config = facts.config
    return choose_fusion(by_modality(facts, frames), config.objective.metric, config.grouping.names, _study_rule(facts))


def by_modality(facts: StudyFacts, frames: Mapping[int, pd.DataFrame]) -> dict[str, dict[int, pd.DataFrame]]:
    """Returns the tables of trials by number under their modality, in the order of the paper's table."""
    found: dict[str, dict[int, pd.DataFrame]] = {modality: {} for modality in MODALITIES}
    for number, frame in frames.items():
        found[facts.stream(facts.trials[number]).modality][number] = frame
    return {modality: trials for modality, trials in found.items() if trials}


def study_corrected(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], how: FusionRule | None = None) -> Corrected:
    """Returns the corrected score of what a rule chooses by the study's own objective.

    Args:
        frames: as `study_frames` returns them, at least one.
        how: default that of `study_fusion`.
    """
    config, how = facts.config, how or _study_rule(facts)
    return bbc_cv(
        by_modality(facts, frames),
        config.objective.metric,
        config.grouping.names,
        how.fewest_streams,
        rule=how.rule,
        per_modality=how.per_modality,
    )


def _study_rule(facts: StudyFacts) -> FusionRule:
    return FusionRule(fewest_streams=facts.config.ensemble.fewest_streams)
