"""Finished trials of one study, or of several that saw the same videos, become what a fusion is chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import Baseline, StudyFacts
from ptune.results.fusion import Fusion, by_modality, study_frames
from ptune.results.stats import FusionRule, Rule, why_not_comparable
from ptune.results.status import require_study
from ptune.results.table import Table
from ptune.results.tables import study_table, trial_name, unfinished, warnings_of

if TYPE_CHECKING:
    import pandas as pd

WHY_NOT = {
    "running": "is not finished yet",
    "stopped": "was stopped before its last fold",
    "failed": "failed",
}


@dataclass(frozen=True)
class Streams:
    """What a fusion is chosen from.

    Args:
        studies: the first gives the objective and the fewest streams.
        frames: out-of-fold table of each trial, under its number; under study and number where there are several
            studies. Best first within a study; a trial whose fits another one has too is left out.
        named: whether people named the trials, so that no score is corrected for how these were picked.
    """

    studies: tuple[StudyFacts, ...]
    frames: dict[Any, pd.DataFrame]
    named: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the studies."""
        return tuple(facts.config.study for facts in self.studies)

    @property
    def candidates(self) -> dict[str, dict[Any, pd.DataFrame]]:
        """The tables under their modality."""
        if len(self.studies) == 1:
            return dict(by_modality(self.studies[0], self.frames))
        found: dict[str, dict[Any, pd.DataFrame]] = {}
        for facts in self.studies:
            own = {number: frame for (name, number), frame in self.frames.items() if name == facts.config.study}
            for modality, frames in by_modality(facts, own).items():
                keyed = {(facts.config.study, number): frame for number, frame in frames.items()}
                found.setdefault(modality, {}).update(keyed)
        return found

    def how(self, rule: Rule, per_modality: int) -> FusionRule:
        """Returns the rule to choose by; of trials that were named, the plain average takes all."""
        if self.named:
            return FusionRule(rule, len(self.frames), len(self.frames) if rule == "average" else 1)
        return FusionRule(rule, per_modality, self.studies[0].config.ensemble.fewest_streams)

    def table(self, fusion: Fusion, baselines: Sequence[Baseline]) -> Table:
        """Returns the table of the trials and their fusions."""
        first, titles = self.studies[0], None
        if len(self.studies) > 1:
            by_name = dict(zip(self.names, self.studies, strict=True))
            titles = {key: f"{key[0]} {trial_name(by_name[key[0]].trials[key[1]])}" for key in self.frames}
        table = study_table(first, self.frames, fusion, baselines, titles)
        if titles is None:
            return table
        others = ", ".join(self.names[1:])
        return replace(table, caption=f"{table.caption} With streams of {others}, on the same videos and folds.")

    def warnings(self, fusion: Fusion) -> list[str]:
        """Returns what a reader must know before trusting the table, one sentence each."""
        found = warnings_of(self.studies[0], self.frames, None if self.named else fusion)
        for facts in self.studies[1:]:
            found += [f"Study {facts.config.study}: {text}" for text in unfinished(facts)]
        if self.named:
            found.append("These streams were named, not chosen: no score here is corrected for how they were picked.")
        return found


def read_streams(home: Home, names: Sequence[str], wanted: Sequence[str] = ()) -> Streams:
    """Reads the finished trials of studies.

    Args:
        wanted: only these trials: a number, or STUDY:NUMBER where there are several studies.

    Raises:
        BadInput: no such study or trial, one that is not finished, or studies that do not compare.
    """
    ledger = Ledger(home.ledger)
    studies = tuple(require_study(home, name) for name in dict.fromkeys(names))
    tables = {facts.config.study: study_frames(facts, ledger) for facts in studies}
    for facts in studies:
        if not tables[facts.config.study] and not wanted:
            name = facts.config.study
            raise BadInput(f"study {name!r}", "has no finished trial", "at least one", "Run its sweep on.")
    chosen = [_trial(studies, text) for text in wanted]
    for facts in studies[1:]:
        _refuse_unlike(studies[0], facts, tables)
    found, seen = {}, set()
    for facts in studies:
        for number, frame in tables[facts.config.study].items():
            fits = tuple(sorted(facts.trials[number].fits.values()))
            if (facts.config.study, number) in chosen or (not wanted and fits not in seen):
                found[facts.config.study, number] = frame
            seen.add(fits)
    if len(studies) == 1:
        return Streams(studies, {number: frame for (_, number), frame in found.items()}, bool(wanted))
    return Streams(studies, dict(found), bool(wanted))


def _trial(studies: Sequence[StudyFacts], text: str) -> tuple[str, int]:
    """Returns the study and the number of a finished trial."""
    by_name = {facts.config.study: facts for facts in studies}
    name, _, number = text.rpartition(":")
    if not name and len(studies) == 1:
        name = studies[0].config.study
    if name not in by_name or not number.isdecimal():
        expected = "the number of a trial" if len(studies) == 1 else "STUDY:NUMBER with one of the studies given"
        raise BadInput(f"--streams {text}", "names no trial", expected, "`ptune status STUDY` lists them.")
    facts, where = by_name[name], f"study {name!r}"
    finished = ", ".join(str(trial.number) for trial in sorted(facts.finished(), key=lambda trial: trial.number))
    remedy = f"Finished are: {finished}." if finished else "None has finished."
    trial = facts.trials.get(int(number))
    if trial is None:
        raise BadInput(where, f"has no trial {number}", "a finished trial", remedy)
    if trial.state != "finished":
        raise BadInput(where, f"{trial_name(trial)} {WHY_NOT[trial.state]}", "a finished trial", remedy)
    return name, trial.number


def _refuse_unlike(one: StudyFacts, other: StudyFacts, tables: dict[str, dict[int, pd.DataFrame]]) -> None:
    names = (f"study {one.config.study!r}", f"study {other.config.study!r}")
    settings = {
        "task": (one.config.task, other.config.task),
        "objective": (one.config.objective.metric, other.config.objective.metric),
        "classes": (", ".join(one.config.grouping.names), ", ".join(other.config.grouping.names)),
    }
    problems = [f"{name} {left} and {right}" for name, (left, right) in settings.items() if left != right]
    firsts = [next(iter(tables[facts.config.study].values()), None) for facts in (one, other)]
    if firsts[0] is not None and firsts[1] is not None:
        problems += filter(None, [why_not_comparable(firsts[0], firsts[1], names)])
    if problems:
        raise BadInput(
            f"{names[0]} and {names[1]}",
            "; ".join(problems),
            "the same task, objective, classes, videos, subjects, folds and labels",
            "Fuse studies of one cohort and one split.",
        )
