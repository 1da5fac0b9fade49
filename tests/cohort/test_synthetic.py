"""A synthetic cohort moves as its severities say, and nothing but the movement tells them."""

import csv
import json
import shutil
from itertools import combinations

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ptune.cli import cli
from ptune.cohort.manifest import load_manifest
from ptune.cohort.synthetic import (
    BALANCED_WEIGHTS,
    GAIT,
    HAND,
    SyntheticConfig,
    gait_signals,
    hand_opening,
    plan_cohort,
    rated,
    render_clip,
    render_cohort,
)
from ptune.cohort.synthetic.render import encode
from ptune.errors import ConfigError

TASKS = ("hand", "gait")
SMALL = {"subjects": 2, "clips_per_subject": 2, "fps": 12.5, "seconds": (1.0, 1.6), "width": 96, "height": 72}
CLASS_OF = np.array([0, 1, 1, 2, 2])


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate), dict(container.metadata)


@pytest.fixture(scope="module", params=TASKS)
def cohort(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = SyntheticConfig(task=request.param, **SMALL)
    return config, folder, render_cohort(folder, config)


@pytest.fixture(scope="module", params=TASKS)
def rendered(request, tmp_path_factory):
    """A hundred people, one clip each: severity, nuisances and how much the pixels change."""
    config = SyntheticConfig(
        task=request.param,
        **SMALL | {"subjects": 100, "clips_per_subject": 1, "seconds": (2.5, 3.5)},
        score_weights=BALANCED_WEIGHTS,
        rater_noise=0.0,
        seed=5,
    )
    plans = plan_cohort(config)
    nuisances, changes = [], []
    video = tmp_path_factory.mktemp("video") / "clip.mp4"
    for plan in plans:
        clip = render_clip(plan, config)
        left, top, right, bottom = clip.boxes_px.mean(axis=0)
        border = clip.frames[:, :8].mean(axis=(0, 1, 2))
        frames = clip.frames.astype(np.float32)
        encode(video, clip.frames, config.fps)
        nuisances.append(
            {
                "seconds": plan.seconds,
                "file_bytes": video.stat().st_size,
                "brightness": frames.mean(),
                "contrast": frames.std(),
                "box_width": right - left,
                "box_height": bottom - top,
                "box_x": left + right,
                "box_y": top + bottom,
                **dict(zip(("red", "green", "blue"), border, strict=True)),
            }
        )
        smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 1.5).mean(axis=2) for image in frames])
        changes.append([np.abs(np.diff(smooth, axis=0)).mean() / smooth[0].std()])
    names = nuisances[0]
    columns = {name: np.array([row[name] for row in nuisances]) for name in names}
    return request.param, [plan.severity for plan in plans], columns, np.log(changes)


