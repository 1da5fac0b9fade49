"""Optuna proposes trials; its whole state is rebuilt from study events, so losing it loses nothing."""

from __future__ import annotations

import warnings
import zlib
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from ptune.config import StudyConfig
from ptune.errors import BadInput, ConfigError
from ptune.replay import StudyFacts, TrialFacts
from ptune.tune.space import Params, all_points, distributions, fits_space, groups, start_points, suggest

#: Draws of a known point after which a finite space is listed, and further draws, at random, where it cannot be.
DUPLICATE_DRAWS, BLIND_DRAWS = 20, 500
STARTUP_TRIALS = 4
#: What Optuna is shown of a long study, its best trials and its latest: a proposal takes as long as any before it.
BEST, LATEST = 20, 40


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study, its group and its point of the space."""

    number: int
    group: str
    params: Params


@dataclass
class _Group:
    """What is known of one modality: trials that run, and the best and the latest of those that ended or wait."""

    share: int = 0
    exhausted: bool = False
    best: list[tuple[tuple[float, ...], int, FrozenTrial]] = field(default_factory=list)
    latest: dict[int, FrozenTrial] = field(default_factory=dict)
    open: dict[int, FrozenTrial] = field(default_factory=dict)

    def rest(self, number: int, rank: tuple[float, ...], trial: FrozenTrial) -> None:
        """Takes a trial that does not run now; the lower its rank, the better."""
        self.forget(number)
        insort(self.best, (rank, number, trial))
        del self.best[BEST:]
        self.latest[number] = trial
        if len(self.latest) > LATEST:
            del self.latest[next(iter(self.latest))]

    def forget(self, number: int) -> None:
        """Takes a trial away, of which nothing is to be learnt."""
        self.open.pop(number, None)
        self.latest.pop(number, None)
        self.best = [entry for entry in self.best if entry[1] != number]

    def shown(self) -> Iterator[FrozenTrial]:
        """Returns what Optuna is shown, in the order of numbers; of what is known of a trial, the latest."""
        known = {number: trial for _, number, trial in self.best} | self.latest | self.open
        return (known[number] for number in sorted(known))


class Proposals:
    """Asks Optuna for points, one study per group in turn, never for the same stream twice.

    Every proposal is drawn by a sampler seeded from the study's seed, the group and the trial's number: the same
    events in the same order give the same proposals.
    """

    def __init__(self, config: StudyConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.config = config
        self.groups = {name: _Group() for name in groups(config)}
        self.starts = {name: start_points(config, name) for name in self.groups}
        self.grids = {name: iter(all_points(config, name) or ()) for name in self.groups if config.search == "grid"}
        self.seen: set[str] = set()
        self.count = 0
        self.next_number = 0

    def restore(self, facts: StudyFacts, others: Sequence[StudyFacts] = ()) -> None:
        """Takes over the trials of a study so far.

        Args:
            others: studies of the same task and objective, to learn from; they take no share of the budget, and their
                points may be proposed again.
        """
        learnt = (trial for other in others for trial in other.trials.values() if trial.state != "running")
        for place, trial in enumerate(learnt, start=1):
            if trial.group in self.groups and fits_space(self.config, trial.params):
                self._learn(trial, -place)
        for trial in sorted(facts.trials.values(), key=lambda trial: trial.number):
            self.next_number = trial.number + 1
            if trial.revision == facts.revision:
                self._count(trial.group, trial.params)
                self.tell(trial)

    def next(self) -> Proposal | None:
        """Returns a new trial, or None when the budget or every group's space is used up."""
        while self.count < self.config.budget.trials:
            open_groups = [name for name, group in self.groups.items() if not group.exhausted]
            if not open_groups:
                return None
            name = min(open_groups, key=lambda name: self.groups[name].share)
            params = self._draw(name)
            if params is not None:
                return self._proposed(name, params)
            self.groups[name].exhausted = True
        return None

    def add(self, params: Params) -> Proposal:
        """Returns a trial of a point that somebody asks for, whatever the budget of trials.

        Raises:
            BadInput: the point is not in the space, or was proposed before.
        """
        name = str(params.get("modality", next(iter(self.groups))))
        if not fits_space(self.config, params) or name not in self.groups:
            raise BadInput("trial", f"{params} is not in the search space", "one value for each searched setting")
        if self._key(params) in self.seen:
            raise BadInput("trial", f"{params} was proposed before", "a new point")
        return self._proposed(name, params)

    def tell(self, trial: TrialFacts) -> None:
        """Takes how a trial stands: running, waiting, finished with its value, stopped early or failed.

        A trial that was never proposed changes nothing.
        """
        if trial.group in self.groups and 0 <= trial.number < self.next_number:
            self._learn(trial, trial.number)

    def _learn(self, trial: TrialFacts, number: int) -> None:
        group = self.groups[trial.group]
        last = trial.reports[-1] if trial.reports else None
        reported = {last.step: last.value} if last else {}
        if trial.state == "finished" and trial.value is not None:
            group.rest(number, (0.0, -trial.value), self._frozen(trial.params, TrialState.COMPLETE, trial.value))
        elif trial.state == "stopped" or trial.waiting:
            rank = (1.0, -last.step, -last.value) if last else (2.0,)
            group.rest(number, rank, self._frozen(trial.params, TrialState.PRUNED, reported=reported))
        elif trial.state == "failed":
            group.forget(number)
        else:
            group.open[number] = self._frozen(trial.params, TrialState.RUNNING)

    def _frozen(
        self, params: Params, state: TrialState, value: float | None = None, reported: dict[int, float] | None = None
    ) -> FrozenTrial:
        known = {name: value for name, value in params.items() if name != "modality"}
        return create_trial(
            state=state,
            value=value,
            params=known,
            distributions=distributions(self.config, params),
            intermediate_values=reported,
        )

    def _proposed(self, name: str, params: Params) -> Proposal:
        proposal = Proposal(self.next_number, name, params)
        self.groups[name].open[proposal.number] = self._frozen(params, TrialState.RUNNING)
        self._count(name, params)
        self.next_number += 1
        return proposal

    def _count(self, name: str, params: Params) -> None:
        self.count += 1
        self.groups[name].share += 1
        self.seen.add(self._key(params))
        starts = self.starts[name]
        begun = (start for start in starts if all(params.get(key, value) == value for key, value in start.items()))
        if (start := next(begun, None)) is not None:
            starts.remove(start)

    def _draw(self, name: str) -> Params | None:
        if self.config.search == "grid":
            return next(filter(self._is_new, self.grids[name]), None)
        study = self._study(name)
        starts = self.starts[name]
        while starts:
            study.enqueue_trial(starts[0], skip_if_exists=False)
            params = suggest(study.ask(), self.config, name)
            if self._is_new(params):
                return params
            starts.pop(0)
        for attempt in range(DUPLICATE_DRAWS + BLIND_DRAWS):
            seed = self._seed(name, attempt)
            study.sampler = self._sampler(seed) if attempt < DUPLICATE_DRAWS else RandomSampler(seed=seed)
            asked = study.ask()
            params = suggest(asked, self.config, name)
            if self._is_new(params):
                return params
            study.tell(asked, state=TrialState.FAIL)
            if attempt == DUPLICATE_DRAWS - 1 and (points := all_points(self.config, name)) is not None:
                rest = [point for point in points if self._is_new(point)]
                return rest[seed % len(rest)] if rest else None
        return None

    def _study(self, name: str) -> optuna.Study:
        study = optuna.create_study(direction="maximize", sampler=self._sampler(self._seed(name, 0)))
        study.add_trials(self.groups[name].shown())
        return study

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.config.search == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
            )

    def _is_new(self, params: Params) -> bool:
        """Returns whether the point is a stream that none before was; settings that contradict each other are none."""
        try:
            return self._key(params) not in self.seen
        except ConfigError:
            return False

    def _key(self, params: Params) -> str:
        return self.config.stream(params).signature()

    def _seed(self, name: str, attempt: int) -> int:
        return zlib.crc32(f"{self.config.seed}/{name}/{self.next_number}/{attempt}".encode())
