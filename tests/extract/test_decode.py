import csv
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from ptune.config import ExtractConfig
from ptune.errors import VideoError
from ptune.extract import decode as door
from ptune.extract.decode import Part, decode, probe, read_frames, upright
from tests.extract.clips import panning, write_clip

SHARED = Path(__file__).parents[2].parent / "shared" / "videos"
SMALL = ExtractConfig(width=80, height=60)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def corpus():
    index = SHARED / "bad" / "INDEX.tsv"
    if not index.is_file():
        return [pytest.param("", "", marks=pytest.mark.skip(reason="the corpus of bad videos is not on this machine"))]
    with open(index, newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    return [(name, expected(row["expected"])) for row in rows for name in row["file"].split()]


def expected(text):
    if "quarantined: " not in text:
        return "read"
    return text.split("quarantined: ")[1].split(" (")[0].replace(" ", "_")


@pytest.mark.parametrize(("name", "outcome"), corpus())
def test_each_bad_video_meets_its_expected_fate(name, outcome):
    path = SHARED / "bad" / name
    if outcome == "read":
        decoded = decode(path, SMALL)
        assert decoded.frames.shape[1:] == (60, 80, 3)
        assert decoded.frames.std() > 1
        return
    with pytest.raises(VideoError) as caught:
        decode(path, SMALL)
    assert caught.value.reason == outcome
    assert path.stem not in str(caught.value)


def test_real_clips_decode_whole():
    names = ["soccer_juggling.avi", "hand_open_close.gif", "talking_small.mp4"]
    if not SHARED.is_dir():
        pytest.skip("the real clips are not on this machine")
    for name, frames in zip(names, (240, 80, 120), strict=True):
        decoded = decode(SHARED / name, SMALL)
        assert len(decoded.frames) == frames == probe(SHARED / name)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_metadata_is_applied(degrees, monkeypatch):
    path = SHARED / "bad" / f"rotated_{degrees}.mov"
    if not path.is_file():
        pytest.skip("the rotated clips are not on this machine")
    monkeypatch.setattr(door, "MIN_FRAMES", 1)
    decoded = decode(path, ExtractConfig(height=320, keep_aspect=True))
    _, reference = cv2.VideoCapture(str(path)).read()
    shown = decoded.frames[0].astype(int)
    assert shown.shape == reference.shape
    # OpenCV rounds down where we round to the nearest.
    assert abs(shown - reference[..., ::-1]).mean() < 2


def test_quarter_turns_go_counterclockwise():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (upright(image, 90)[0] == [image[0, 1], image[1, 1]]).all()
    assert (upright(image, -90)[0] == [image[1, 0], image[0, 0]]).all()


def test_frames_keep_their_order_colours_and_rate(tmp_path):
    frames = np.zeros((9, 48, 64, 3), np.uint8)
    frames[:, :, :, 0] = 20 + 20 * np.arange(9)[:, None, None]
    decoded = decode(write_clip(tmp_path / "a.mp4", frames, fps=20), ExtractConfig(width=64, height=48))
    assert decoded.frames.shape == frames.shape
    assert decoded.frames.dtype == np.uint8
    assert abs(decoded.frames.astype(int) - frames).max() < 12
    assert decoded.fps == pytest.approx(20)
    assert (decoded.codec, decoded.source_width, decoded.source_height) == ("mpeg4", 64, 48)


def test_aspect_is_kept_only_on_request(tmp_path):
    path = write_clip(tmp_path / "a.mp4", panning(height=48, width=96))
    assert decode(path, ExtractConfig(width=32, height=32)).frames.shape[1:3] == (32, 32)
    assert decode(path, ExtractConfig(height=32, keep_aspect=True)).frames.shape[1:3] == (32, 64)


@pytest.mark.parametrize(("count", "reason"), [(7, "too_short"), (8, None)])
def test_eight_frames_are_enough(tmp_path, count, reason):
    path = write_clip(tmp_path / "a.mp4", panning(frames=count))
    if reason is None:
        assert len(decode(path, SMALL).frames) == count
        return
    with pytest.raises(VideoError, match="7 frames, at least 8"):
        decode(path, SMALL)


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {"movflags": "faststart"}), ("mkv", {}), ("avi", {})])
def test_a_file_cut_in_its_second_half_is_never_read(tmp_path, suffix, options):
    whole = write_clip(tmp_path / f"whole.{suffix}", panning(frames=60), container_options=options).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(VideoError) as caught:
        decode(cut, SMALL)
    assert caught.value.reason in {"truncated", "damaged"}