def test_a_manifest_names_neither_person_nor_score_in_its_files(cohort):
    config, folder, manifest = cohort
    with open(manifest, newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert manifest == folder / "cohort.csv"
    assert list(rows[0]) == ["video", "subject", "task", "score", "side", "visit"]
    assert [row["video"] for row in rows] == [f"clip_{place:04d}.mp4" for place in range(1, 5)]
    assert {row["subject"] for row in rows} == {"S001", "S002"}
    assert {row["task"] for row in rows} == {config.task}
    assert {row["side"] for row in rows} == ({"left", "right"} if config.task == "hand" else {""})
    assert {row["visit"] for row in rows} == {"1"}
    assert len(load_manifest(manifest).videos) == 4


def test_videos_have_the_frames_rate_and_size_that_the_truth_states(cohort):
    config, folder, _ = cohort
    clips = json.loads((folder / "ground_truth.json").read_text())["clips"]
    signal = "opening_fraction" if config.task == "hand" else "position_m"
    for clip in clips:
        frames, fps, metadata = decoded(folder / clip["video"])
        assert frames.shape == (clip["frames"], config.height, config.width, 3)
        assert fps == config.fps
        assert clip["frames"] == len(clip[signal]) == len(clip["camera"]["x_px"])
        assert "creation_time" not in metadata


def test_the_same_settings_give_the_same_bytes(cohort, tmp_path):
    config, folder, _ = cohort
    render_cohort(tmp_path, config)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_one_cohort_shows_the_same_people_at_both_tasks(tmp_path):
    options = "--task hand --task gait --subjects 6 --clips 1 --size 96x72 --seconds 1-1.6 --fps 12.5 --balanced"
    run = CliRunner(catch_exceptions=False).invoke(cli, ["cohort", "synth", str(tmp_path), *options.split()])
    assert run.output.strip().endswith("cohort.csv")
    manifest = load_manifest(tmp_path / "cohort.csv")
    hand, gait = manifest.for_task("hand"), manifest.for_task("gait")
    assert hand.subjects() == gait.subjects() == [f"S00{number}" for number in range(1, 7)]
    assert {video.path.parent for video in gait.videos} == {tmp_path / "gait"}
    truth = json.loads((tmp_path / "ground_truth.json").read_text())["clips"]
    for task in TASKS:
        severities = [clip["severity"] for clip in truth if clip["task"] == task]
        assert sorted(CLASS_OF[severities]) == [0, 0, 1, 1, 2, 2]
    looks = {(clip["subject"]["name"], json.dumps(clip["subject"])) for clip in truth}
    assert len(looks) == 6, "whoever opens a hand also walks"
    frames, fps, _ = decoded(manifest.videos[0].path)
    assert frames.shape[1:3] == (72, 96)
    assert fps == 12.5
    assert 1 <= len(frames) / fps <= 1.6


@pytest.mark.parametrize("wrong", [("--size", "96"), ("--seconds", "3"), ("--seconds", "5-3"), ("--fps", "0")])
def test_options_that_cannot_be_drawn_are_refused_and_nothing_is_written(tmp_path, wrong):
    with pytest.raises(ConfigError, match="cohort synth"):
        CliRunner(catch_exceptions=False).invoke(
            cli, ["cohort", "synth", str(tmp_path / "out"), *wrong], standalone_mode=False
        )
    assert not list(tmp_path.iterdir())


def test_a_manifest_knows_rendered_clips_by_their_content(cohort, tmp_path):
    _, folder, _ = cohort
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)
    manifest = load_manifest(tmp_path / "cohort.csv")
    assert manifest.synthetic
    assert manifest.for_task(manifest.tasks()[0]).synthetic
    (tmp_path / "clip_0001.mp4").write_bytes(b"a patient")
    assert not load_manifest(tmp_path / "cohort.csv").synthetic, "a file under a clip's name is no clip"
    shutil.copy(folder / "clip_0001.mp4", tmp_path / "clip_0001.mp4")
    assert load_manifest(tmp_path / "cohort.csv").synthetic
    (tmp_path / "ground_truth.json").unlink()
    assert not load_manifest(tmp_path / "cohort.csv").synthetic


def test_another_seed_or_other_people_give_other_frames(cohort):
    config, _, _ = cohort
    frames = [
        render_clip(plan_cohort(other)[0], other).frames[0]
        for other in (config, config.model_copy(update={"seed": 1}), config.model_copy(update={"first_subject": 101}))
    ]
    assert all(np.abs(one.astype(int) - two).mean() > 2 for one, two in combinations(frames, 2))


