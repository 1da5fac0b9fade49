"""No damage hangs or crashes the reader, and none passes in silence: frames are right, or the video is refused."""

import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ptune.config import ExtractConfig
from ptune.errors import VideoError
from ptune.extract.decode import Part
from ptune.extract.isolation import Decoder, Limits
from tests.extract import damage
from tests.extract.clips import panning, write_clip

FULL = os.environ.get("PTUNE_FULL") == "1"
SEEDS = range(20 if FULL else 4)
SMALL = ExtractConfig(width=80, height=60)
REAL = Path(__file__).parents[2].parent / "shared" / "videos" / "talking_small.mp4"
FORMATS = {"mp4": "libx264", "avi": "mpeg4", "mkv": "libx264"}
if FULL:
    FORMATS |= {"mov": "mpeg4", "ts": "libx264", "mpg": "mpeg2video", "nut": "ffv1"}
#: Have no header that could promise more: what is left of them is a video.
BROADCAST = {".ts", ".mpg"}
#: Any bytes are valid code of theirs, or nearly: damage to them can be seen by nothing but a checksum.
BLIND = {"mov": "mjpeg", "avi": "huffyuv"} | ({"webm": "libvpx-vp9", "mkv": "libvpx"} if FULL else {})


@pytest.fixture(scope="module")
def decoder():
    with Decoder(Limits(idle_seconds=20)) as decoder:
        yield decoder


def noisy(frames):
    """A pan with noise: no frame can be guessed from its neighbours."""
    noise = np.random.default_rng(0).integers(-8, 8, (frames, 96, 128, 1))
    return np.uint8(np.clip(panning(frames, 96, 128) + noise, 0, 255))


@pytest.fixture(scope="module", params=["real", "generated"])
def pictures(request):
    if request.param == "generated":
        return noisy(60)
    if not REAL.is_file():
        pytest.skip("the real clips are not on this machine")
    with av.open(str(REAL)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:60])


@pytest.fixture(scope="module", params=FORMATS)
def clip(request, pictures, tmp_path_factory, decoder):
    """A good file, and its frames."""
    suffix = request.param
    # A key frame each half second, as cameras set them.
    path = write_clip(
        tmp_path_factory.mktemp("clips") / f"a.{suffix}", pictures, codec=FORMATS[suffix], options={"g": "12"}
    )
    frames = np.stack(list(decoder.frames(path, SMALL)))
    assert len(frames) == 60
    return path, frames


def outcome(decoder, path, **settings):
    """Returns the frames, or the reason why there are none."""
    try:
        return np.stack(list(decoder.frames(path, SMALL, **settings)))
    except VideoError as error:
        refusal = error
    assert path.parent.name not in str(refusal)
    return refusal.reason


REFUSALS = {"unreadable", "truncated", "damaged", "too_short"}


def assert_right_or_refused(found, frames, path):
    if isinstance(found, str):
        assert found in REFUSALS
    elif path.suffix in BROADCAST:
        assert {frame.tobytes() for frame in found} <= {frame.tobytes() for frame in frames}
    else:
        assert np.array_equal(found, frames)


@pytest.mark.parametrize("share", np.linspace(0.05, 0.95, 10).round(2))
def test_a_file_that_was_cut(decoder, clip, tmp_path, share):
    path, frames = clip
    broken = tmp_path / path.name
    broken.write_bytes(damage.cut(path.read_bytes(), share))
    assert_right_or_refused(outcome(decoder, broken), frames, broken)


@pytest.mark.parametrize("third", [0, 1, 2])
def test_a_file_with_a_third_of_zeros(decoder, clip, tmp_path, third):
    path, frames = clip
    broken = tmp_path / path.name
    broken.write_bytes(damage.blank_third(path.read_bytes(), third))
    assert_right_or_refused(outcome(decoder, broken), frames, broken)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_with_random_bytes(decoder, clip, tmp_path, seed):
    path, frames = clip
    broken = tmp_path / path.name
    broken.write_bytes(damage.scatter(path.read_bytes(), seed))
    assert_right_or_refused(outcome(decoder, broken), frames, broken)


