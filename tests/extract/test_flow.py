import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptune.config import TVL1Config
from ptune.errors import ConfigError
from ptune.extract.flow import FLOW_LIMIT, dequantize, quantize, to_gray, tvl1
from tests.extract.clips import panning, texture


def test_a_still_scene_has_no_flow():
    gray = np.repeat(texture(48, 64)[None], 3, axis=0)
    flow = tvl1(gray)
    assert flow.shape == (2, 48, 64, 2)
    assert flow.dtype == np.float32
    assert abs(flow).max() == 0


def test_a_disc_moving_two_pixels_a_frame_has_flow_near_two():
    rows, columns = np.mgrid[:48, :64]
    pattern = texture(48, 128, seed=1)
    frames = []
    for index in range(3):
        frame = texture(48, 64, seed=2) // 4
        inside = (rows - 24) ** 2 + (columns - 24 - 2 * index) ** 2 < 14**2
        frame[inside] = pattern[:, 32 - 2 * index :][:, :64][inside]
        frames.append(frame)
    flow = tvl1(np.stack(frames))
    core = (rows - 24) ** 2 + (columns - 24) ** 2 < 9**2
    assert np.median(flow[0][core][:, 0]) == pytest.approx(2, abs=0.2)
    assert np.median(flow[0][core][:, 1]) == pytest.approx(0, abs=0.2)


def test_each_pair_is_solved_by_itself():
    gray = to_gray(panning(frames=4, step=2))
    assert (tvl1(gray)[2] == tvl1(gray[2:])[0]).all()


def test_settings_reach_the_solver():
    gray = to_gray(panning(frames=2, step=2))
    assert (tvl1(gray) != tvl1(gray, config=TVL1Config(lambda_=0.05))).any()


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'opencv'.*one of .*opencv"):
        tvl1(np.zeros((2, 16, 16), np.uint8), backend="openvc")


def test_frames_must_be_gray():
    with pytest.raises(ValueError, match=r"expected uint8 \[T,H,W\]"):
        tvl1(np.zeros((2, 16, 16, 3), np.uint8))


@given(arrays(np.float32, (3, 4, 2), elements=st.floats(-31.9375, 31.9375, width=32)))
def test_storing_rounds_by_at_most_half_a_unit(flow):
    assert abs(dequantize(quantize(flow)) - flow).max() <= 1 / 2048


@given(arrays(np.float32, (3, 4, 2), elements=st.floats(-1e6, 1e6, width=32)))
def test_storing_is_odd_so_that_mirroring_is_exact(flow):
    assert (quantize(-flow) == -quantize(flow)).all()


def test_stored_flow_saturates_and_refuses_nan():
    assert quantize(np.float32([-40, 40, np.inf])).tolist() == [-FLOW_LIMIT, FLOW_LIMIT, FLOW_LIMIT]
    with pytest.raises(ValueError, match="not numbers"):
        quantize(np.float32([np.nan]))


def test_every_stored_value_comes_back():
    stored = np.arange(-FLOW_LIMIT, FLOW_LIMIT + 1, dtype=np.int16)
    assert (quantize(dequantize(stored)) == stored).all()
