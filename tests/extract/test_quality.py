import itertools
import json

import cv2
import numpy as np
import pytest

from ptune.cohort.synthetic import SyntheticConfig, render_cohort
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
from tests.extract.clips import panning, write_clip

SMALL = ExtractConfig(width=160, height=120)


def field(height=120, width=160, x=0.0, y=0.0, zoom=0.0, roll=0.0):
    """The flow of a camera that moves, int16 [H,W,2]."""
    rows, columns = np.indices((height, width), float)
    rows, columns = rows - rows.mean(), columns - columns.mean()
    u, v = x + zoom * columns - roll * rows, y + zoom * rows + roll * columns
    return np.rint(np.stack([u, v], -1) * 1024).astype(np.int16)


def with_a_person(flow):
    """Somebody who fills a quarter of the picture and moves fast."""
    moved = flow.copy()
    moved[30:90, 40:120] = [9000, -5000]
    return moved


@pytest.mark.parametrize(
    "motion",
    [{}, {"x": 2.0}, {"y": -1.5}, {"zoom": 0.02}, {"roll": 0.01}, {"x": 1, "y": 2, "zoom": 0.01, "roll": -0.01}],
)
def test_camera_motion_is_found_behind_a_moving_person(motion):
    expected = [motion.get(name, 0.0) for name in ("x", "y", "zoom", "roll")]
    assert np.allclose(camera_motion(field(**motion)), expected, atol=2e-3)
    found = camera_motion(with_a_person(field(**motion)))
    assert np.allclose(found[:2], expected[:2], atol=0.15)
    assert np.allclose(found[2:], expected[2:], atol=2e-3)


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
    size = np.abs(dequantize(flow))[:, ::2, ::2]
    edges = np.abs(motion_boundaries(dequantize(flow)))[:, 1:-1:2, 1:-1:2]
    assert found["flow_mean"] == pytest.approx(size.mean(), rel=1e-6)
    assert found["boundary_mean"] == pytest.approx(edges.mean(), rel=1e-6)
    assert found["flow_p999"] == pytest.approx(np.quantile(size, 0.999), abs=1 / 32)


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
    flow[0, :, ::4, 0] = 32767
    assert VideoQuality.of(0, np.zeros((2, 16, 16), np.uint8), flow).summary()["clipped_share"] == 0.25


def print_of(frames):
    return fingerprint(lambda index: frames[index], len(frames))


def test_copies_are_found_and_other_clips_of_the_same_room_are_not(tmp_path):
    """The separation that the threshold stands in."""
    values = {"task": "hand", "subjects": 4, "clips_per_subject": 2, "seconds": (4.0, 5.0), "width": 160, "height": 120}
    render_cohort(tmp_path / "cohort", SyntheticConfig.parse(values, "test"))
    clips = sorted((tmp_path / "cohort").rglob("*.mp4"))
    originals, copies = [], []
    for path in clips:
        frames = decode(path, SMALL).frames
        originals.append(print_of(frames))
        small = np.stack([cv2.resize(frame, (112, 96)) for frame in frames[1:]])
        darker = (small * 0.8).astype(np.uint8)
        again = write_clip(tmp_path / f"{path.stem}.avi", darker, fps=30)
        copies.append(print_of(decode(again, SMALL).frames))
    found = similarities([*originals, *copies])
    count = len(clips)
    same = np.diag(found[:count, count:])
    different = found[~np.kron(np.ones((2, 2)), np.eye(count)).astype(bool)]
    assert same.min() > SAME_RECORDING + 0.1
    assert different.max() < SAME_RECORDING - 0.1


def test_duplicates_are_named_across_subjects_only():
    one = print_of(panning(frames=30, step=2))
    other = print_of(panning(frames=30, step=2, seed=3))
    prints = {"a": one, "b": one, "c": one, "d": other, "e": "", "f": ""}
    subjects = {"a": "S1", "b": "S2", "c": "S1", "d": "S3", "e": "S1", "f": "S2"}
    assert duplicates(prints, subjects) == [("a", "b"), ("b", "c")]


def test_a_still_recording_has_no_fingerprint():
    assert print_of(np.repeat(panning(frames=1), 30, 0)) == ""