@pytest.mark.parametrize("seed", SEEDS)
def test_damage_that_is_allowed_is_named(decoder, clip, tmp_path, seed):
    path, frames = clip
    broken = tmp_path / path.name
    broken.write_bytes(damage.scatter(path.read_bytes(), seed, count=20))
    strict, lenient = (outcome(decoder, broken, allow_damaged=allowed) for allowed in (False, True))
    if isinstance(lenient, str):
        assert lenient in {"unreadable", "too_short"}
        return
    images = decoder.frames(broken, SMALL, allow_damaged=True)
    assert sum(1 for _ in images) == len(lenient)
    if isinstance(strict, str):
        assert images.facts.damage.replace(" ", "_").startswith(strict)
        assert lenient.shape[1:] == frames.shape[1:]
    else:
        assert images.facts.damage == ""
        assert np.array_equal(lenient, frames)


@pytest.mark.parametrize("suffix", BLIND)
@pytest.mark.parametrize("seed", SEEDS)
def test_codecs_that_cannot_see_damage_neither_crash_nor_hang(decoder, pictures, tmp_path, suffix, seed):
    pixels = {"huffyuv": "yuv422p", "mjpeg": "yuvj420p"}.get(BLIND[suffix], "yuv420p")
    path = write_clip(tmp_path / f"a.{suffix}", pictures[:20], codec=BLIND[suffix], pixels=pixels)
    path.write_bytes(damage.scatter(path.read_bytes(), seed))
    found = outcome(decoder, path)
    assert found in REFUSALS if isinstance(found, str) else len(found) <= 20


def test_a_sound_file_is_the_same_where_damage_is_allowed(decoder, clip):
    path, frames = clip
    images = decoder.frames(path, SMALL, allow_damaged=True)
    assert np.array_equal(np.stack(list(images)), frames)
    assert images.facts.damage == ""


def test_lost_frames_leave_their_time_to_those_before(decoder, tmp_path):
    """Frames behind a damaged stretch stand where they stand in the whole video."""
    whole = write_clip(tmp_path / "a.mp4", noisy(60), codec="libx264", options={"g": "6", "bf": "0"})
    frames = outcome(decoder, whole)
    lossy = tmp_path / "b.mp4"
    lossy.write_bytes(damage.blank_third(whole.read_bytes(), 1))
    images = decoder.frames(lossy, SMALL, allow_damaged=True)
    found = np.stack(list(images))
    facts = images.facts
    assert facts.damage
    assert facts.repeated > 10
    assert facts.frames == len(found) == 60
    assert np.array_equal(found[:15], frames[:15])
    assert np.array_equal(found[-15:], frames[-15:])


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_a_header_that_promises_a_thousand_million_frames(decoder, tmp_path, suffix):
    path = write_clip(tmp_path / f"a.{suffix}", panning(frames=20))
    promise = damage.promise_in_mp4 if suffix == "mp4" else damage.promise_in_avi
    path.write_bytes(promise(path.read_bytes(), 10**9))
    assert outcome(decoder, path) in {"truncated", "unreadable"}


@pytest.mark.parametrize(("width", "height", "pixels"), [(96, 64, "yuv420p"), (128, 96, "yuv444p")])
def test_pictures_that_change_in_the_middle(decoder, tmp_path, width, height, pixels):
    first = write_clip(tmp_path / "a.h264", panning(frames=20, height=96, width=128), codec="libx264")
    second = write_clip(tmp_path / "b.h264", panning(20, height, width), codec="libx264", pixels=pixels)
    path = tmp_path / "c.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(VideoError, match="the size or pixel format changes at frame 20"):
        list(decoder.frames(path, SMALL))
    images = decoder.frames(path, SMALL, allow_damaged=True)
    assert len(list(images)) == 20
    assert "changes at frame 20" in images.facts.damage


