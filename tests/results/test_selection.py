"""The score of the best of many, corrected: worked examples, properties, and simulated searches with known truth."""

import time

import numpy as np
import pandas as pd
import pytest

from ptune.errors import BadInput
from ptune.metrics import score_frame
from ptune.results.fusion import choose_fusion, fuse
from ptune.results.stats import RULES, FusionRule, bbc_cv, nested_choice

CLASSES = ("normal", "mild", "severe")


def search(trials, skill, seed, subjects=25, videos=4, modalities=("flow",)):
    """Returns candidates that are all right in the same share of cases, so that the best of them is mere luck."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, subjects * videos)
    common = {
        "video_id": [f"v{number:03d}" for number in range(subjects * videos)],
        "subject": np.repeat([f"S{number:02d}" for number in range(subjects)], videos),
        "fold": np.repeat(np.arange(subjects) % 5, videos),
        "score": labels,
        "label": labels,
    }
    hard = np.repeat(random.normal(0, 0.1, subjects), videos)
    candidates = {}
    for place, modality in enumerate(modalities):
        frames = {}
        for number in range(place, trials, len(modalities)):
            right = random.random(len(labels)) < skill + hard
            answers = np.where(right, labels, (labels + random.integers(1, 3, len(labels))) % 3)
            chances = 0.6 * np.eye(3)[answers] + 0.4 * random.dirichlet((1, 1, 1), len(labels))
            frames[number] = pd.DataFrame({**common, "probabilities": list(chances)})
        candidates[modality] = frames
    return candidates


def trials(found):
    return [member.trial for member in found.members]


def test_a_single_candidate_needs_hardly_any_correction():
    found = bbc_cv(search(1, 0.7, 0), "accuracy", CLASSES, draws=2000)
    assert found.corrected == pytest.approx(found.naive, abs=0.01)
    assert trials(found) == [0]
    assert found.stability == 1


@pytest.mark.parametrize("per_modality", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_chosen_is_what_the_fusion_of_a_study_chooses(rule, per_modality):
    candidates = search(12, 0.6, 1, modalities=("rgb", "flow", "mb"))
    chosen = choose_fusion(candidates, "f1_weighted", CLASSES, FusionRule(rule, per_modality))
    found = bbc_cv(candidates, "f1_weighted", CLASSES, draws=50, rule=rule, per_modality=per_modality)
    assert found.members == chosen.members
    assert found.naive == pytest.approx(chosen.value)
    assert sum(member.weight for member in found.members) == pytest.approx(1)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_that_chooses_among_equals_is_corrected_to_what_all_of_them_are(rule):
    """Trials of one modality that are right in 60 % of cases, two of which may be fused, over eight searches."""
    naive, corrected, nested, fresh = [], [], [], []
    for seed in range(8):
        candidates = search(24, 0.6, seed)
        found = bbc_cv(candidates, "accuracy", CLASSES, draws=200, rule=rule, per_modality=2)
        naive.append(found.naive)
        corrected.append(found.corrected)
        nested.append(nested_choice(candidates, "accuracy", CLASSES, FusionRule(rule, 2)).value)
        fresh.append(fusion_of_others(found.members, seed))
    assert np.mean(naive) - np.mean(fresh) > 0.04
    assert abs(np.mean(corrected) - np.mean(fresh)) < 0.04
    assert abs(np.mean(nested) - np.mean(fresh)) < 0.06


def fusion_of_others(members, seed):
    """Returns the accuracy of fusing as many trials that nothing was chosen by, weighed the same."""
    others = list(search(24, 0.6, seed)["flow"].items())
    scores = []
    for start in range(0, 24, len(members)):
        group = [frame for _, frame in others[start : start + len(members)]]
        if len(group) == len(members):
            fused = fuse(group, [member.weight for member in members])
            scores.append(score_frame(fused, CLASSES)["accuracy"])
    return np.mean(scores)


@pytest.mark.parametrize("rule", RULES)
def test_the_nested_estimate_judges_each_fold_by_what_the_others_chose(rule):
    candidates = search(9, 0.6, 6, modalities=("rgb", "flow", "mb"))
    how = FusionRule(rule, 2)
    found = nested_choice(candidates, "f1_macro", CLASSES, how)
    parts = []
    for fold in range(5):
        rest = {
            name: {number: frame[frame["fold"] != fold] for number, frame in frames.items()}
            for name, frames in candidates.items()
        }
        chosen = choose_fusion(rest, "f1_macro", CLASSES, how)
        assert found.chosen[fold] == chosen.members
        streams = [candidates[member.modality][member.trial] for member in chosen.members]
        fused = fuse(streams, [member.weight for member in chosen.members])
        parts.append(fused[fused["fold"] == fold])
    judged = pd.concat(parts)
    assert found.value == pytest.approx(score_frame(judged, CLASSES)["f1_macro"])
    assert found.interval[0] < found.value < found.interval[1]
    assert sorted(found.frame["video_id"]) == sorted(judged["video_id"])


def test_rules_that_try_many_fusions_make_fewer_draws_and_say_how_many():
    candidates = search(6, 0.6, 5, subjects=6, videos=2, modalities=("rgb", "flow", "mb"))
    draws = {
        (rule, k): bbc_cv(candidates, "accuracy", CLASSES, rule=rule, per_modality=k).draws
        for rule in RULES
        for k in (1, 2)
    }
    assert draws["average", 1] == draws["weights", 1] == draws["weights", 2] == 10_000
    assert 1_000 < draws["greedy", 2] < draws["greedy", 1] < 10_000
    assert 1_000 < draws["average", 2] < 10_000


def test_a_single_fold_cannot_judge_itself():
    candidates = search(2, 0.6, 4)
    alone = {number: frame.assign(fold=0) for number, frame in candidates["flow"].items()}
    with pytest.raises(BadInput, match="one fold"):
        nested_choice({"flow": alone}, "accuracy", CLASSES)


def test_the_best_of_many_equals_is_corrected_to_what_all_of_them_are():
    """64 trials that are right in 60 % of cases, each with a luck of its own, over ten searches on average."""
    naive, corrected, truth = [], [], []
    for seed in range(10):
        candidates = search(64, 0.6, seed)
        found = bbc_cv(candidates, "accuracy", CLASSES, draws=300)
        naive.append(found.naive)
        corrected.append(found.corrected)
        truth.append(np.mean([score_frame(frame, CLASSES)["accuracy"] for frame in candidates["flow"].values()]))
    assert np.mean(naive) - np.mean(truth) > 0.05
    assert abs(np.mean(corrected) - np.mean(truth)) < 0.03


def test_a_candidate_that_is_clearly_best_keeps_its_score():
    candidates = search(20, 0.4, 2)
    best = search(1, 0.9, 2)["flow"][0]
    candidates["flow"][5] = candidates["flow"][5].assign(
        probabilities=list(np.eye(3)[np.where(np.arange(100) % 10, best["label"], (best["label"] + 1) % 3)])
    )
    found = bbc_cv(candidates, "accuracy", CLASSES, draws=500)
    assert trials(found) == [5]
    assert found.stability == 1
    assert found.corrected == pytest.approx(found.naive, abs=0.01)


def test_fewest_streams_are_respected_and_ties_go_to_fewer():
    candidates = search(1, 0.7, 0)
    twice = {"rgb": candidates["flow"], "flow": candidates["flow"]}
    assert len(bbc_cv(twice, "accuracy", CLASSES, draws=20).members) == 1
    assert len(bbc_cv(twice, "accuracy", CLASSES, fewest_streams=2, draws=20).members) == 2


def test_ten_thousand_resamples_of_a_64_trial_study_take_seconds():
    candidates = search(64, 0.6, 3, modalities=("rgb", "flow", "mb"))
    start = time.process_time()
    bbc_cv(candidates, "f1_weighted", CLASSES)
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    ("column", "says"), [("label", "label"), ("subject", "subject"), ("video_id", "trial 1 lacks v000")]
)
def test_candidates_of_other_videos_are_refused(column, says):
    candidates = search(2, 0.6, 4)
    frame = candidates["flow"][1]
    candidates["flow"][1] = frame.assign(**{column: frame[column].tolist()[::-1]})
    if column == "video_id":
        candidates["flow"][1] = frame.assign(video_id=[f"w{name}" for name in frame["video_id"]])
    with pytest.raises(BadInput, match=says):
        bbc_cv(candidates, "accuracy", CLASSES)


def test_of_one_subject_nothing_can_be_said():
    with pytest.raises(BadInput, match="one subject"):
        bbc_cv(search(2, 0.6, 4, subjects=1), "accuracy", CLASSES)


def test_few_subjects_and_many_draws_still_leave_each_out():
    found = bbc_cv(search(4, 0.6, 4, subjects=2), "accuracy", CLASSES, draws=50)
    assert 0 <= found.corrected <= 1


def test_no_candidate_is_refused():
    with pytest.raises(BadInput, match="no candidate"):
        bbc_cv({"flow": {}}, "accuracy", CLASSES)
