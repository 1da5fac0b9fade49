"""The quick solver's flow is OpenCV's to the last bit, whatever the frames and the settings."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.config import ExtractConfig, TVL1Config
from ptune.extract.decode import decode
from ptune.extract.flow import to_gray, tvl1
from tests.extract.clips import panning, texture

VIDEOS = Path(__file__).parents[2].parent / "shared" / "videos"
CLIPS = sorted(path.name for path in VIDEOS.glob("*.*") if path.suffix in {".mp4", ".avi", ".gif"})

OTHER_SETTINGS = [
    TVL1Config(tau=0.2, lambda_=0.05, theta=0.5, scales=3, warps=2, epsilon=0.02),
    TVL1Config(scale_step=0.5, median_size=3, inner_iterations=7, outer_iterations=4, epsilon=0.001),
    TVL1Config(scales=1, warps=3, median_size=1, lambda_=0.4, tau=0.1, inner_iterations=1),
]


def assert_same_bytes(gray, config=TVL1Config()):  # noqa: B008 (frozen)
    ours = tvl1(gray, "cpu", config)
    reference = tvl1(gray, "opencv", config)
    for index in range(len(reference)):
        assert ours[index].tobytes() == reference[index].tobytes(), f"pair {index} differs"


def clip(name, width, height, first, frames):
    decoded = decode(VIDEOS / name, ExtractConfig(width=width, height=height))
    return to_gray(decoded.frames[first : first + frames])


@pytest.mark.skipif(not CLIPS, reason="no real clips beside the repository")
@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_give_opencvs_bytes(name):
    assert_same_bytes(clip(name, 160, 120, 10, 4))


@pytest.mark.skipif(not CLIPS, reason="no real clips beside the repository")
def test_a_real_clip_at_the_papers_size_gives_opencvs_bytes():
    assert_same_bytes(clip(CLIPS[-1], 340, 256, 20, 4))


@pytest.mark.skipif(not CLIPS, reason="no real clips beside the repository")
@pytest.mark.parametrize("config", OTHER_SETTINGS)
def test_real_clips_give_opencvs_bytes_under_other_settings(config):
    assert_same_bytes(clip(CLIPS[0], 160, 120, 0, 3), config)


@pytest.mark.parametrize("config", [TVL1Config(), *OTHER_SETTINGS])
def test_a_pan_gives_opencvs_bytes(config):
    assert_same_bytes(to_gray(panning(frames=4, step=2)), config)


def test_a_scene_cut_gives_opencvs_bytes():
    assert_same_bytes(np.stack([texture(48, 64, seed=1), texture(48, 64, seed=2), 255 - texture(48, 64, seed=2)]))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(2, 41),
    width=st.integers(2, 71),
    seed=st.integers(0, 2**32 - 1),
    grain=st.sampled_from([1, 16, 255]),
    config=st.builds(
        TVL1Config,
        scales=st.integers(1, 4),
        warps=st.integers(1, 2),
        outer_iterations=st.integers(1, 3),
        inner_iterations=st.integers(1, 30),
        median_size=st.sampled_from([1, 3, 5]),
        scale_step=st.sampled_from([0.5, 0.7, 0.8]),
        epsilon=st.sampled_from([0.001, 0.01, 0.1]),
    ),
)
def test_noise_of_any_size_gives_opencvs_bytes(height, width, seed, grain, config):
    frames = np.random.default_rng(seed).integers(0, grain, (3, height, width), np.uint8, endpoint=True)
    assert_same_bytes(frames, config)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("shape", [(2, 2), (15, 40), (33, 47)])
def test_constant_frames_have_no_flow(value, shape):
    frames = np.full((2, *shape), value, np.uint8)
    assert_same_bytes(frames)
    assert not tvl1(frames, "cpu").any()


def test_a_flash_gives_opencvs_bytes():
    assert_same_bytes(np.stack([np.full((32, 40), value, np.uint8) for value in (0, 255, 7)]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1)])
def test_frames_of_one_row_or_column_are_solved(shape):
    frames = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    assert np.isfinite(tvl1(frames, "cpu")).all()


def test_floats_in_zero_to_one_give_the_same_flow():
    gray = to_gray(panning(frames=3, step=1))
    scaled = gray.astype(np.float32) / 255
    assert_same_bytes(scaled)
    assert tvl1(scaled, "cpu").tobytes() == tvl1(gray, "cpu").tobytes()


def test_frames_need_not_lie_side_by_side():
    gray = to_gray(panning(frames=3, step=1))
    assert_same_bytes(np.repeat(gray, 2, axis=2)[:, ::-1, ::2])


def test_one_frame_has_no_flow():
    assert tvl1(np.zeros((1, 16, 20), np.uint8), "cpu").shape == (0, 16, 20, 2)


def test_the_sum_of_changes_is_settled_one_by_one_where_it_is_close():
    """A threshold that the sum meets exactly is the case that column sums could not decide."""
    gray = to_gray(panning(frames=2, step=1))
    for epsilon in np.linspace(0.002, 0.02, 25):
        assert_same_bytes(gray, TVL1Config(scales=1, warps=1, epsilon=float(epsilon)))


def run(code, **variables):
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_flow_is_importable_without_compiling_anything():
    assert run("import sys, ptune.extract.flow; print('numba' in sys.modules)").strip() == "False"


def test_each_loop_is_compiled_for_one_kind_of_input():
    from ptune.extract import tvl1_cpu

    for config in (TVL1Config(), *OTHER_SETTINGS):
        tvl1(to_gray(panning(frames=2)), "cpu", config)
    for loop in (tvl1_cpu._differentiate, tvl1_cpu._targets, tvl1_cpu._linearize, tvl1_cpu._iterate):
        assert len(loop.signatures) == 1


def test_opencv_finds_the_flow_with_any_number_of_threads():
    gray = to_gray(panning(frames=2, step=1))
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = tvl1(gray, "cpu")
        cv2.setNumThreads(2)
        assert tvl1(gray, "cpu").tobytes() == alone.tobytes()
    finally:
        cv2.setNumThreads(threads)
