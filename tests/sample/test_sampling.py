"""Where snippets lie and what of a frame the network sees."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptune.config import Protocol, StreamConfig
from ptune.extract.boundary import mirror_flow
from ptune.extract.boundary import motion_boundaries as stored_boundaries
from ptune.extract.store import FLOW_UNIT
from ptune.sample.augment import View, centre_view, motion_boundaries, network_input, random_view
from ptune.sample.dataset import training_batches
from ptune.sample.snippets import frame_indices, protocol_starts, training_starts
from tests.example_features import example_stream, example_videos, write_features


@given(frames=st.integers(1, 600), segments=st.integers(1, 8), length=st.integers(1, 64), seed=st.integers(0, 9))
def test_snippets_stay_inside_the_video_in_chronological_order(frames, segments, length, seed):
    starts = training_starts(frames, segments, length, np.random.default_rng(seed))
    assert len(starts) == segments
    assert (np.diff(starts) >= 0).all()
    assert starts.min() >= 0
    assert starts.max() <= max(frames - length, 0)
    indices = frame_indices(int(starts[-1]), length, frames)
    assert indices.min() >= 0
    assert indices.max() < frames


def test_short_hand_video_follows_the_rule_of_the_public_code():
    """123 frames are 122 of flow: with K = 4 and T = 32, starts are 22 apart plus a draw below 22."""
    drawn = np.stack([training_starts(122, 4, 32, np.random.default_rng(seed)) for seed in range(500)])
    for segment in range(4):
        assert drawn[:, segment].min() == 22 * segment
        assert drawn[:, segment].max() == 22 * segment + 21


def test_test_protocol_covers_first_and_last_frames():
    starts = protocol_starts(300, Protocol())
    assert (starts[0], starts[-1], len(starts)) == (0, 284, 64)
    assert protocol_starts(10, Protocol(snippets=3, frames=16)).tolist() == [0, 0, 0]
    assert frame_indices(0, 16, 10).tolist() == [*range(10), *range(6)]


@given(seed=st.integers(0, 200), height=st.integers(20, 300), width=st.integers(20, 300))
def test_random_views_lie_inside_the_frame(seed, height, width):
    view = random_view(height, width, StreamConfig(), np.random.default_rng(seed))
    assert 0 <= view.top <= view.top + view.height <= height
    assert 0 <= view.left <= view.left + view.width <= width


def test_centre_view_of_the_papers_frame():
    assert centre_view(256, 340, 224) == View(16, 58, 224, 224)


def _random_flow(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 3000, (3, 24, 24, 2)).astype(np.int16)


WHOLE = View(0, 0, 24, 24)
MIRRORED = View(0, 0, 24, 24, mirror=True)


@pytest.mark.parametrize("modality", ["flow", "mb"])
def test_mirrored_input_is_the_input_of_the_mirrored_flow_to_the_last_bit(modality):
    stream = example_stream(modality=modality, crop=24)
    flow = _random_flow()
    from_mirrored = network_input(torch.from_numpy(mirror_flow(flow)), WHOLE, stream)
    assert torch.equal(network_input(torch.from_numpy(flow), MIRRORED, stream), from_mirrored)


def test_mirroring_a_boundary_picture_instead_would_be_wrong():
    stream = example_stream(modality="mb", crop=24)
    flow = torch.from_numpy(_random_flow())
    picture = network_input(flow, WHOLE, stream).flip(-1)
    assert not torch.allclose(network_input(flow, MIRRORED, stream), picture, atol=0.01)


def test_boundaries_on_the_device_equal_those_of_extraction():
    flow = (_random_flow() * FLOW_UNIT).astype(np.float32)
    assert np.array_equal(motion_boundaries(torch.from_numpy(flow)).numpy(), stored_boundaries(flow))


def test_values_are_scaled_to_plus_minus_one():
    rgb = torch.tensor([0, 255], dtype=torch.uint8).repeat(24, 36).view(1, 24, 24, 3)
    scaled = network_input(rgb, WHOLE, example_stream(modality="rgb", crop=24))
    assert (scaled.min(), scaled.max()) == (-1, 1)
    fast = torch.full((2, 24, 24, 2), 30 * 1024, dtype=torch.int16)
    assert network_input(fast, WHOLE, example_stream(flow_bound=20.0, crop=24)).unique().tolist() == [1.0]
    slow = torch.full((2, 24, 24, 2), 5 * 1024, dtype=torch.int16)
    assert network_input(slow, WHOLE, example_stream(flow_bound=20.0, crop=24)).unique().tolist() == [0.25]


def test_batches_of_an_epoch_depend_on_seed_and_epoch_only_and_can_start_anywhere(tmp_path):
    videos = example_videos()
    store = write_features(tmp_path, videos)
    stream = example_stream()
    device = torch.device("cpu")
    whole = list(training_batches(videos, store, stream, 7, 2, device))
    rest = list(training_batches(videos, store, stream, 7, 2, device, first_batch=1))
    assert [batch.video_ids for batch in whole[1:]] == [batch.video_ids for batch in rest]
    assert all(torch.equal(a.snippets_BKCTHW, b.snippets_BKCTHW) for a, b in zip(whole[1:], rest, strict=True))
    assert sorted(video for batch in whole for video in batch.video_ids) == [video.video_id for video in videos]
    other = next(training_batches(videos, store, stream, 7, 3, device))
    assert other.video_ids != whole[0].video_ids
    assert whole[0].snippets_BKCTHW.shape == (4, 2, 2, 8, 24, 24)
