"""Halving on the first fold's epochs, racing from fold to fold, and the plain rules."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ptune.config import FitVideo
from ptune.errors import FitFailed
from ptune.tune.evidence import Evidence, evidence_of, joined, p_worse
from ptune.tune.race import FoldRace, epoch_rungs, fold_order
from ptune.tune.rules import GO, WAIT, Asha, Median, Never

EPOCHS, FOLDS, SUBJECTS = 9, 4, 12


def evidence(fold, skill, seed=0):
    """Returns losses on a fold's own videos: hard ones are hard for everybody."""
    hard = np.random.default_rng(fold).gamma(2.0, 0.1, SUBJECTS)
    luck = np.random.default_rng([seed, fold]).normal(0, 0.02, SUBJECTS)
    videos = tuple(f"v{fold}-{number}" for number in range(SUBJECTS))
    return Evidence(videos, videos, hard + luck - skill)


def run(race, trial, group, quality, until=EPOCHS * FOLDS, start=1):
    """Plays a trial from a step on until it has to wait; returns the steps it made."""
    for step in range(start, until + 1):
        fold, epoch = divmod(step - 1, EPOCHS)
        if race.epoch(trial, group, fold, epoch + 1, step, quality) != GO:
            return step
        if epoch + 1 == EPOCHS and race.fold(trial, group, fold, evidence(fold, quality, trial)) != GO:
            return step
    race.ended(trial, group, "finished")
    return until


def study(race, qualities, group="flow"):
    """Runs trials of the given qualities to the end of a study on one actor; returns the steps of each."""
    steps = {}
    for trial, quality in enumerate(qualities):
        while (ready := race.next()) is not None:
            steps[ready] = run(race, ready, group, qualities[ready], start=steps[ready] + 1)
        steps[trial] = run(race, trial, group, quality)
    while (ready := _either(race)) is not None:
        steps[ready] = run(race, ready, group, qualities[ready], start=steps[ready] + 1)
    return steps


def _either(race):
    found = race.next()
    return race.close() if found is None else found


def test_rungs_are_at_one_two_four_and_six_ninths_of_an_epoch_count():
    assert epoch_rungs(120) == (14, 27, 54, 80)
    assert epoch_rungs(9) == (1, 2, 4, 6)
    assert epoch_rungs(3) == (1, 2)
    assert epoch_rungs(2) == (1,)
    assert epoch_rungs(1) == ()


def test_a_trial_waits_until_three_others_were_at_its_rung_and_it_is_in_the_better_half():
    race = FoldRace(1, EPOCHS, FOLDS)
    assert race.epoch(0, "flow", 0, 1, 1, 0.5) == WAIT
    assert race.epoch(1, "flow", 0, 1, 1, 0.7) == WAIT
    assert race.epoch(2, "flow", 0, 1, 1, 0.6) == WAIT
    assert race.next() is None
    assert race.epoch(3, "flow", 0, 1, 1, 0.8) == GO, "the best of four need not wait"
    assert race.next() == 1
    assert race.next() is None


def test_the_best_is_cross_validated_in_full_and_half_of_the_others_see_one_epoch():
    qualities = np.random.default_rng(0).permutation(32) / 100
    race = FoldRace(1, EPOCHS, FOLDS)
    steps = study(race, qualities.tolist())
    assert steps[int(qualities.argmax())] == EPOCHS * FOLDS
    ended = sorted(steps.values())
    assert ended[:11] == [1] * 11, "some went on while they were in the better half of those before them"
    assert ended[16] <= 4
    assert sum(ended) < 32 * EPOCHS * FOLDS / 6
    assert len(race.hopeless()) + sum(step == EPOCHS * FOLDS for step in ended) == 32


def test_of_few_trials_none_is_judged_by_its_first_epochs():
    """Three trials, of which the best begins worst: all see the first fold, and its predictions decide."""
    race, skills = FoldRace(1, EPOCHS, FOLDS), (0.3, 0.5, 0.4)
    at = dict.fromkeys(range(3), 0)

    def go_on(trial):
        for step in range(at[trial] + 1, EPOCHS * FOLDS + 1):
            fold, epoch = divmod(step - 1, EPOCHS)
            at[trial] = step
            if race.epoch(trial, "flow", fold, epoch + 1, step, 0.5 - skills[trial]) != GO:
                return
            if epoch + 1 == EPOCHS and race.fold(trial, "flow", fold, evidence(fold, skills[trial], trial)) != GO:
                return
        race.ended(trial, "flow", "finished")

    for trial in range(3):
        go_on(trial)
    while (ready := _either(race)) is not None:
        go_on(ready)
    assert at[0] == EPOCHS
    assert at[1] == EPOCHS * FOLDS
    assert EPOCHS <= at[2] <= 2 * EPOCHS


