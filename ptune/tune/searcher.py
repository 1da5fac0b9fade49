"""Optuna proposes trials; its whole state is rebuilt from study events, so losing it loses nothing."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ptune.config import StudyConfig, signature_of
from ptune.replay import StudyFacts, TrialFacts
from ptune.tune.space import Params, all_points, distributions, groups, paper_point, suggest

DUPLICATE_DRAWS = 20
STARTUP_TRIALS = 4
STATES = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study, its group and its point of the space."""

    number: int
    group: str
    params: Params


class Proposals:
    """Asks Optuna for points, one study per group in turn, never the same point twice.

    Every proposal is drawn by a sampler seeded from the study's seed, the group and the trial's number: the same
    events in the same order give the same proposals.
    """

    def __init__(self, config: StudyConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.config = config
        self.groups = groups(config)
        self.studies = {group: optuna.create_study(direction="maximize") for group in self.groups}
        self.asked: dict[int, optuna.Trial] = {}
        self.share = dict.fromkeys(self.groups, 0)
        self.seen: set[str] = set()
        self.exhausted: set[str] = set()
        self.unfinished: list[Proposal] = []
        self.count = 0
        self.next_number = 0

    def restore(self, facts: StudyFacts) -> None:
        """Takes over the trials of a study so far; those without an end are proposed again first."""
        for trial in sorted(facts.trials.values(), key=lambda trial: trial.number):
            self.next_number = trial.number + 1
            if trial.revision != facts.revision:
                continue
            self.count += 1
            self.share[trial.group] += 1
            self.seen.add(signature_of(trial.params))
            if trial.state == "running":
                self._ask_for(trial.number, trial.group, trial.params)
                self.unfinished.append(Proposal(trial.number, trial.group, trial.params))
            else:
                self.studies[trial.group].add_trial(_frozen(self.config, trial))

    def next(self) -> Proposal | None:
        """Returns the next trial, or None when the budget or every group's space is used up."""
        if self.unfinished:
            return self.unfinished.pop(0)
        while self.count < self.config.budget.trials and len(self.exhausted) < len(self.groups):
            group = min(
                (group for group in self.groups if group not in self.exhausted),
                key=lambda group: (self.share[group], self.groups.index(group)),
            )
            proposal = self._draw(group)
            if proposal is not None:
                self.count += 1
                self.share[group] += 1
                self.next_number += 1
                return proposal
            self.exhausted.add(group)
        return None

    def tell(self, trial: TrialFacts) -> None:
        """Reports how a trial ended: finished with its value, stopped early, or failed."""
        asked = self.asked.pop(trial.number)
        for report in trial.reports:
            asked.report(report.value, report.step)
        value = trial.value if trial.state == "finished" else None
        self.studies[trial.group].tell(asked, value, state=STATES[trial.state])

    def _draw(self, group: str) -> Proposal | None:
        study = self.studies[group]
        first = self.share[group] == 0 and "paper" in self.config.start_from
        for attempt in range(DUPLICATE_DRAWS):
            study.sampler = _sampler(self._seed(group, attempt))
            if first and attempt == 0:
                study.enqueue_trial(paper_point(self.config))
            asked = study.ask()
            params = suggest(asked, self.config, group)
            if self._is_new(params):
                self.asked[self.next_number] = asked
                return Proposal(self.next_number, group, params)
            study.tell(asked, state=TrialState.FAIL)
        rest = [point for point in all_points(self.config, group) or [] if self._is_new(point, peek=True)]
        if not rest:
            return None
        params = rest[self._seed(group, DUPLICATE_DRAWS) % len(rest)]
        self.seen.add(signature_of(params))
        self._ask_for(self.next_number, group, params)
        return Proposal(self.next_number, group, params)

    def _is_new(self, params: Params, peek: bool = False) -> bool:
        key = signature_of(params)
        new = key not in self.seen
        if not peek:
            self.seen.add(key)
        return new

    def _ask_for(self, number: int, group: str, params: Params) -> None:
        """Makes Optuna run a given point."""
        study = self.studies[group]
        study.enqueue_trial({name: value for name, value in params.items() if name != "modality"})
        self.asked[number] = study.ask()
        suggest(self.asked[number], self.config, group)

    def _seed(self, group: str, attempt: int) -> int:
        return zlib.crc32(f"{self.config.seed}/{group}/{self.next_number}/{attempt}".encode())


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
        )


def _frozen(config: StudyConfig, trial: TrialFacts) -> FrozenTrial:
    params = {name: value for name, value in trial.params.items() if name != "modality"}
    return create_trial(
        state=STATES[trial.state],
        value=trial.value if trial.state == "finished" else None,
        params=params,
        distributions=distributions(config, trial.params),
        intermediate_values={report.step: report.value for report in trial.reports},
    )
