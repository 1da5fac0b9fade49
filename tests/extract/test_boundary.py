import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptune.extract.boundary import mirror_flow, motion_boundaries, motion_gradients
from ptune.extract.flow import dequantize, to_gray, tvl1
from tests.extract.clips import panning

fields = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda size: arrays(np.float32, (2, *size, 2), elements=st.floats(-1e4, 1e4, width=32))
)


def coordinates(height=9, width=11):
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return columns, rows


@given(fields)
def test_boundaries_of_a_mirrored_flow_are_mirrored_to_the_last_bit(flow):
    ux, uy, vx, vy = motion_gradients(flow)
    expected = np.stack([(ux - uy)[..., ::-1], (vy - vx)[..., ::-1]], axis=-1)
    assert np.array_equal(motion_boundaries(mirror_flow(flow)), expected)


@given(arrays(np.int16, (1, 5, 6, 2), elements=st.integers(-32767, 32767)))
def test_stored_flow_mirrors_as_float_flow_does(stored):
    assert np.array_equal(dequantize(mirror_flow(stored)), mirror_flow(dequantize(stored)))


def test_a_pure_pan_has_no_boundaries():
    assert (motion_boundaries(np.full((9, 11, 2), 3.25, np.float32)) == 0).all()


def test_the_flow_of_a_panned_video_has_boundaries_near_zero_inside():
    flow = tvl1(to_gray(panning(frames=2, step=1)))
    inside = motion_boundaries(flow)[0, 8:-8, 8:-8]
    assert abs(flow[0, 8:-8, 8:-8, 0].mean() - 1) < 0.1
    assert abs(inside).mean() < 0.02


def test_a_zoom_by_a_tenth_leaves_a_tenth():
    x, y = coordinates()
    inside = motion_boundaries(np.stack([0.1 * (x - 5), 0.1 * (y - 4)], axis=-1))[1:-1, 1:-1]
    assert np.allclose(inside, 0.1, atol=1e-6)


def test_a_roll_leaves_opposite_constants():
    x, y = coordinates()
    inside = motion_boundaries(np.stack([-0.1 * y, 0.1 * x], axis=-1))[1:-1, 1:-1]
    assert np.allclose(inside, [-0.1, 0.1], atol=1e-6)


def test_borders_are_clamped():
    flow = np.zeros((1, 3, 2), np.float32)
    flow[0, :, 0] = [0, 2, 6]
    assert motion_gradients(flow)[0].tolist() == [[1, 3, 2]]


def test_flow_needs_two_components():
    with pytest.raises(ValueError, match="expected"):
        motion_boundaries(np.zeros((4, 4, 3), np.float32))