def test_what_an_earlier_launch_saw_is_told_rung_by_rung_without_a_pause_between():
    """Of three epochs, trials wait after the first and the second: no report between says that one goes on."""
    race = FoldRace(1, 3, FOLDS)
    assert race.epoch(0, "flow", 0, 1, 1, 0.5) == WAIT
    assert race.epoch(0, "flow", 0, 2, 2, 0.5) == WAIT
    assert race.close() == 0
    assert race.next() is None


def test_a_weak_modality_keeps_its_finalists_so_that_it_can_be_fused():
    """Boundaries are worse than flow throughout; one of each is cross-validated in full nevertheless."""
    race, steps = FoldRace(1, EPOCHS, FOLDS), {}
    groups = {trial: ("flow", "mb")[trial % 2] for trial in range(18)}
    qualities = {trial: 0.5 * (groups[trial] == "flow") + trial / 50 for trial in range(18)}
    for trial in range(18):
        steps[trial] = run(race, trial, groups[trial], qualities[trial])
    while (ready := _either(race)) is not None:
        steps[ready] = run(race, ready, groups[ready], qualities[ready], start=steps[ready] + 1)
    finished = [trial for trial, step in steps.items() if step == EPOCHS * FOLDS]
    assert {groups[trial] for trial in finished} == {"flow", "mb"}
    assert {16, 17} <= set(finished)


def test_as_many_finalists_as_asked_for_are_finished():
    for count in (1, 2, 3):
        race = FoldRace(count, EPOCHS, FOLDS)
        steps = study(race, (np.random.default_rng(count).permutation(20) / 100).tolist())
        assert sum(step == EPOCHS * FOLDS for step in steps.values()) >= count
        assert race.missing() == 0


def test_a_failed_trial_never_ran_as_far_as_others_are_concerned():
    """A trial whose value is not finite fails; all later decisions are those of a study without it."""

    def decisions(with_failures):
        race, found = FoldRace(1, EPOCHS, FOLDS), []
        for trial in range(20):
            if trial % 5 == 4:
                if with_failures:
                    race.epoch(trial, "flow", 0, 1, 1, 0.9)
                    race.ended(trial, "flow", "failed")
                continue
            found.append(race.epoch(trial, "flow", 0, 1, 1, (trial * 7 % 20) / 20))
            found.append(race.next())
        return found

    assert decisions(True) == decisions(False)


def test_a_challenger_goes_on_only_while_it_beats_the_leader_on_the_same_videos():
    race = FoldRace(1, EPOCHS, FOLDS)
    step = run(race, 0, "flow", 0.5)
    while step < EPOCHS * FOLDS:
        assert race.close() == 0
        step = run(race, 0, "flow", 0.5, start=step + 1)
    for trial, skill, verdict in ((1, 0.3, WAIT), (2, 0.7, GO)):
        for epoch in epoch_rungs(EPOCHS):
            race.epoch(trial, "flow", 0, epoch, epoch, 0.9)
        assert race.fold(trial, "flow", 0, evidence(0, skill, trial)) == verdict


def test_reports_heard_twice_change_nothing():
    race = FoldRace(1, EPOCHS, FOLDS)
    for trial in range(3):
        assert race.epoch(trial, "flow", 0, 1, 1, trial / 10) == race.epoch(trial, "flow", 0, 1, 1, trial / 10)
    assert len(race.fields["flow"].rungs[0].all) == 3
    assert race.next() is None, "the third was the best, and went on at once"


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["flow", "mb"]), st.floats(0, 1)), max_size=60))
def test_whatever_is_reported_every_waiting_trial_is_let_go_once_or_hopeless(reports):
    race, waiting = FoldRace(1, EPOCHS, FOLDS), set()
    for number, (_, group, value) in enumerate(reports):
        if race.epoch(number, group, 0, 1, 1, value) == WAIT:
            waiting.add(number)
    gone = []
    while (ready := _either(race)) is not None:
        gone.append(ready)
    assert len(gone) == len(set(gone))
    assert waiting == set(gone) | {number for number, _ in race.hopeless()}


