"""Where snippets lie and what of a frame the network sees."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptune.config import Protocol, StreamConfig
from ptune.extract.boundary import mirror_flow, motion_gradients
from ptune.extract.boundary import motion_boundaries as stored_boundaries
from ptune.extract.store import FLOW_UNIT
from ptune.sample.augment import View, centre_view, motion_boundaries, network_input, random_view
from ptune.sample.dataset import training_batches
from ptune.sample.snippets import protocol_frames, training_frames
from tests.example_features import example_stream, example_videos, write_features


def sampled(**settings: object) -> StreamConfig:
    return StreamConfig.parse({"init": "random"} | settings, "test")


@given(
    frames=st.integers(1, 600),
    segments=st.integers(1, 8),
    length=st.integers(1, 64),
    stride=st.integers(1, 4),
    sampling=st.sampled_from(["consecutive", "sorted_random"]),
    seed=st.integers(0, 9),
)
def test_snippets_stay_inside_the_video_in_chronological_order(frames, segments, length, stride, sampling, seed):
    stride = stride if sampling == "consecutive" else 1
    stream = sampled(segments=segments, snippet_frames=length, frame_stride=stride, sampling=sampling)
    drawn = training_frames(frames, stream, np.random.default_rng(seed))
    assert drawn.shape == (segments, length)
    assert drawn.min() >= 0
    assert drawn.max() < frames
    assert (np.diff(drawn[:, 0]) >= 0).all() or sampling == "sorted_random"
    if frames >= (length - 1) * stride + 1:
        steps = np.diff(drawn)
        assert (steps == stride).all() if sampling == "consecutive" else (steps >= 1).all()


@pytest.mark.parametrize("sampling", ["consecutive", "sorted_random"])
@pytest.mark.parametrize("frames", [5, 31, 32, 34, 64, 122, 123, 131, 1000])
def test_first_and_last_frames_are_seen_and_all_between(frames, sampling):
    stream = sampled(sampling=sampling)
    generator = np.random.default_rng(0)
    draws = 400 if frames < 1000 else 4000
    seen = np.bincount(
        np.concatenate([training_frames(frames, stream, generator).ravel() for _ in range(draws)]), minlength=frames
    )
    assert len(seen) == frames
    assert (seen > 0).all()


def test_the_shortest_hand_video_follows_the_rule_of_the_public_code():
    """TSN: with 123 frames, K = 4 and T = 32, starts are (123 - 32 + 1) // 4 = 23 apart plus a draw below 23."""
    generator = np.random.default_rng(0)
    starts = np.stack([training_frames(123, StreamConfig(), generator)[:, 0] for _ in range(1000)])
    for segment in range(4):
        assert np.unique(starts[:, segment]).tolist() == list(range(23 * segment, 23 * segment + 23))


def test_what_the_public_code_never_draws_is_drawn():
    """Its 122 flow fields have 91 possible starts, of which TSN's four parts of 22 leave out the last three."""
    generator = np.random.default_rng(0)
    starts = np.stack([training_frames(122, StreamConfig(), generator)[:, 0] for _ in range(1000)])
    assert [len(np.unique(column)) for column in starts.T] == [22, 23, 23, 23]
    assert (starts.min(), starts.max()) == (0, 90)


def test_sorted_random_frames_are_spread_over_their_segment():
    stream = sampled(sampling="sorted_random")
    drawn = training_frames(400, stream, np.random.default_rng(0))
    for segment, frames in enumerate(drawn):
        assert (100 * segment <= frames).all()
        assert (frames < 100 * (segment + 1)).all()
        assert (np.diff(frames) > 0).all()
        assert np.ptp(frames) > 60, "32 consecutive frames would span 31"


def test_stride_leaves_frames_out():
    stream = sampled(segments=1, snippet_frames=4, frame_stride=3)
    assert training_frames(10, stream, np.random.default_rng(0)).tolist() == [[0, 3, 6, 9]]
    assert protocol_frames(16, Protocol(snippets=3, frames=4), 3)[:, 0].tolist() == [0, 3, 6]


def test_test_protocol_covers_first_and_last_frames():
    starts = protocol_frames(300, Protocol())[:, 0]
    assert (starts[0], starts[-1], len(starts)) == (0, 284, 64)
    assert protocol_frames(10, Protocol(snippets=3, frames=16)).tolist() == [[*range(10), *range(6)]] * 3


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


