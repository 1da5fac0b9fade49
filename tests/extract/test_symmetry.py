"""What mirrored, panned and zoomed videos must give, from frames to boundaries."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ptune.config import ExtractConfig
from ptune.extract.boundary import mirror_flow, motion_boundaries, motion_gradients
from ptune.extract.decode import decode
from ptune.extract.flow import to_gray, tvl1
from tests.extract.clips import panning, texture

VIDEOS = Path(__file__).parents[2].parent / "shared" / "videos"
CLIPS = sorted(path for path in VIDEOS.glob("*.*") if path.suffix in {".mp4", ".avi", ".gif"})


@pytest.mark.parametrize("step", [1, 3])
def test_a_pan_has_no_boundaries_away_from_the_border(step):
    flow = tvl1(to_gray(panning(frames=3, step=step, height=96, width=128)))
    inside = motion_boundaries(flow)[:, 12:-12, 12:-12]
    assert np.median(flow[..., 0]) == pytest.approx(step, abs=0.05)
    assert abs(inside).max() < 0.05


@pytest.mark.parametrize("zoom", [0.02, 0.05])
def test_a_zoom_leaves_its_constant_in_both_derivatives(zoom):
    still = texture(120, 160)
    matrix = cv2.getRotationMatrix2D((80, 60), 0, 1 + zoom)
    zoomed = cv2.warpAffine(still, matrix, (160, 120), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    flow = tvl1(np.stack([still, zoomed]))
    along_x, _, _, along_y = (part[0, 20:-20, 20:-20] for part in motion_gradients(flow))
    assert np.median(along_x) == pytest.approx(zoom, rel=0.1)
    assert np.median(along_y) == pytest.approx(zoom, rel=0.1)


@pytest.mark.skipif(not CLIPS, reason="the real clips are not on this machine")
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_flow_of_a_mirrored_clip_is_the_mirrored_flow_in_the_mean(path):
    """The solver's differences are one-sided, so that single pixels may differ, most at occlusions."""
    frames = decode(path, ExtractConfig(width=170, height=128)).frames
    middle = len(frames) // 2
    gray = to_gray(frames[middle : middle + 4])
    flow, mirrored = tvl1(gray), mirror_flow(tvl1(np.ascontiguousarray(gray[..., ::-1])))
    distance = np.linalg.norm(flow - mirrored, axis=-1)
    assert abs((flow - mirrored).mean((0, 1, 2))).max() < 0.04
    assert np.median(distance) < 0.05
    assert distance.mean() < max(0.04, 0.1 * np.linalg.norm(flow, axis=-1).mean())
