from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from ptune.config import ExtractConfig
from ptune.extract.decode import Part, read_frames
from ptune.extract.picture import Scaler
from tests.extract.clips import panning, texture, woven, write_clip

SHARED = Path(__file__).parents[2].parent / "shared" / "videos"
REAL = sorted(path for path in SHARED.glob("*.*") if path.suffix != ".tsv")


def read(path, **settings):
    frames = read_frames(path, ExtractConfig(**settings))
    return np.stack(list(frames)), frames.facts


def combing(frames):
    """How much more neighbouring lines differ than every other line: under 1 for whole pictures."""
    gray = frames[..., 0].astype(int)
    centre = 2 * gray[:, 2:-2]
    return abs(gray[:, 1:-3] - centre + gray[:, 3:-1]).mean() / abs(gray[:, :-4] - centre + gray[:, 4:]).mean()


@pytest.fixture(scope="module")
def fields():
    """A pan of 3 px per field, and the same interlaced."""
    whole = panning(frames=60, height=96, width=128, step=3)
    return whole, woven(whole)


@pytest.mark.parametrize(
    ("suffix", "codec", "flagged"),
    [("mpg", "mpeg2video", True), ("avi", "mpeg4", True), ("mpg", "mpeg2video", False), ("mp4", "mpeg4", False)],
)
def test_interlaced_recordings_become_whole_frames(tmp_path, fields, suffix, codec, flagged):
    whole, interlaced = fields
    path = write_clip(tmp_path / f"a.{suffix}", interlaced, codec=codec, interlaced=flagged)
    combed, facts = read(path, width=128, height=96, deinterlace="off")
    assert facts.interlaced == flagged
    assert combing(combed) > 1.5
    frames, facts = read(path, width=128, height=96)
    assert facts.interlaced
    assert len(frames) == facts.frames == len(interlaced)
    assert combing(frames) < 0.6
    # Each shows the moment of its first field.
    assert abs(frames.astype(int) - whole[0::2]).mean() < 6 < abs(frames.astype(int) - whole[1::2]).mean()


def test_fields_are_found_where_movement_begins(tmp_path, fields):
    _, interlaced = fields
    still = np.repeat(interlaced[:1], 30, axis=0)
    still[:, 1::2] = still[:, 0::2]
    path = write_clip(tmp_path / "a.mp4", np.concatenate([still, interlaced]))
    frames, facts = read(path, width=128, height=96)
    assert facts.interlaced
    assert len(frames) == 60
    assert combing(frames[31:]) < 0.6


