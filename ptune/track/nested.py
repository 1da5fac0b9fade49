"""Nested cross-validation: a whole search, its race, choices and refits, is judged on subjects it never saw.

For each fold of a study the search is run anew on the subjects of the other folds, split into folds of their own. What
it chooses is refitted on all of them and predicts the fold that was left out. This costs about as much as one
search per fold, and no resampling stands between the score and its meaning.

The searches are ordinary studies named STUDY.outer-0, STUDY.outer-1 and so on; they learn from no other study
(`warm_start`), because that one has seen the fold. The refits are
ordinary fits of the study itself, so that all of them resume and are reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ptune.config import StudyConfig
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.metrics import majority_row, score_frame
from ptune.replay import read_study
from ptune.results.fusion import Fusion, fuse
from ptune.results.stats import cluster_interval
from ptune.track.publish import StudyOutcome, run_study
from ptune.tune.changes import refuse_changes
from ptune.tune.plan import Plan, make_plan, read_inputs
from ptune.tune.study import run_fits


@dataclass(frozen=True)
class Judged:
    """One fold and the search that was run without it.

    Args:
        frame: predictions of the fold by the refitted fusion, one row per video.
        trained: how many fits of the search and refits were trained now.
        reused: how many the ledger had.
    """

    fold: int
    study: str
    fusion: Fusion
    frame: pd.DataFrame
    trained: int
    reused: int


@dataclass(frozen=True)
class NestedScore:
    """What a search is worth on subjects it never saw.

    Args:
        config: of the study.
        folds: what was judged so far, in order.
        left: the study that is not finished, of the first fold that could not be judged; "" where all were.
    """

    config: StudyConfig
    folds: tuple[Judged, ...]
    left: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether folds are left."""
        return self.left != ""

    @property
    def frame(self) -> pd.DataFrame:
        """Predictions of all folds, one row per video: an out-of-fold table as `fuse` returns it."""
        parts = [judged.frame for judged in self.folds]
        return pd.concat(parts).sort_values("video_id", ignore_index=True)

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        found: dict[str, Any] = {
            "study": self.config.study,
            "unfinished": self.left or None,
            "fits": {
                "trained": sum(judged.trained for judged in self.folds),
                "reused": sum(judged.reused for judged in self.folds),
            },
            "folds": [
                {"fold": judged.fold, "study": judged.study, "fusion": judged.fusion.decision()}
                for judged in self.folds
            ],
        }
        if self.interrupted:
            return found
        frame, names, metric = self.frame, self.config.grouping.names, self.config.objective.metric
        return found | {
            "metric": metric,
            "metrics": score_frame(frame, names),
            "interval": cluster_interval(frame, metric, names),
            "majority": majority_row(frame["label"].to_numpy(), names)[metric],
            "videos": len(frame),
            "subjects": int(frame["subject"].nunique()),
        }

    def text(self) -> str:
        """Returns what was chosen without each fold, and the score of choosing so."""
        found = self.facts()
        lines = [
            f"Without fold {judged.fold}: {judged.fusion.name} is chosen, {judged.fusion.metric} "
            f"{judged.fusion.value:.3f} where it was chosen, "
            f"{score_frame(judged.frame, self.config.grouping.names)[judged.fusion.metric]:.3f} on the fold."
            for judged in self.folds
        ]
        lines.append(f"{found['fits']['trained']} fits trained, {found['fits']['reused']} reused.")
        if self.interrupted:
            return "\n".join([*lines, f"{self.left} is not finished. Run the same command again to go on."])
        low, high = found["interval"]
        lines.append(
            f"Nested {found['metric']} {found['metrics'][found['metric']]:.3f} (95 % interval {low:.3f} to {high:.3f} "
            f"over {found['subjects']} subjects, {found['videos']} videos); the majority class gives "
            f"{found['majority']:.3f}."
        )
        return "\n".join(lines)


def cross_validate_search(config: StudyConfig, folder: Path, home: Home, workers: int | None = None) -> NestedScore:
    """Runs or resumes the search without each fold of the study, and scores what it chose on that fold.

    Args:
        folder: where the study's relative paths start.

    Raises:
        BadInput: something the user gave cannot be used, or no trial of a search finished.
        StudyChanged: the study was opened with another cohort, folds, task or objective.
    """
    manifest, initial_weights = read_inputs(config, folder, home)
    past = read_study(Ledger(home.ledger), config.study)
    if past is not None:
        refuse_changes(config, past)
    plan, _ = make_plan(config, manifest, initial_weights, home, past, workers)
    if past is not None:
        refuse_changes(config, past, plan.cohort)
    judged: list[Judged] = []
    for fold in sorted(set(plan.folds.values())):
        changes = {"study": f"{config.study}.outer-{fold}", "warm_start": []}
        inner = StudyConfig.parse(config.model_dump(mode="json", by_alias=True) | changes, "--nested")
        others = {subject for subject, own in plan.folds.items() if own != fold}
        outcome = run_study(inner, folder, home, workers, others)
        if outcome.interrupted:
            return NestedScore(config, tuple(judged), inner.study)
        judged.append(_judge(plan, fold, outcome, workers))
    return NestedScore(config, tuple(judged))


def _judge(plan: Plan, fold: int, outcome: StudyOutcome, workers: int | None) -> Judged:
    """Refits the fusion that a search chose on all subjects that it saw, and predicts the fold."""
    study, fusion = outcome.sweep.facts, outcome.fusion
    if fusion is None:
        raise BadInput(
            f"study {study.config.study!r}",
            "no trial has finished",
            "one that can be judged",
            f"`ptune status {study.config.study}` says why.",
        )
    chosen = [study.trials[member.trial] for member in fusion.members]
    specs = [plan.fit(study.stream(trial), study.config.seed_of(trial.params), fold) for trial in chosen]
    ledger = Ledger(plan.home.ledger)
    missing = sum(ledger.find_fit(spec.signature()) is None for spec in specs)
    records = run_fits(specs, plan.config.extraction, plan.home, workers)
    frames = [record.predictions().to_pandas().assign(fold=fold) for record in records]
    frame = fuse(frames, [member.weight for member in fusion.members])
    return Judged(
        fold,
        study.config.study,
        fusion,
        frame,
        outcome.tally.fits_trained + missing,
        outcome.tally.fits_reused + len(specs) - missing,
    )