def test_files_with_too_little_in_them(decoder, tmp_path):
    empty = tmp_path / "empty.mp4"
    with av.open(str(empty), "w") as container:
        container.add_stream("mpeg4", rate=25)
        container.start_encoding()
    assert outcome(decoder, empty) == "unreadable"
    assert outcome(decoder, write_clip(tmp_path / "one.mp4", panning(frames=1))) == "too_short"
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert outcome(decoder, sound) == "unreadable"


def test_play_lists_and_streams_in_disguise_are_not_followed(decoder, tmp_path):
    clip = write_clip(tmp_path / "a.ts", panning(frames=20), codec="libx264")
    files = {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n".encode(),
        "concat.mp4": b"ffconcat version 1.0\nfile a.ts\n",
        "disguise.avi": write_clip(tmp_path / "a.h264", panning(frames=20), codec="libx264").read_bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert outcome(decoder, tmp_path / name) == "unreadable"
    assert len(outcome(decoder, tmp_path / "a.h264")) == 20


def test_a_picture_that_plays_for_ever_is_read_once(decoder, tmp_path):
    path = write_clip(
        tmp_path / "a.gif", panning(frames=12), codec="gif", pixels="rgb8", container_options={"loop": "0"}
    )
    assert len(outcome(decoder, path)) == 12


@pytest.mark.parametrize(("side", "reason"), [(20_000, "unreadable"), (10_000, "too_large"), (8_000, "too_large")])
def test_pictures_that_need_too_much_memory(tmp_path, side, reason):
    path = write_clip(tmp_path / "a.gif", panning(frames=12), codec="gif", pixels="rgb8")
    good = tmp_path / "good.gif"
    good.write_bytes(path.read_bytes())
    path.write_bytes(damage.enlarge_gif(path.read_bytes(), side, side))
    with Decoder(Limits(memory_bytes=256 << 20)) as decoder:
        assert outcome(decoder, path) == reason
        assert len(outcome(decoder, good)) == 12


def test_a_file_that_never_comes(tmp_path):
    pipe = tmp_path / "a.mp4"
    os.mkfifo(pipe)
    with Decoder(Limits(idle_seconds=1)) as decoder:
        assert outcome(decoder, pipe) == "timeout"
        assert len(outcome(decoder, write_clip(tmp_path / "b.mp4", panning()))) == 10


def test_a_file_that_comes_in_drops(tmp_path):
    content = write_clip(tmp_path / "a.ts", panning(frames=200), codec="libx264").read_bytes()
    pipe = tmp_path / "b.ts"
    os.mkfifo(pipe)
    stop = threading.Event()

    def drip():
        with open(pipe, "wb", buffering=0) as handle:
            for start in range(0, len(content), 188):
                if stop.wait(0.1):
                    return
                try:
                    handle.write(content[start : start + 188])
                except BrokenPipeError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with Decoder(Limits(idle_seconds=1, seconds_per_frame=0.01)) as decoder:
            assert outcome(decoder, pipe) == "timeout"
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_times_that_jump_by_ten_hours(decoder, tmp_path):
    times = np.arange(40) / 25
    times[20:] += 36_000
    path = write_clip(tmp_path / "a.mp4", panning(frames=40), times=times)
    with pytest.raises(VideoError, match="damaged: 36000 seconds without a picture after frame 19"):
        list(decoder.frames(path, SMALL))
    images = decoder.frames(path, SMALL, allow_damaged=True)
    assert len(list(images)) == 40
    assert images.facts.fps == pytest.approx(25)
    assert len(outcome(decoder, path, part=Part(0, 1))) == 20


def test_a_recording_whose_beginning_is_missing(decoder, tmp_path):
    """A cut between key frames: the decoder passes over all up to the next one without a word."""
    whole = write_clip(tmp_path / "a.mkv", noisy(48), codec="libx264", options={"g": "24", "bf": "0"})
    late = tmp_path / "b.mkv"
    with av.open(str(whole)) as source, av.open(str(late), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.pts is not None and packet.pts * stream.time_base >= Fraction(10, 25):
                packet.stream = copy
                target.mux(packet)
    with pytest.raises(VideoError, match="damaged: 14 frames cannot be decoded, 24 can"):
        list(decoder.frames(late, SMALL))
