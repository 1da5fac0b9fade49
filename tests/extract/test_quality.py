import itertools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ptune.cohort.synthetic import SyntheticConfig, plan_cohort, render_clip
from ptune.config import ExtractConfig
from ptune.extract.boundary import motion_boundaries
from ptune.extract.decode import decode
from ptune.extract.flow import dequantize
from ptune.extract.quality import (
    SAME_RECORDING,
    VideoQuality,
    camera_motion,
    duplicates,
    fingerprint,
    similarities,
)
from tests.extract.clips import panning, texture, write_clip

SMALL = ExtractConfig(width=160, height=120)


def field(height=120, width=160, x=0.0, y=0.0, zoom=0.0, roll=0.0):
    """The flow of a camera that moves, int16 [H,W,2]."""
    rows, columns = np.indices((height, width), float)
    rows, columns = rows - rows.mean(), columns - columns.mean()
    u, v = x + zoom * columns - roll * rows, y + zoom * rows + roll * columns
    return np.rint(np.stack([u, v], -1) * 1024).astype(np.int16)


def with_a_person(flow):
    """Somebody who fills two fifths of the picture and moves fast."""
    moved = flow.copy()
    moved[20:100, 32:128] = [9000, -5000]
    return moved


@pytest.mark.parametrize(
    "motion",
    [{}, {"x": 2.0}, {"y": -1.5}, {"zoom": 0.02}, {"roll": 0.01}, {"x": 1, "y": 2, "zoom": 0.01, "roll": -0.01}],
)
def test_camera_motion_is_found_behind_a_moving_person(motion):
    expected = [motion.get(name, 0.0) for name in ("x", "y", "zoom", "roll")]
    for flow in (field(**motion), with_a_person(field(**motion))):
        found = camera_motion(flow)
        assert np.allclose(found[:2], expected[:2], atol=0.01)
        assert np.allclose(found[2:], expected[2:], atol=2e-4)


def test_a_steady_pan_does_not_shake_and_a_hand_does():
    def shake(speeds):
        flow = np.stack([field(x=speed) for speed in speeds])
        return VideoQuality.of(0, np.zeros((len(flow) + 1, 120, 160), np.uint8), flow).summary()["camera_shake"]

    assert shake([2.0] * 9) == pytest.approx(0, abs=1e-6)
    assert shake([1.0, -1.0] * 5) == pytest.approx(2, rel=1e-3)


@pytest.fixture
def video():
    random = np.random.default_rng(0)
    gray = random.integers(0, 256, (12, 33, 41), np.uint8)
    gray[5] = gray[4]
    return gray, random.integers(-32767, 32768, (11, 33, 41, 2), np.int16)


@pytest.mark.parametrize("cuts", [[0, 11], [0, 5, 11], list(range(12))])
def test_figures_do_not_depend_on_the_chunks_in_which_they_were_taken(video, cuts):
    gray, flow = video
    parts = [VideoQuality.of(a, gray[a : b + 1], flow[a:b]).to_json() for a, b in itertools.pairwise(cuts)]
    merged = VideoQuality.merged(VideoQuality.from_json(json.loads(json.dumps(part))) for part in reversed(parts))
    whole = VideoQuality.of(0, gray, flow)
    assert merged.summary() == whole.summary()
    assert merged.repeated == 1


def test_figures_are_in_pixels_per_frame(video):
    gray, flow = video
    found = VideoQuality.of(0, gray, flow).summary()
    size = np.abs(dequantize(flow))[:, 1:-1:4, 1:-1:4]
    edges = np.abs(motion_boundaries(dequantize(flow)))[:, 1:-1:4, 1:-1:4]
    for name, values in (("flow", size), ("boundary", edges)):
        assert found[f"{name}_mean"] == pytest.approx(values.mean(), rel=1e-6)
        for word, share in (("p50", 0.5), ("p95", 0.95), ("p999", 0.999)):
            assert found[f"{name}_{word}"] == pytest.approx(np.quantile(values, share), rel=0.02)


