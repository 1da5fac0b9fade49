"""A video file becomes upright RGB frames at the working size, or an error that says what is wrong with it.

The only door to video files. Knows nothing of flow, of stores or of who is shown.

Decoding is strict: a decoder that conceals damage returns all frames and says nothing, so whatever it or the container
complains of stops it, and what was read is held against what the packets and the header promise. What no decoder can
know stays unseen: a changed byte that is valid code for another picture. Only the file's checksum tells that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptune.errors import VideoError
from ptune.extract.container import BROKEN, cause
from ptune.extract.picture import Deinterlacer, Image, Scaler, upright
from ptune.extract.source import Source
from ptune.extract.timeline import Resampler, plan

if TYPE_CHECKING:
    # The child process that decodes starts in half the time without pydantic.
    from ptune.config.extraction import ExtractConfig

__all__ = [
    "Decoded",
    "Frames",
    "Image",
    "Part",
    "VideoFacts",
    "decode",
    "probe",
    "read_frames",
    "upright",
]

MIN_FRAMES = 8
#: Timestamps in files, and parts in manifests, are rounded to milliseconds.
NEAR_SECONDS = 0.0015


@dataclass(frozen=True)
class Part:
    """A part of a recording, in seconds after its first frame; without an end, to the last one."""

    start_seconds: float = 0.0
    end_seconds: float | None = None


WHOLE = Part()


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video once its last frame was read.

    Args:
        fps: frames per second of the frames returned; 0 where unknown.
        codec: name of the decoder.
        source_width, source_height: size in the file, before rotation.
        source_fps: mean frames per second in the file; 0 where unknown.
        frames: how many were returned.
        repeated, dropped: by resampling. A repeated frame equals its predecessor, so that its flow is zero.
        variable_rate: the timestamps are not those of a constant rate.
        interlaced: fields were found; with `deinterlace: off` only what the decoder flags.
        rotation: degrees counterclockwise by which frames were turned: 0, 90, 180 or 270.
        damage: what was wrong, if damage was allowed; else empty.
    """

    fps: float
    codec: str
    source_width: int
    source_height: int
    source_fps: float
    frames: int
    repeated: int
    dropped: int
    variable_rate: bool
    interlaced: bool
    rotation: int
    damage: str


class Frames(Iterator[Image]):
    """Frames of a video, uint8 [H,W,3] RGB, one after the other; what is known of it follows the last one.

    Damage is found where it is met, so an error can follow frames that were returned: they must then be thrown away.
    """

    def __init__(self, images: Generator[Image, None, VideoFacts]) -> None:
        self._images = images
        self._facts: VideoFacts | None = None

    def __next__(self) -> Image:
        try:
            return next(self._images)
        except StopIteration as end:
            self._facts = end.value or self._facts
            raise StopIteration from None

    @property
    def facts(self) -> VideoFacts:
        """What is known of the video, after its last frame."""
        if self._facts is None:
            raise RuntimeError("what is known of a video is complete after its last frame")
        return self._facts

    def close(self) -> None:
        """Closes the file before the last frame was read."""
        self._images.close()


@dataclass(frozen=True)
class Decoded:
    """Frames of one video.

    Args:
        frames: uint8 [T,H,W,3] RGB, upright, in presentation order.
        fps: frames per second; 0 where unknown.
        codec: name of the decoder.
        source_width, source_height: size in the file, before rotation.
    """

    frames: Image
    fps: float
    codec: str
    source_width: int
    source_height: int


def decode(source: Path, config: ExtractConfig) -> Decoded:
    """Returns all frames of a video at once; for short ones.

    Raises:
        VideoError: as for `read_frames`.
    """
    images = read_frames(source, config)
    frames = np.stack(list(images))
    facts = images.facts
    return Decoded(frames, facts.fps, facts.codec, facts.source_width, facts.source_height)


def read_frames(
    source: Path,
    config: ExtractConfig,
    part: Part = WHOLE,
    allow_damaged: bool = False,
    progress: Callable[[int], None] = lambda pictures: None,
) -> Frames:
    """Returns the frames of a video, decoded while they are asked for; memory does not grow with its length.

    At a constant rate all frames are returned as they are. At a variable one, and at any with `config.fps`, they are
    resampled: the frame nearest in time for each moment.

    Args:
        source: the file.
        config: working size, rate and deinterlacing.
        part: the part to return, by the timestamps in the file.
        allow_damaged: return what can be decoded, concealed frames included, and say in the facts what is wrong.
        progress: called for every packet looked at (with 0) and every picture decoded (with 1), returned or not.

    Raises:
        VideoError: while frames are asked for: unreadable (no video can be opened), damaged (the decoder met an error),
            truncated (it ends before its header says), too_short (under 8 frames), too_small (a side under 16 pixels)
            or too_large. Carries no path.

    Source: section 4.1, "reduced to a resolution of 340 x 256 pixels".
    """
    return Frames(_images(source, config, part, allow_damaged, progress))