@pytest.mark.parametrize("speed", [1, 2, 3, 5])
def test_scrolled_text_is_not_taken_for_fields(tmp_path, speed):
    page = np.full((500, 160, 3), 30, np.uint8)
    for line in range(20, 500, 18):
        cv2.putText(page, f"quick brown {line}", (5, line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    frames = np.stack([page[index * speed :][:120] for index in range(40)])
    assert not read(write_clip(tmp_path / "a.mp4", frames), width=160, height=120)[1].interlaced


@pytest.mark.parametrize("pattern", ["lines", "noise", "blocks"])
def test_fine_patterns_that_move_up_are_not_taken_for_fields(tmp_path, pattern):
    rng = np.random.default_rng(0)
    tall = {
        "lines": np.repeat(np.uint8(255 * (np.arange(200) % 2))[:, None], 160, axis=1),
        "noise": rng.integers(256, size=(200, 160), dtype=np.uint8),
        "blocks": np.uint8(255 * (np.indices((200, 160)).sum(0) // 2 % 2)),
    }[pattern]
    frames = np.stack([np.repeat(tall[index : index + 120, :, None], 3, axis=2) for index in range(40)])
    path = write_clip(tmp_path / "a.mkv", frames, codec="ffv1", pixels="yuv444p")
    assert not read(path, width=160, height=120)[1].interlaced


@pytest.mark.skipif(not REAL, reason="the real clips are not on this machine")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_clips_have_no_fields(path):
    frames = read_frames(path, ExtractConfig(width=80, height=60), Part(0, 2))
    assert sum(1 for _ in frames) > 10
    assert not frames.facts.interlaced


def decoded(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def exact(frame, width, height):
    """Area averages of an 8-bit 4:2:0 BT.601 picture, converted to RGB in floating point."""
    planes = frame.to_ndarray().astype(np.float32)
    luma = planes[: frame.height]
    blue, red = planes[frame.height :].reshape(2, frame.height // 2, frame.width // 2)
    luma, blue, red = (
        cv2.resize(plane.repeat(scale, 0).repeat(scale, 1), (width, height), interpolation=cv2.INTER_AREA)
        for plane, scale in ((luma, 1), (blue, 2), (red, 2))
    )
    luma, blue, red = (luma - 16) * 255 / 219, (blue - 128) * 255 / 224, (red - 128) * 255 / 224
    green = luma - 0.344136 * blue - 0.714136 * red
    return np.clip(np.stack([luma + 1.402 * red, green, luma + 1.772 * blue], axis=-1), 0, 255)


def test_colours_are_those_of_exact_arithmetic(tmp_path):
    # Colours change slowly, because decoders differ in where between pixels they take them to lie.
    colours = np.random.default_rng(0).integers(60, 196, size=(2, 2, 3)).astype(np.float32)
    image = cv2.resize(colours, (320, 240)) + 0.4 * texture(240, 320)[..., None] - 51
    image = np.uint8(np.clip(image, 0, 255))
    frame = decoded(write_clip(tmp_path / "a.mp4", image[None]))
    scaled = Scaler(ExtractConfig(width=96, height=64), 1.0)(frame)
    assert (scaled.shape, scaled.dtype) == ((64, 96, 3), np.uint8)
    difference = scaled - exact(frame, 96, 64)
    assert abs(difference).mean() < 0.5
    assert abs(difference.mean(axis=(0, 1))).max() < 0.1
    # What the full picture in RGB gives, rounded twice, is not as near.
    twice = cv2.resize(frame.to_ndarray(format="rgb24"), (96, 64), interpolation=cv2.INTER_AREA)
    assert abs(difference).mean() < abs(twice - exact(frame, 96, 64)).mean()


def test_scaling_is_deterministic_and_keeps_a_flat_colour(tmp_path):
    frame = decoded(write_clip(tmp_path / "a.mp4", np.full((1, 240, 320, 3), (200, 90, 40), np.uint8)))
    first, second = (Scaler(ExtractConfig(), 1.0)(frame) for _ in range(2))
    assert (first == second).all()
    assert abs(first.astype(int) - (200, 90, 40)).max() <= 3
    assert np.ptp(first, axis=(0, 1)).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(65, 49), (17, 31), (16, 16), (127, 95), (16, 200)])
def test_odd_sizes_are_read(tmp_path, width, height):
    frames = panning(frames=10, height=height, width=width)
    path = write_clip(tmp_path / "a.mkv", frames, codec="ffv1", pixels="yuv444p")
    assert read(path, width=33, height=21)[0].shape == (10, 21, 33, 3)
    same = read(path, width=width, height=height)[0]
    assert abs(same.astype(int) - frames).max() <= 2


@pytest.mark.parametrize(("degrees", "shape"), [(90, (192, 48)), (180, (48, 192)), (270, (192, 48))])
def test_recordings_are_turned_upright(tmp_path, degrees, shape):
    frames = np.zeros((10, 48, 192, 3), np.uint8)
    frames[:, :24, :96] = (255, 0, 0)
    path = write_clip(tmp_path / "a.mp4", frames, rotation=degrees)
    upright, facts = read(path, height=48, keep_aspect=True)
    assert facts.rotation == degrees
    assert upright.shape[1:3] == shape
    assert abs(upright.astype(int) - np.rot90(frames, degrees // 90, axes=(1, 2))).mean() < 8
    assert read(path, width=30, height=20)[0].shape[1:3] == (20, 30)