def test_the_median_of_slow_flow_is_exact():
    flow = np.full((1, 32, 32, 2), 5, np.int16)
    assert VideoQuality.of(0, np.zeros((2, 32, 32), np.uint8), flow).summary()["flow_p50"] == 5 / 1024


def test_blur_lowers_sharpness_and_light_raises_brightness():
    gray = np.repeat(panning(frames=1, height=60, width=80)[..., 0], 2, 0)
    flow = np.zeros((1, 60, 80, 2), np.int16)
    plain = VideoQuality.of(0, gray, flow).summary()
    blurred = VideoQuality.of(0, np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in gray]), flow).summary()
    assert blurred["sharpness_median"] < plain["sharpness_median"] / 4
    assert VideoQuality.of(0, gray // 2 + 128, flow).summary()["brightness_mean"] > plain["brightness_mean"] + 30
    assert plain["repeated_share"] == 1


def test_flow_at_the_bound_is_counted():
    flow = np.zeros((1, 16, 16, 2), np.int16)
    flow[0, :, 8:, 0] = 32767
    assert VideoQuality.of(0, np.zeros((2, 16, 16), np.uint8), flow).summary()["clipped_share"] == 0.25


def print_of(frames):
    return fingerprint(lambda index: frames[index], len(frames))


@pytest.mark.parametrize("task", ["hand", "gait"])
def test_copies_are_found_and_other_clips_of_the_same_room_are_not(tmp_path, task):
    """The separation that the threshold stands in: clips of several people, all in one room."""
    values = {"task": task, "subjects": 4, "clips_per_subject": 2, "seconds": (3.0, 4.0), "width": 160, "height": 120}
    config = SyntheticConfig.parse(values, "test")
    plans = plan_cohort(config)
    originals, copies = [], []
    for plan in plans:
        look = replace(plan.look, room_seed=plans[0].look.room_seed)
        frames = render_clip(replace(plan, look=look), config).frames
        originals.append(print_of(frames))
        small = np.stack([cv2.resize(frame, (112, 96)) for frame in frames[1:]])
        darker = (small * 0.8).astype(np.uint8)
        again = write_clip(tmp_path / f"{len(copies)}.avi", darker, fps=30)
        copies.append(print_of(decode(again, SMALL).frames))
    found = similarities([*originals, *copies])
    count = len(plans)
    same = np.diag(found[:count, count:])
    different = found[~np.kron(np.ones((2, 2)), np.eye(count)).astype(bool)]
    assert same.min() > SAME_RECORDING + 0.05
    assert different.max() < SAME_RECORDING - 0.05


def test_people_on_the_same_way_through_different_rooms_are_not_copies():
    def walk(seed):
        room = texture(120, 160, seed)
        frames = np.repeat(room[None, :, :, None], 40, axis=0).repeat(3, axis=-1)
        for index, frame in enumerate(frames):
            frame[30:110, 10 + 3 * index : 30 + 3 * index] = 20
        return print_of(frames)

    assert similarities([walk(0), walk(0)])[0, 1] > 0.99
    assert similarities([walk(0), walk(1)])[0, 1] < SAME_RECORDING - 0.2


def test_duplicates_are_named_across_subjects_only():
    one = print_of(panning(frames=30, step=2))
    other = print_of(panning(frames=30, step=2, seed=3))
    prints = {"a": one, "b": one, "c": one, "d": other, "e": "", "f": one[:-4]}
    subjects = {"a": "S1", "b": "S2", "c": "S1", "d": "S3", "e": "S1", "f": "S2"}
    assert duplicates(prints, subjects) == [("a", "b"), ("b", "c")]


def test_a_still_recording_has_no_fingerprint():
    assert print_of(np.repeat(panning(frames=1), 30, 0)) == ""
