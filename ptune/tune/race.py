"""Which trials go on: successive halving on the first fold's epochs, then a race from fold to fold on paired evidence.

A trial waits at each rung; it goes on when it is among the best of its group (modality) there. Trials are compared at
the same rung only, so that a partial score never stands beside a full one.

Source: asynchronous successive halving, Li et al. 2020; racing on the same videos, Moore and Lee 1994.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ptune.config import FitVideo, StudyConfig
from ptune.tune.evidence import Evidence, joined, p_worse
from ptune.tune.rules import GO, WAIT, Asha, Median, Never, Race, Verdict

#: Of the first fold's epochs, after which trials wait, in ninths.
RUNGS = (1, 2, 4, 6)
#: The better half goes on from such a rung, once there are this many: among few, the best change with each that comes.
ETA, FEWEST = 2, 4
#: A trial whose loss exceeds its group's leader's waits, if an equal one would by chance in this share of cases.
LEVEL = 0.4


def make_race(config: StudyConfig, epochs: int) -> Race:
    """Returns the rule that a study names."""
    if config.stopping == "race":
        return FoldRace(config.finalists.count, epochs, config.folds.count)
    if config.stopping == "asha":
        return Asha(epochs * config.folds.count)
    return Median() if config.stopping == "median" else Never()


def rungs_of(config: StudyConfig, epochs: int) -> tuple[int, ...]:
    """Returns the epochs of the first fold after which trials wait."""
    return epoch_rungs(epochs) if config.stopping == "race" else ()


def epoch_rungs(epochs: int) -> tuple[int, ...]:
    """Returns the epochs of the first fold after which trials wait, rising."""
    return tuple(sorted({math.ceil(epochs * ninths / 9) for ninths in RUNGS} - {epochs}))


def fold_order(videos: Sequence[FitVideo], folds: Mapping[str, int], count: int) -> tuple[int, ...]:
    """Returns folds so that the first holds videos of all classes, or of as many as any does; else by number."""

    def classes(fold: int) -> int:
        return len({video.label for video in videos if folds[video.subject] == fold})

    first = max(range(count), key=lambda fold: (classes(fold), -fold))
    return (first, *(fold for fold in range(count) if fold != first))


Rank = tuple[float, int]


@dataclass
class _Runner:
    """How far a trial has come: the last rung it was at, whether it waits there, its evidence of complete folds."""

    number: int
    group: str
    rung: int = -1
    waits: bool = False
    state: str = "running"
    ranks: list[Rank] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)

    def loss(self, folds: int) -> float:
        return float(joined(self.evidence[:folds]).losses.mean())

    def standing(self) -> tuple[int, float, int]:
        """Returns what is greater for who has come farther, and for the better of two that have come as far."""
        return len(self.evidence), -self.loss(len(self.evidence)), -self.number


@dataclass
class _Rung:
    """Ranks, best first, of all trials of a group that were here, and of those that wait."""

    all: list[Rank] = field(default_factory=list)
    waiting: list[Rank] = field(default_factory=list)

    def invites(self, rank: Rank) -> bool:
        """Returns whether a trial is among the best of those that were here."""
        return len(self.all) >= FEWEST and bisect_left(self.all, rank) < len(self.all) // ETA


class _Field:
    """The trials of one group."""

    def __init__(self, rungs: int) -> None:
        self.rungs = [_Rung() for _ in range(rungs)]
        self.under_way, self.finished = 0, 0
        #: Who has come farthest; of several, the best.
        self.leader: _Runner | None = None


class FoldRace:
    """Halving, then racing; see the module.

    Rungs are numbered: first the epochs of `epoch_rungs`, then the ends of all folds but the last.

    Args:
        count: finalists of each group, which are cross-validated in full.
        epochs: of one fold.
        folds: how many there are.
        level: a trial goes on to the next fold when one as good as its group's leader would look this bad, or worse, in
            so large a share of cases.
    """

    def __init__(self, count: int, epochs: int, folds: int, level: float = LEVEL) -> None:
        self.count, self.folds, self.level = count, folds, level
        self.epochs = epoch_rungs(epochs)
        self.runners: dict[int, _Runner] = {}
        self.fields: dict[str, _Field] = {}
        self.chances: dict[tuple[int, int, int, int], float] = {}

    def epoch(self, trial: int, group: str, fold: int, epoch: int, step: int, value: float) -> Verdict:
        """Takes a report; only those at a rung of the first fold matter."""
        runner = self._runner(trial, group)
        if fold > 0 or epoch not in self.epochs:
            self._leaves(runner)
            return GO
        return self._arrives(runner, self.epochs.index(epoch), -value)

    def fold(self, trial: int, group: str, fold: int, evidence: Evidence) -> Verdict:
        """Takes a complete fold; after the last one there is nothing to wait for."""
        runner = self._runner(trial, group)
        if len(runner.evidence) == fold:
            runner.evidence.append(evidence)
            field_ = self.fields[group]
            if field_.leader is None or runner.standing() >= field_.leader.standing():
                field_.leader = runner
        if fold == self.folds - 1:
            self._leaves(runner)
            return GO
        loss = runner.loss(fold + 1)
        return self._arrives(runner, len(self.epochs) + fold, loss)

    def ended(self, trial: int, group: str, state: str) -> None:
        """Takes how a trial ended; one that failed never ran, as far as others are concerned."""
        runner = self._runner(trial, group)
        if runner.state != "running":
            return
        self._leaves(runner)
        runner.state = state
        field_ = self.fields[group]
        field_.under_way -= 1
        field_.finished += state == "finished"
        if state == "failed":
            for rung, rank in zip(field_.rungs, runner.ranks, strict=False):
                rung.all.remove(rank)
            if field_.leader is runner:
                others = [rival for rival in self.runners.values() if rival.group == group and rival.evidence]
                field_.leader = max(
                    (rival for rival in others if rival.state != "failed"), key=_Runner.standing, default=None
                )

    def next(self) -> int | None:
        """Returns the most advanced waiting trial that is among the best of its rung."""
        for rung in reversed(range(len(self.epochs) + self.folds - 1)):
            for field_ in self.fields.values():
                waiting = field_.rungs[rung].waiting
                if waiting and self._goes_on(self.runners[waiting[0][1]]):
                    return self._let_go(waiting[0][1])
        return None

    def close(self) -> int | None:
        """Returns a waiting trial of a group that is too small to be halved, or that is to have more finalists.

        The former run to the end of the first fold; of the latter the most advanced goes on.
        """
        for field_ in self.fields.values():
            halved = field_.rungs[: len(self.epochs)]
            if halved and len(halved[0].all) < FEWEST:
                for rung in halved:
                    if rung.waiting:
                        return self._let_go(rung.waiting[0][1])
            if field_.under_way + field_.finished < self.count:
                for rung in reversed(field_.rungs):
                    if rung.waiting:
                        return self._let_go(rung.waiting[0][1])
        return None

    def hopeless(self) -> list[tuple[int, str]]:
        """Returns all that wait."""
        numbers = [number for field_ in self.fields.values() for rung in field_.rungs for _, number in rung.waiting]
        return [(number, self._why(self.runners[number])) for number in sorted(numbers)]

    def missing(self) -> int:
        """Returns how many finalists are still to finish."""
        return sum(max(0, self.count - field_.finished) for field_ in self.fields.values())

    def _runner(self, trial: int, group: str) -> _Runner:
        runner = self.runners.get(trial)
        if runner is None:
            runner = self.runners[trial] = _Runner(trial, group)
            rungs = len(self.epochs) + self.folds - 1
            self.fields.setdefault(group, _Field(rungs)).under_way += 1
        return runner

    def _arrives(self, runner: _Runner, rung: int, value: float) -> Verdict:
        here = self.fields[runner.group].rungs[rung]
        if rung == len(runner.ranks):
            self._leaves(runner)
            runner.ranks.append((value, runner.number))
            insort(here.all, runner.ranks[rung])
            runner.rung = rung
        if rung < runner.rung or runner.state != "running" or self._goes_on(runner):
            return GO
        if not runner.waits:
            runner.waits = True
            insort(here.waiting, runner.ranks[rung])
            self.fields[runner.group].under_way -= 1
        return WAIT

    def _leaves(self, runner: _Runner) -> None:
        if runner.waits:
            runner.waits = False
            field_ = self.fields[runner.group]
            field_.rungs[runner.rung].waiting.remove(runner.ranks[runner.rung])
            field_.under_way += 1

    def _let_go(self, number: int) -> int:
        self._leaves(self.runners[number])
        return number

    def _goes_on(self, runner: _Runner) -> bool:
        here = self.fields[runner.group].rungs[runner.rung]
        rank = runner.ranks[runner.rung]
        if runner.rung < len(self.epochs):
            return here.invites(rank)
        leader = self.fields[runner.group].leader
        if leader is None or len(leader.evidence) <= self._fold(runner):
            return rank == here.all[0] and len(here.all) > self.count
        return self._chance(runner, leader) >= self.level

    def _chance(self, runner: _Runner, leader: _Runner) -> float:
        """Returns `p_worse` of the two, computed once for what they have shown: whoever is free asks again."""
        shown = runner.number, len(runner.evidence), leader.number, len(leader.evidence)
        if shown not in self.chances:
            self.chances[shown] = p_worse(joined(runner.evidence), joined(leader.evidence))
        return self.chances[shown]

    def _fold(self, runner: _Runner) -> int:
        """Returns how many folds stand behind the rung that a trial is at."""
        return runner.rung - len(self.epochs) + 1

    def _why(self, runner: _Runner) -> str:
        if runner.rung < len(self.epochs):
            return f"not among the best of {runner.group} after {self.epochs[runner.rung]} epochs"
        folds = self._fold(runner)
        return f"behind the best of {runner.group} after {folds} fold{'s' if folds > 1 else ''}"