def test_a_trimmed_clip_is_whole_although_its_header_counts_hidden_frames(tmp_path):
    whole, trimmed = write_clip(tmp_path / "whole.mp4", panning(frames=60)), tmp_path / "trimmed.mp4"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(whole)) as source, av.open(str(trimmed), "w", options=options) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        hidden = round(20 / 25 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - hidden, packet.dts - hidden, copy
                target.mux(packet)
    assert probe(trimmed) == 60
    assert len(decode(trimmed, SMALL).frames) == 40


def test_a_missing_file_is_unreadable_and_its_name_stays_here(tmp_path):
    with pytest.raises(VideoError, match="unreadable") as caught:
        decode(tmp_path / "S014_visit_2.mp4", SMALL)
    assert "S014" not in str(caught.value)
    assert probe(tmp_path / "S014_visit_2.mp4") is None


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_a_part_is_a_slice_of_the_whole(tmp_path, suffix):
    """Also where decoding begins at a key frame in the middle, and where the decoder reorders frames."""
    path = write_clip(tmp_path / f"a.{suffix}", panning(frames=75), codec="libx264", options={"g": "10", "bf": "2"})
    whole = decode(path, SMALL).frames
    for start, end in ((0, 1), (1, 2), (1.4, None), (2.6, 3)):
        images = read_frames(path, SMALL, Part(start, end))
        frames = np.stack(list(images))
        assert np.array_equal(frames, whole[round(start * 25) : None if end is None else round(end * 25)])
        assert len(frames) == images.facts.frames == probe(path, Part(start, end))


def test_a_part_without_enough_frames_is_too_short(tmp_path):
    path = write_clip(tmp_path / "a.mp4", panning(frames=50))
    for part in (Part(1, 1.2), Part(60, None), Part(1, 1)):
        with pytest.raises(VideoError, match="frames in this part, at least 8"):
            list(read_frames(path, SMALL, part))


def test_what_lies_outside_a_part_is_not_judged(tmp_path):
    content = write_clip(tmp_path / "a.avi", panning(frames=60), options={"g": "5"}).read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(content[: len(content) * 6 // 10])
    assert len(list(read_frames(path, SMALL, Part(0, 1)))) == 25
    with pytest.raises(VideoError, match="truncated"):
        list(read_frames(path, SMALL, Part(0.5, None)))


def test_a_variable_rate_is_resampled_to_the_camera_s(tmp_path):
    """A camera at 25 frames per second that loses frames when it gets dark: their neighbours stand in for them."""
    lost = (np.arange(100) % 4 == 1) & (np.arange(100) > 60)
    path = write_clip(tmp_path / "a.mp4", panning(frames=100)[~lost], times=np.flatnonzero(~lost) / 25)
    images = read_frames(path, SMALL)
    frames = np.stack(list(images))
    facts = images.facts
    assert (facts.variable_rate, facts.repeated, facts.dropped) == (True, 10, 0)
    assert facts.fps == pytest.approx(25, rel=1e-3)
    assert facts.frames == len(frames) == 100
    equal = [bool((a == b).all()) for a, b in pairwise(frames)]
    assert sum(equal) == 10


def test_one_late_frame_leaves_a_constant_rate_as_it_is(tmp_path):
    times = np.arange(50) / 25
    times[20] += 0.015
    images = read_frames(write_clip(tmp_path / "a.mp4", panning(frames=50), times=times), SMALL)
    assert len(list(images)) == 50
    assert not images.facts.variable_rate


@pytest.mark.parametrize(("fps", "count", "repeated", "dropped"), [(12.5, 25, 0, 25), (50, 100, 50, 0), (25, 50, 0, 0)])
def test_every_video_can_be_resampled(tmp_path, fps, count, repeated, dropped):
    images = read_frames(
        write_clip(tmp_path / "a.mp4", panning(frames=50)), ExtractConfig(width=80, height=60, fps=fps)
    )
    assert len(list(images)) == count
    facts = images.facts
    assert (facts.fps, facts.source_fps) == (fps, pytest.approx(25))
    assert (facts.repeated, facts.dropped, facts.variable_rate) == (repeated, dropped, False)


def test_the_time_of_frames_that_an_avi_leaves_out_passes(tmp_path):
    """AVI has no timestamps: a camera that loses frames writes empty ones, which the header counts."""
    kept = [index for index in range(60) if not 20 <= index < 25]
    path = write_clip(tmp_path / "a.avi", panning(frames=60)[kept], times=np.array(kept) / 25, fps=25)
    images = read_frames(path, SMALL)
    frames = np.stack(list(images))
    assert len(frames) == 60
    assert images.facts.repeated == 5
    for held, copies in ((19, range(20, 22)), (25, range(23, 25))):
        assert all((frames[copy] == frames[held]).all() for copy in copies)


def test_timestamps_may_be_negative_or_missing(tmp_path):
    late = write_clip(tmp_path / "a.mkv", panning(frames=30), times=np.arange(30) / 25 + 3, codec="libx264")
    raw = write_clip(tmp_path / "b.h264", panning(frames=30), codec="libx264", options={"bf": "2"})
    for path in (late, raw):
        images = read_frames(path, SMALL, Part(0.4, None))
        assert len(list(images)) == 20
        assert images.facts.fps == pytest.approx(25, rel=1e-3)


def test_what_is_known_of_a_video(tmp_path):
    path = write_clip(tmp_path / "a.mp4", panning(frames=12, height=48, width=96), fps=24)
    images = read_frames(path, SMALL)
    list(images)
    assert asdict(images.facts) == {
        "fps": pytest.approx(24),
        "codec": "mpeg4",
        "source_width": 96,
        "source_height": 48,
        "source_fps": pytest.approx(24),
        "frames": 12,
        "repeated": 0,
        "dropped": 0,
        "variable_rate": False,
        "interlaced": False,
        "rotation": 0,
        "damage": "",
    }
    assert json.loads(json.dumps(asdict(images.facts)))


def test_reading_leaves_the_log_of_others_alone(tmp_path, caplog):
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    content = bytearray(write_clip(tmp_path / "a.mp4", panning(frames=30)).read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="damaged"):
        decode(tmp_path / "a.mp4", SMALL)
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before
    assert not caplog.records