def test_an_interrupted_cohort_has_no_manifest(cohort, tmp_path, monkeypatch):
    config, _, _ = cohort
    (tmp_path / "cohort.csv").write_text("of an earlier cohort")
    monkeypatch.setattr("ptune.cohort.synthetic.render.encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render_cohort(tmp_path, config)
    assert list(tmp_path.iterdir()) == []


def test_held_out_people_have_other_pseudonyms():
    first, second = (SyntheticConfig(subjects=5, first_subject=start) for start in (1, 6))
    names = [{clip.subject.name for clip in plan_cohort(config)} for config in (first, second)]
    assert names == [{f"S{number:03d}" for number in range(1, 6)}, {f"S{number:03d}" for number in range(6, 11)}]


def test_severities_meet_the_configured_frequencies():
    clips = plan_cohort(SyntheticConfig(subjects=24, clips_per_subject=3, score_weights=BALANCED_WEIGHTS))
    assert np.bincount([clip.severity for clip in clips]).tolist() == [24, 12, 12, 12, 12]
    clips = plan_cohort(SyntheticConfig(subjects=25, clips_per_subject=28))
    assert np.bincount(CLASS_OF[[clip.severity for clip in clips]]).tolist() == pytest.approx([179, 497, 24], abs=2)


@pytest.mark.parametrize("severity", range(5))
def test_hands_move_within_the_ranges_of_their_grade(severity):
    weights = tuple(float(score == severity) for score in range(5))
    config = SyntheticConfig(subjects=60, clips_per_subject=2, score_weights=weights, seconds=(8.0, 12.0))
    triggers = set()
    for clip in plan_cohort(config):
        motion = clip.motion
        assert max(motion.grades.values()) == severity
        triggers |= {name for name, grade in motion.grades.items() if grade == severity}
        assert motion.rate_hz == pytest.approx(HAND[motion.grades["rate"]].rate_hz, rel=0.5)
        decrement = HAND[motion.grades["decrement"]]
        assert motion.amplitude_end / motion.amplitude_start == pytest.approx(decrement.end_over_start)
        assert motion.onset_fraction == decrement.onset_fraction
        grade = HAND[motion.grades["interruptions"]]
        assert grade.interruptions[0] <= motion.interruptions_per_ten <= grade.interruptions[1]
        freezes = [pause for pause in motion.pauses if pause.freeze]
        assert grade.freezes[0] <= len(freezes) <= grade.freezes[1]
        ends = [0.0] + [pause.start_seconds + pause.seconds for pause in motion.pauses]
        starts = [pause.start_seconds for pause in motion.pauses] + [clip.seconds]
        assert all(end <= start + 1e-9 for end, start in zip(ends, starts, strict=True))
    assert triggers == {"rate", "decrement", "interruptions"}


@pytest.mark.parametrize("severity", range(5))
def test_people_walk_within_the_ranges_of_their_grade(severity):
    weights = tuple(float(score == severity) for score in range(5))
    clips = plan_cohort(SyntheticConfig(task="gait", subjects=60, clips_per_subject=2, score_weights=weights))
    motions = [clip.motion for clip in clips]
    milder, own = GAIT[max(0, severity - 1)], GAIT[severity]
    for motion in motions:
        assert own.speed_mps * 0.6 < motion.speed_mps < milder.speed_mps * 1.5
        assert own.stride_m * 0.6 < motion.stride_m < milder.stride_m * 1.5
        assert motion.cadence_spm == pytest.approx(120 * motion.speed_mps / motion.stride_m)
        assert own.arm_swing_deg * 0.7 < motion.arm_swing_deg < milder.arm_swing_deg * 1.3
        assert len(motion.pauses) <= own.freezes[1]
    assert np.median([motion.speed_mps for motion in motions]) == pytest.approx(own.speed_mps, rel=0.1)
    assert 0.3 < np.mean([motion.heading == 1 for motion in motions]) < 0.7


def test_openings_and_walks_follow_their_numbers():
    hand = SyntheticConfig(subjects=8, score_weights=(1, 0, 0, 0, 0), seconds=(8.0, 8.0))
    for clip in plan_cohort(hand):
        opening = hand_opening(clip.motion, clip.seconds, clip.frames, clip.fps)
        spectrum = np.abs(np.fft.rfft(opening - opening.mean(), 4096))
        peak_hz = np.fft.rfftfreq(4096, 1 / clip.fps)[spectrum.argmax()]
        assert peak_hz == pytest.approx(clip.motion.rate_hz, rel=0.1)
        assert np.ptp(opening) == pytest.approx(clip.motion.amplitude_start, abs=0.05)
    gait = SyntheticConfig(task="gait", subjects=8, score_weights=(1, 0, 0, 0, 0), seconds=(8.0, 8.0))
    for clip in plan_cohort(gait):
        walk = gait_signals(clip.motion, clip.seconds, clip.frames, clip.fps, reach_m=1.0)
        assert np.abs(walk.position_m).max() <= 1.0 + clip.motion.speed_mps / clip.fps
        assert np.abs(np.diff(walk.position_m)).max() * clip.fps == pytest.approx(clip.motion.speed_mps, rel=1e-6)
        assert np.ptp(walk.yaw_rad) > np.pi / 2


def room_shift_px(frames, first, second):
    """Returns the shift to the right under which most pixels of one frame find themselves in another."""
    one, two = (
        cv2.GaussianBlur(frames[index], (0, 0), 1.2).mean(axis=2).astype(np.float32) for index in (first, second)
    )
    height, width = one.shape
    edge = 48

    def differs(shift):
        moved = cv2.warpAffine(one, np.float32([[1, 0, shift], [0, 1, 0]]), (width, height))
        return np.median(np.abs(moved - two)[:, edge:-edge])

    coarse = min(np.arange(-edge, edge + 1.0), key=differs)
    return min(coarse + np.arange(-1, 1.01, 0.125), key=differs)


@pytest.mark.parametrize("task", TASKS)
def test_only_a_moving_camera_moves_the_room(task):
    values = {"task": task, "subjects": 3, "clips_per_subject": 1, "seconds": (1.5, 1.5), "width": 320, "height": 240}
    still, pan = (SyntheticConfig(**values, pan=moves) for moves in (False, True))
    for plan in plan_cohort(still):
        frames = render_clip(plan, still).frames
        assert abs(room_shift_px(frames, 0, 8)) <= 0.25
        clip = render_clip(plan, pan)
        for first, second in ((0, 6), (12, 16)):
            stated = clip.camera.x_px[first] - clip.camera.x_px[second]
            assert room_shift_px(clip.frames, first, second) == pytest.approx(stated, abs=0.5)


def test_shake_and_zoom_are_switches_of_their_own():
    values = {**SMALL, "subjects": 1, "clips_per_subject": 1}
    paths = {}
    for name in ("pan", "shake", "zoom"):
        config = SyntheticConfig(**values, **{name: True})
        camera = render_clip(plan_cohort(config)[0], config).camera
        assert not camera.still
        paths[name] = [bool(np.ptp(path)) for path in (camera.x_px, camera.y_px, camera.zoom)]
    assert paths == {"pan": [True, False, False], "shake": [True, True, False], "zoom": [False, False, True]}


def guess_classes(model, x, labels):
    """Returns the share of people whose class a model gets right that was fitted to other people."""
    guessed = cross_val_predict(model, x, labels, groups=np.arange(len(labels)), cv=GroupKFold(5))
    return (guessed == labels).mean()


def test_nothing_but_movement_tells_the_class(rendered):
    """One class for each of a hundred at random is right 46 times or more in under one case of a hundred.

    A walker's width is left out: it is the stride, which a still picture shows too.
    """
    task, severities, nuisances, _ = rendered
    labels = CLASS_OF[severities]
    names = [name for name in nuisances if (task, name) != ("gait", "box_width")]
    x = np.stack([nuisances[name] for name in names], axis=1)
    forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
    for model in (make_pipeline(StandardScaler(), LogisticRegression(C=0.3)), forest):
        assert guess_classes(model, x, labels) < 0.46


def test_order_and_length_of_files_follow_no_severity():
    plans = plan_cohort(SyntheticConfig(subjects=300, clips_per_subject=2, score_weights=BALANCED_WEIGHTS))
    severities = [plan.severity for plan in plans]
    assert abs(np.corrcoef(severities, np.arange(len(plans)))[0, 1]) < 0.1
    assert abs(np.corrcoef(severities, [plan.frames for plan in plans])[0, 1]) < 0.1


def test_movement_in_pixels_tells_normal_from_severe(rendered):
    _, severities, _, changes = rendered
    labels = CLASS_OF[severities]
    extreme = labels != 1
    model = make_pipeline(StandardScaler(), LogisticRegression())
    assert guess_classes(model, changes[extreme], labels[extreme]) > 0.75


@pytest.mark.parametrize("task", TASKS)
def test_true_movement_tells_all_classes(task):
    config = SyntheticConfig(
        task=task, subjects=60, clips_per_subject=2, score_weights=BALANCED_WEIGHTS, rater_noise=0.0
    )
    plans = plan_cohort(config)
    if task == "hand":
        x = [[p.motion.rate_hz, p.motion.amplitude_end, len(p.motion.pauses) / p.seconds] for p in plans]
    else:
        x = [[p.motion.speed_mps, p.motion.stride_m, p.motion.arm_swing_deg] for p in plans]
    y = CLASS_OF[[plan.severity for plan in plans]]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    groups = [plan.subject.name for plan in plans]
    assert (cross_val_predict(model, x, y, groups=groups, cv=GroupKFold(5)) == y).mean() > 0.8


def test_two_hands_of_one_person_are_more_alike_than_hands_of_two():
    config = SyntheticConfig(subjects=100, clips_per_subject=2, score_weights=(1, 1, 1, 1, 1))
    plans = plan_cohort(config)
    of = {(plan.subject.number, plan.side): plan for plan in plans}
    left, right = ([of[number, side] for number in range(1, 101)] for side in ("left", "right"))
    others = right[1:] + right[:1]

    def distance(ones, twos):
        scores = np.mean([abs(one.severity - two.severity) for one, two in zip(ones, twos, strict=True)])
        rates = np.mean([abs(np.log(a.motion.rate_hz / b.motion.rate_hz)) for a, b in zip(ones, twos, strict=True)])
        return scores, rates

    same, different = distance(left, right), distance(left, others)
    assert same[0] < 0.75 * different[0]
    assert same[1] < 0.85 * different[1]


@pytest.mark.parametrize("severity", range(5))
def test_a_rater_errs_by_one_at_the_stated_rate(severity):
    rng = np.random.default_rng(0)
    scores = np.array([rated(severity, 0.3, rng) for _ in range(2000)])
    assert set(np.abs(scores - severity)) == {0, 1}
    assert scores.min() >= 0
    assert scores.max() <= 4
    assert (scores != severity).mean() == pytest.approx(0.3, abs=0.04)


def test_ratings_leave_the_movement_as_it_is():
    exact, noisy = (plan_cohort(SyntheticConfig(subjects=40, rater_noise=noise)) for noise in (0.0, 0.5))
    assert all(clip.score == clip.severity for clip in exact)
    assert [clip.severity for clip in noisy] == [clip.severity for clip in exact]
    assert 0.3 < np.mean([clip.score != clip.severity for clip in noisy]) < 0.7


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 97},
        {"seconds": (3.0, 2.0)},
        {"seconds": (0.2, 2.0)},
        {"score_weights": (0, 0, 0, 0, 0)},
        {"colour": 1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        SyntheticConfig(**wrong)