def test_the_first_fold_holds_all_classes_where_one_does():
    videos = [
        FitVideo(video_id=f"{number:016x}", subject=f"S{number}", score=score, label=label)
        for number, (score, label) in enumerate([(0, 0), (1, 1), (0, 0), (1, 1), (3, 2)])
    ]
    folds = {"S0": 0, "S1": 0, "S2": 1, "S3": 1, "S4": 1}
    assert fold_order(videos, folds, 2) == (1, 0)
    assert fold_order(videos[:4], folds, 2) == (0, 1), "both hold two classes"


def test_the_ranked_probability_score_of_a_worked_example():
    """Mild cumulates to 0, 1; the first answer to 0.5, 1, the second to 0, 0.5: each is wrong by half at one step."""
    rows = [
        {"video_id": "a", "subject": "S1", "label": 1, "probabilities": [0.5, 0.5, 0.0]},
        {"video_id": "b", "subject": "S1", "label": 1, "probabilities": [0.0, 0.5, 0.5]},
        {"video_id": "c", "subject": "S2", "label": 1, "probabilities": [0.0, 1.0, 0.0]},
        {"video_id": "d", "subject": "S2", "label": 2, "probabilities": [1.0, 0.0, 0.0]},
    ]
    assert evidence_of(rows).losses.tolist() == [0.25, 0.25, 0.0, 2.0]
    # Three videos are mild and one severe: balanced, the three weigh as much as the one, and all four as before.
    assert evidence_of(rows, balanced=True).losses.tolist() == pytest.approx([0.25 * 2 / 3, 0.25 * 2 / 3, 0.0, 2.0 * 2])


def test_pairs_are_compared_by_subject_as_scipy_does():
    mine, other = evidence(0, 0.0, seed=1), evidence(0, 0.01, seed=2)
    expected = stats.ttest_rel(mine.losses, other.losses, alternative="greater").pvalue
    assert p_worse(mine, other) == pytest.approx(expected)
    clustered = [Evidence(part.videos, ("A", "B", "C") * 4, part.losses) for part in (mine, other)]
    means = (clustered[0].losses - clustered[1].losses).reshape(4, 3).mean(0)
    assert p_worse(*clustered) == pytest.approx(stats.ttest_1samp(means, 0, alternative="greater").pvalue)


def test_only_videos_that_both_predicted_are_compared():
    mine = joined([evidence(0, 0.0), evidence(1, 9.0)])
    assert p_worse(mine, evidence(0, 0.5)) == p_worse(evidence(0, 0.0), evidence(0, 0.5))


def test_equal_trials_are_held_back_as_often_as_the_level_says():
    random, level = np.random.default_rng(0), 0.2
    names = tuple(f"S{number}" for number in range(20))
    held = 0
    for _ in range(2000):
        hard = random.gamma(2.0, 0.1, 20)
        mine, other = (Evidence(names, names, hard + random.normal(0, 0.05, 20)) for _ in range(2))
        held += p_worse(mine, other) < level
    assert abs(held / 2000 - level) < 3 * math.sqrt(level * (1 - level) / 2000)


def test_asha_keeps_the_best_third_of_those_that_came_before():
    rule = Asha(27)
    assert rule.rungs == {1, 3, 9}
    assert rule.epoch(0, "flow", 0, 1, 1, 0.5) == GO
    assert rule.epoch(1, "flow", 0, 1, 1, 0.4).action == "stop"
    assert rule.epoch(2, "flow", 0, 1, 1, 0.6) == GO
    assert rule.epoch(3, "mb", 0, 1, 1, 0.1) == GO, "another group"
    assert rule.epoch(0, "flow", 0, 2, 2, 0.0) == GO, "nothing is decided between rungs"


def test_the_median_rule_stops_what_is_below_half_of_the_others():
    rule = Median()
    assert [rule.epoch(trial, "flow", 0, 1, 1, trial / 10) for trial in range(3)] == [GO] * 3
    assert rule.epoch(3, "flow", 0, 1, 1, 0.05).action == "stop"
    assert rule.epoch(4, "flow", 0, 1, 1, 0.3) == GO


def test_nothing_is_stopped_by_no_rule():
    rule = Never()
    assert rule.epoch(0, "flow", 0, 1, 1, 0.0) == GO
    assert (rule.next(), rule.close(), rule.hopeless()) == (None, None, [])


def test_predictions_that_are_not_numbers_are_no_evidence():
    rows = [{"video_id": "a", "subject": "S1", "label": 1, "probabilities": [math.nan, 0.5, 0.5]}]
    with pytest.raises(FitFailed, match="not finite"):
        evidence_of(rows)