def probe(source: Path, part: Part = WHOLE) -> int | None:
    """Returns the number of frames that the header states or implies by duration and rate; None where it does not."""
    try:
        with Source(source) as video:
            promised = video.promised_frames()
            rate = next(iter(video.stated_rates()), None)
    except VideoError:
        return None
    if promised is None or part == WHOLE:
        return promised
    if rate is None:
        return None
    end = promised if part.end_seconds is None else min(promised, round(part.end_seconds * rate))
    return max(0, end - round(part.start_seconds * rate))


def _images(
    source: Path, config: ExtractConfig, part: Part, allow_damaged: bool, progress: Callable[[int], None]
) -> Generator[Image, None, VideoFacts]:
    try:
        with Source(source, allow_damaged, progress) as video:
            return (yield from _Conversion(video, config, part, allow_damaged).images())
    except MemoryError:
        raise VideoError("too_large", "decoding takes more memory than it may") from None
    except BROKEN as error:
        raise VideoError("unreadable", f"its pictures cannot be converted: {cause(error)}") from None


class _Conversion:
    """One video on its way from the decoder to the caller, and what is counted on it."""

    def __init__(self, video: Source, config: ExtractConfig, part: Part, allow_damaged: bool) -> None:
        self._video, self._config, self._part = video, config, part
        self._start = part.start_seconds - NEAR_SECONDS
        self._end = math.inf if part.end_seconds is None else part.end_seconds - NEAR_SECONDS
        self._survey = video.survey()
        times = self._survey.times
        self._times = times[(times >= self._start) & (times < self._end)]
        self._timeline = plan(self._times, video.stated_rates(), self._survey.tick, config.fps)
        # Where frames may be missing, those behind must not move up into their places.
        self._fills = allow_damaged and not self._timeline.variable and self._timeline.fps > 0
        self._decoded = self._rotation = 0
        self._first = self._last = 0.0
        self._flagged = False

    def images(self) -> Generator[Image, None, VideoFacts]:
        """Yields frames, and returns what is known."""
        video, timeline = self._video, self._timeline
        if timeline.gap:
            video.report(VideoError("damaged", timeline.gap))
        deinterlacer: Deinterlacer[float] = Deinterlacer()
        pictures = self._pictures()
        whole = deinterlacer(pictures) if self._config.deinterlace == "auto" else pictures
        scaler = Scaler(self._config, video.pixel_aspect)
        images = ((seconds, scaler(frame)) for frame, seconds in whole)
        fps = timeline.target_fps or (timeline.fps if self._fills else 0.0)
        resampler: Resampler[Image] = Resampler(fps, timeline.interval)
        count = 0
        for image in resampler(images) if fps else (image for _, image in images):
            yield image
            count += 1
        if count < MIN_FRAMES:
            where = "" if self._part == WHOLE else " in this part"
            raise VideoError("too_short", f"{count} frames{where}, at least {MIN_FRAMES} are needed")
        return VideoFacts(
            fps=fps or self._decoded_fps(),
            codec=video.codec,
            source_width=video.width,
            source_height=video.height,
            source_fps=timeline.fps,
            frames=count,
            repeated=resampler.repeated,
            dropped=resampler.dropped,
            variable_rate=timeline.variable,
            interlaced=deinterlacer.found or self._flagged,
            rotation=self._rotation,
            damage=video.damage,
        )

    def _pictures(self) -> Iterator[tuple[Any, float]]:
        for frame, seconds in self._video.pictures(self._survey, self._start, self._end):
            if not self._decoded:
                self._first = seconds
                self._rotation = round(frame.rotation / 90) * 90 % 360
            self._last = max(self._last, seconds)
            self._flagged = self._flagged or frame.interlaced_frame
            self._decoded += 1
            yield frame, self._on_line(seconds) if self._fills and not self._config.fps else seconds

    def _decoded_fps(self) -> float:
        # Where the clock is broken, the other frames tell.
        interval = (self._last - self._first) / max(1, self._decoded - 1)
        interval = self._timeline.interval if self._timeline.gap else interval
        return 1 / interval if interval > 0 else self._timeline.fps

    def _on_line(self, seconds: float) -> float:
        """Returns when a frame would be shown if its video's constant rate were exact."""
        return float(np.searchsorted(self._times, seconds)) * self._timeline.interval