MOTION = [{"modality": "flow"}] + [
    {"modality": "mb", "boundary": kind} for kind in ("sum", "absolute_sum", "magnitude", "components")
]


@pytest.mark.parametrize("settings", MOTION, ids=lambda settings: "-".join(settings.values()))
def test_mirrored_input_is_the_input_of_the_mirrored_flow_to_the_last_bit(settings):
    stream = example_stream(**settings, crop=24)
    flow = _random_flow()
    from_mirrored = network_input(torch.from_numpy(mirror_flow(flow)), WHOLE, stream)
    assert torch.equal(network_input(torch.from_numpy(flow), MIRRORED, stream), from_mirrored)
    assert from_mirrored.shape == (stream.channels, 3, 24, 24)


@pytest.mark.parametrize("settings", MOTION, ids=lambda settings: "-".join(settings.values()))
def test_mirroring_commutes_with_crop_and_resize(settings):
    stream = example_stream(**settings, crop=16)
    flow = _random_flow()
    left, right = View(3, 2, 13, 11, mirror=True), View(3, 24 - 2 - 11, 13, 11)
    mirrored = network_input(torch.from_numpy(flow), left, stream)
    torch.testing.assert_close(mirrored, network_input(torch.from_numpy(mirror_flow(flow)), right, stream))


@pytest.mark.parametrize("settings", [*MOTION, {"modality": "rgb"}], ids=lambda settings: "-".join(settings.values()))
def test_mirroring_the_picture_instead_is_right_for_what_has_no_sign(settings):
    stream = example_stream(**settings, crop=24, augment={"mirror": "image"})
    stored = torch.from_numpy(_random_flow())
    if settings["modality"] == "rgb":
        stored = torch.randint(256, (3, 24, 24, 3), dtype=torch.uint8)
    picture = network_input(stored, MIRRORED, stream)
    assert torch.equal(picture, network_input(stored, WHOLE, stream).flip(-1))
    exact = network_input(stored, MIRRORED, example_stream(**settings, crop=24))
    unsigned = settings["modality"] == "rgb" or settings.get("boundary") in ("absolute_sum", "magnitude")
    assert torch.equal(picture, exact) == unsigned


@pytest.mark.parametrize(("mirror", "share"), [("exact", 0.5), ("image", 0.5), ("none", 0.0)])
def test_half_of_the_snippets_are_mirrored_or_none(mirror, share):
    generator, stream = np.random.default_rng(0), example_stream(augment={"mirror": mirror})
    views = [random_view(30, 40, stream, generator) for _ in range(400)]
    assert np.mean([view.mirror for view in views]) == pytest.approx(share, abs=0.1)


def test_every_kind_of_boundary_follows_from_the_four_derivatives():
    flow = (_random_flow() * FLOW_UNIT).astype(np.float32)
    ux, uy, vx, vy = motion_gradients(flow)
    expected = {
        "sum": (ux + uy, vx + vy),
        "absolute_sum": (abs(ux) + abs(uy), abs(vx) + abs(vy)),
        "magnitude": (np.hypot(ux, uy), np.hypot(vx, vy)),
        "components": (ux, uy, vx, vy),
    }
    for kind, channels in expected.items():
        found = motion_boundaries(torch.from_numpy(flow), kind).numpy()
        np.testing.assert_allclose(found, np.stack(channels, axis=-1), rtol=1e-6)


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
    whole = list(training_batches(videos, store, stream, 7, 2))
    rest = list(training_batches(videos, store, stream, 7, 2, first_batch=1))
    assert [batch.video_ids for batch in whole[1:]] == [batch.video_ids for batch in rest]
    pairs = zip(whole[1:], rest, strict=True)
    assert all(torch.equal(a.network_input(stream), b.network_input(stream)) for a, b in pairs)
    assert sorted(video for batch in whole for video in batch.video_ids) == [video.video_id for video in videos]
    other = next(training_batches(videos, store, stream, 7, 3))
    assert other.video_ids != whole[0].video_ids
    assert whole[0].network_input(stream).shape == (4 * 2, 2, 8, 24, 24)
