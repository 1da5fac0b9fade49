"""The three rules of a fusion: cases by hand, other libraries as oracles, and what holds for any streams."""

import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import VotingClassifier
from sklearn.metrics import f1_score

from ptune.errors import BadInput
from ptune.metrics import score_frame, stacked
from ptune.results.fusion import choose_fusion, fuse
from ptune.results.stats import RULES, FusionRule, bbc_cv

TWO = ("normal", "affected")
THREE = ("normal", "mild", "severe")


def stream(labels, chances_of_second):
    """Returns a table of two classes from the probability of the second."""
    chances = np.asarray(chances_of_second, float)
    return table(labels, np.stack([1 - chances, chances], 1))


def table(labels, probabilities, each=2):
    """Returns an out-of-fold table: so many videos of each subject, every subject in one of three folds."""
    place = np.arange(len(labels))
    return pd.DataFrame(
        {
            "video_id": [f"v{number:04d}" for number in place],
            "subject": [f"S{number:03d}" for number in place // each],
            "fold": place // each % 3,
            "score": labels,
            "label": labels,
            "probabilities": list(np.asarray(probabilities, float)),
        }
    )


def weights_of(fusion):
    return {member.name: member.weight for member in fusion.members}


#: Each stream is wrong about one video of three, and unsure of it. Together they are right where the surer one counts
#: for more: P(true) of the videos is (0.8, 0.45, 0.9) and (0.1, 0.9, 0.9).
LABELS = [0, 1, 0]
RGB, FLOW = stream(LABELS, [0.2, 0.45, 0.1]), stream(LABELS, [0.9, 0.9, 0.1])
PAIR = {"rgb": {0: RGB}, "flow": {1: FLOW}}


def test_average_by_hand_one_stream_is_as_good_as_both_so_it_is_alone():
    """Averaged, the first video has 0.45 for its class: two of three are right, as with either stream alone."""
    found = choose_fusion(PAIR, "accuracy", TWO)
    assert [item.metrics["accuracy"] for item in found.tried] == pytest.approx([2 / 3] * 3)
    assert weights_of(found) == {"rgb": 1.0}
    both = choose_fusion(PAIR, "accuracy", TWO, FusionRule(fewest_streams=2))
    assert np.allclose(stacked(both.frame)[:, 1], [0.55, 0.675, 0.1])


def test_greedy_by_hand_adds_the_first_stream_twice_and_then_the_second():
    """rgb, rgb, flow: P(true) is 1.7/3, 1.8/3 and 0.9, all right. rgb comes first because it ties and is earlier."""
    found = choose_fusion(PAIR, "accuracy", TWO, FusionRule("greedy"))
    assert weights_of(found) == pytest.approx({"rgb": 2 / 3, "flow": 1 / 3})
    assert found.value == 1
    assert found.name == "0.67 rgb + 0.33 flow"
    assert np.allclose(stacked(found.frame)[:, 1], [1.3 / 3, 1.8 / 3, 0.1])


def test_weights_by_hand_are_the_minimum_of_a_parabola():
    """Errors of (-0.2, 0.6) and (-0.6, 0.1): (0.6 - 0.4 w)^2 + (0.1 + 0.5 w)^2 is smallest at w = 19 / 41."""
    labels = [1, 0]
    candidates = {"rgb": {0: stream(labels, [0.8, 0.6])}, "flow": {0: stream(labels, [0.4, 0.1])}}
    found = choose_fusion(candidates, "accuracy", TWO, FusionRule("weights"))
    assert weights_of(found) == pytest.approx({"rgb": 19 / 41, "flow": 22 / 41})
    assert found.name == "0.46 rgb + 0.54 flow"
    assert np.allclose(stacked(found.frame)[:, 1], [(19 * 0.8 + 22 * 0.4) / 41, (19 * 0.6 + 22 * 0.1) / 41])


def test_a_stream_that_does_not_help_gets_no_weight_at_all():
    """The second stream errs in the same direction as the first, and more."""
    labels = [1, 0]
    candidates = {"rgb": {0: stream(labels, [0.9, 0.1])}, "flow": {0: stream(labels, [0.6, 0.4])}}
    found = choose_fusion(candidates, "accuracy", TWO, FusionRule("weights"))
    assert weights_of(found) == {"rgb": 1.0}


def random_candidates(seed, per_modality, modalities=("rgb", "flow", "mb"), videos=60, sure=0.7):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, videos)
    found = {}
    for place, modality in enumerate(modalities):
        found[modality] = {}
        for trial in range(per_modality):
            logits = random.normal(0, 1, (videos, 3)) + sure * np.eye(3)[labels]
            chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            found[modality][place * per_modality + trial] = table(labels, chances)
    return found


class Stored(ClassifierMixin, BaseEstimator):
    """A classifier that answers for case number i with row i of a table."""

    def __init__(self, answers=None):
        self.answers = answers

    def fit(self, cases, labels):
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, cases):
        return self.answers[np.asarray(cases)[:, 0]]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_agrees_with_scikit_learns_soft_voting_under_its_weights(rule):
    candidates = random_candidates(3, 2)
    found = choose_fusion(candidates, "f1_weighted", THREE, FusionRule(rule, 2))
    members = [
        (str(member.trial), Stored(stacked(candidates[member.modality][member.trial]))) for member in found.members
    ]
    cases, labels = np.arange(len(found.frame))[:, None], found.frame["label"].to_numpy()
    voting = VotingClassifier(members, voting="soft", weights=[member.weight for member in found.members])
    voting.fit(cases, labels)
    assert np.allclose(voting.predict_proba(cases), stacked(found.frame))
    assert found.value == pytest.approx(f1_score(labels, voting.predict(cases), average="weighted"))


@pytest.mark.parametrize("seed", range(8))
def test_weights_are_those_of_a_general_solver(seed):
    candidates = random_candidates(seed, 2, sure=0.4 + 0.2 * seed)
    found = choose_fusion(candidates, "accuracy", THREE, FusionRule("weights", 2))
    frames = [frame for trials in candidates.values() for frame in trials.values()]
    streams, truth = np.stack([stacked(frame) for frame in frames]), np.eye(3)[frames[0]["label"]]

    def brier(weights):
        return ((np.tensordot(weights, streams, 1) - truth) ** 2).sum(1).mean()

    start = np.full(len(frames), 1 / len(frames))
    whole = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    general = minimize(brier, start, method="SLSQP", bounds=[(0, 1)] * len(frames), constraints=whole, tol=1e-12)
    assert ((stacked(found.frame) - truth) ** 2).sum(1).mean() == pytest.approx(general.fun, abs=1e-9)
    chosen = {member.trial: member.weight for member in found.members}
    assert np.allclose([chosen.get(trial, 0) for trial in range(len(frames))], general.x, atol=1e-3)


def test_the_best_average_of_several_trials_is_that_of_trying_every_set():
    candidates = random_candidates(5, 2)
    found = choose_fusion(candidates, "f1_macro", THREE, FusionRule(per_modality=2))
    frames = {trial: frame for trials in candidates.values() for trial, frame in trials.items()}
    sets = [trials for size in range(1, 7) for trials in combinations(sorted(frames), size)]
    values = {trials: score_frame(fuse([frames[trial] for trial in trials]), THREE)["f1_macro"] for trials in sets}
    assert found.combinations == len(sets) == 63
    assert found.value == pytest.approx(max(values.values()))
    chosen = tuple(sorted(member.trial for member in found.members))
    ties = [trials for trials in sets if values[trials] > max(values.values()) - 1e-9]
    assert chosen in ties
    assert len(chosen) == min(map(len, ties))
    assert len(found.tried) == 20
    assert found.value == pytest.approx(max(item.metrics["f1_macro"] for item in found.tried))
    assert {member.name for member in found.members} <= {"rgb", "rgb 2", "flow", "flow 2", "mb", "mb 2"}


streams = st.integers(0, 10_000)


@settings(max_examples=60, deadline=None)
@given(streams, st.integers(1, 3), st.sampled_from(["accuracy", "f1_weighted", "f1_macro", "kappa_quadratic"]))
def test_greedy_is_never_worse_than_the_best_single_stream_where_it_chooses(seed, per_modality, metric):
    random = np.random.default_rng(seed)
    candidates = random_candidates(seed, 3, videos=int(random.integers(4, 40)), sure=random.uniform(0, 2))
    if seed % 4 == 0:
        candidates["mb"] = {trial + 20: frame for trial, frame in candidates["rgb"].items()}
    single = max(score_frame(frame, THREE)[metric] for trials in candidates.values() for frame in trials.values())
    found = choose_fusion(candidates, metric, THREE, FusionRule("greedy", per_modality))
    assert found.value >= single - 1e-9
    assert sum(member.weight for member in found.members) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(streams, st.sampled_from(RULES), st.integers(1, 9))
def test_no_rule_fuses_fewer_streams_than_asked_for(seed, rule, fewest):
    candidates = random_candidates(seed, 2, videos=20, sure=1.0)
    how = FusionRule(rule, 2, fewest)
    found = choose_fusion(candidates, "accuracy", THREE, how)
    assert len(found.members) >= min(fewest, 6)
    assert all(member.weight > 0 for member in found.members)
    judged = bbc_cv(candidates, "accuracy", THREE, fewest, rule=rule, per_modality=2, draws=3)
    assert judged.members == found.members


@settings(max_examples=40, deadline=None)
@given(streams, st.sampled_from(RULES))
def test_a_copy_of_a_stream_takes_no_part(seed, rule):
    candidates = random_candidates(seed, 1, ("rgb", "flow"), videos=20)
    how = FusionRule(rule)
    alone = choose_fusion(candidates, "accuracy", THREE, how)
    copied = choose_fusion(candidates | {"mb": candidates["flow"]}, "accuracy", THREE, how)
    # Averaged, a copy doubles the weight of its stream, which may well score better.
    if rule != "average":
        assert not {"flow", "mb"} <= set(weights_of(copied))
        assert np.allclose(stacked(copied.frame), stacked(alone.frame), atol=1e-6)


def test_thousands_of_combinations_take_seconds(capsys):
    candidates = random_candidates(0, 4, videos=150)
    start = time.process_time()
    found = choose_fusion(candidates, "f1_weighted", THREE, FusionRule(per_modality=4))
    searched = time.process_time() - start
    start = time.process_time()
    draws = 40
    bbc_cv(candidates, "f1_weighted", THREE, per_modality=4, draws=draws)
    corrected = time.process_time() - start
    with capsys.disabled():
        print(f"\n{found.combinations} combinations: {searched:.2f} s, in {2 * draws} draws {corrected:.1f} s")
    assert found.combinations == 4095
    assert searched < 5
    assert corrected < 20


def test_more_averages_than_can_be_tried_are_refused_and_greedy_takes_them():
    candidates = random_candidates(0, 5)
    with pytest.raises(BadInput, match=r"15 streams have 32,767 averages.*rule `greedy` or `weights`"):
        choose_fusion(candidates, "accuracy", THREE, FusionRule(per_modality=5))
    assert choose_fusion(candidates, "accuracy", THREE, FusionRule("greedy", 5)).combinations == 300
    everything = choose_fusion(candidates, "accuracy", THREE, FusionRule("average", 5, 15))
    assert (len(everything.members), everything.combinations) == (15, 1)
