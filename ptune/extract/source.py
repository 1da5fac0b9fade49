"""A video file becomes decoded pictures with their times, or an error that says what is wrong with it.

Knows nothing of working sizes, nor of rates to resample to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from ptune.errors import VideoError
from ptune.extract.container import BROKEN, cause, complaints, open_video
from ptune.extract.survey import SPARE_FRAMES, SPARE_SHARE, Clock, Reading, Survey

_MOV_FAMILY = "mov,mp4"
#: Of these, a picture that the container calls a key frame needs none before it.
_KEYED_CODECS = ("h264", "hevc", "mpeg4", "mpeg2video", "vp8", "vp9", "libdav1d", "mjpeg")


class Source:
    """A video file that is open, as a context manager.

    Args:
        path: the file.
        allow_damaged: decode what can be decoded; `damage` says what would have been an error.
        progress: called for every packet looked at (with 0) and every picture decoded (with 1).

    Raises:
        VideoError: unreadable, too_small, too_large.
    """

    def __init__(
        self, path: Path, allow_damaged: bool = False, progress: Callable[[int], None] = lambda pictures: None
    ) -> None:
        self._path, self._allow_damaged, self._progress = path, allow_damaged, progress
        self.damage = ""
        self._container, self._stream = open_video(path)
        codec = self._stream.codec_context
        self.codec, self.width, self.height = str(codec.name), int(codec.width), int(codec.height)
        self.pixel_aspect = float(self._stream.sample_aspect_ratio or 1)
        self.format = str(self._container.format.name)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def report(self, error: VideoError) -> None:
        """Raises the error, or remembers it where damage is allowed; the first one counts."""
        if not self._allow_damaged:
            raise error
        self.damage = self.damage or f"{error.reason.replace('_', ' ')}: {error.detail}"

    def stated_rates(self) -> list[float]:
        """Returns the frames per second that the file states or libav infers, the most trusted first."""
        stream = self._stream
        return [float(rate) for rate in (stream.guessed_rate, stream.base_rate, stream.average_rate) if rate]

    def promised_frames(self) -> int | None:
        """Returns the number of frames that the header states or implies by duration and rate."""
        if self._stream.frames > 0:
            return int(self._stream.frames)
        seconds, rate = self._duration(), self._stream.average_rate
        return round(seconds * float(rate)) if seconds and rate else None

    def survey(self) -> Survey:
        """Reads all packets without decoding any, which takes a thousandth of the time."""
        shown: list[tuple[int | None, int | None]] = []
        keys: list[tuple[int, tuple[int | None, int | None]]] = []
        count = 0
        try:
            for packet in self._container.demux(self._stream):
                self._progress(0)
                if not packet.size:
                    continue
                if packet.is_keyframe:
                    keys.append((count, (packet.pts, packet.dts)))
                if not packet.is_discard:
                    shown.append((packet.pts, packet.dts))
                count += 1
        except (*BROKEN, LookupError):
            # Met again, and judged, when the packets are decoded.
            pass
        # AVI knows no time but that of decoding; libav guesses the rest.
        clocks: tuple[Clock, ...] = ("dts",) if self.format == "avi" else ("pts", "dts")
        for clock in clocks:
            which = int(clock == "dts")
            stamps = [pair[which] for pair in shown]
            if shown and None not in stamps and len(set(stamps)) >= 0.9 * len(stamps):
                tick = float(self._stream.time_base or 0)
                entries = tuple((packet, pair[which] or 0) for packet, pair in keys)
                return Survey(np.unique(np.array(stamps, np.int64)), clock, tick, entries, count)
        rate = next(iter(self.stated_rates()), 0.0)
        return Survey(np.arange(len(shown)), "count", 1 / rate if rate else 0.0, (), count)

    def pictures(self, survey: Survey, start: float = 0.0, end: float = math.inf) -> Iterator[tuple[Any, float]]:
        """Yields decoded pictures (libav's frames) in presentation order, with the seconds after the first one.

        Args:
            survey: of the same file.
            start, end: seconds between which pictures are wanted; what is wrong behind the end is not looked at.

        Raises:
            VideoError: damaged, truncated, too_large.
        """
        reached = -1.0
        for first in dict.fromkeys((self._entry(survey, start), 0)):
            try:
                for frame, seconds in self._decoded(survey, first, strict=True):
                    if seconds >= end:
                        return
                    if seconds >= start:
                        reached = seconds
                        yield frame, seconds
                return
            except VideoError as error:
                # A key frame may need what stands before it after all: then all is decoded from the beginning.
                if not first or reached >= 0:
                    self.report(error)
                    break
        for frame, seconds in self._decoded(survey, first, strict=False):
            if seconds >= end:
                return
            if seconds >= start and seconds > reached:
                yield frame, seconds

    def _entry(self, survey: Survey, start: float) -> int:
        """Returns the packet to begin with: not the last key frame before the start but, to be safe, the one before."""
        if self.codec not in _KEYED_CODECS:
            return 0
        origin = survey.stamps[0] if len(survey.stamps) else 0
        before = [packet for packet, stamp in survey.keys if (stamp - origin) * survey.tick <= start]
        return before[-2] if len(before) > 1 else 0

    def _decoded(self, survey: Survey, first: int, strict: bool) -> Iterator[tuple[Any, float]]:
        container, stream = open_video(self._path, strict)
        with container:
            reading = Reading(survey, self.codec, first)
            for index, frames, problem in self._steps(container, stream, first):
                if problem and strict:
                    cut = index >= survey.packets and self._lacks(reading)
                    raise self._shortfall(reading) if cut else _damaged(f"{problem} after {reading.count} frames")
                for frame in frames:
                    if strict and reading.problem(frame):
                        raise _damaged(reading.problem(frame))
                    if not reading.changed(frame):
                        yield frame, reading.seconds(frame)
            if strict and (self._lacks(reading) or reading.lacks_end()):
                raise self._shortfall(reading)
            if strict and reading.holes():
                raise _damaged(f"{reading.holes()} frames cannot be decoded, {reading.count} can")

    def _steps(self, container: Any, stream: Any, first: int) -> Iterator[tuple[int, list[Any], str]]:
        """Yields, packet by packet, how many were read, the frames that came out and what is wrong."""
        packets = container.demux(stream)
        codec = stream.codec_context
        index = 0
        while True:
            packet, frames, problem = None, [], ""
            try:
                with complaints() as lines:
                    packet = next(packets, None)
                    if packet is not None and (index >= first or not packet.size):
                        frames = packet.decode()
            except MemoryError:
                raise VideoError("too_large", "decoding takes more memory than it may") from None
            except BROKEN as error:
                problem = cause(error)
            except LookupError:
                # PyAV, behind the last packet, where a stream was found while packets were read.
                packet = None
            index += 1
            if index <= first:
                # Nothing is asked of what comes before.
                problem, lines = "", []
            elif packet is not None and packet.is_corrupt:
                problem = problem or f"packet {index} is incomplete"
            for name, text in lines:
                # What a container says can hold names of files; other components, such as scalers, judge no data.
                if name in (codec.name, codec.codec.canonical_name):
                    problem = problem or f"the decoder reports: {text[:100]}"
                elif name == self.format:
                    problem = problem or "the container's structure is broken"
            if packet is None and not problem:
                return
            self._progress(len(frames))
            yield index, frames, problem

    def _lacks(self, reading: Reading) -> bool:
        """True if clearly fewer frames were read than the header promises."""
        promised = self._stream.frames
        # In AVI a frame can be left out on purpose: its time passes, and the header counts it.
        read = reading.first + reading.count
        if self.format == "avi":
            read = max(read, reading.ticks + 1)
        if promised > 0 and read >= promised - max(SPARE_FRAMES, SPARE_SHARE * promised):
            return False
        if promised > 0 and not self._mov:
            return True
        # A trimmed mp4 counts frames that its edit list hides, and Matroska counts none: there, time decides.
        seconds = self._duration()
        rate = self._stream.average_rate
        if not seconds or not rate or not reading.count:
            return False
        spare = max(SPARE_FRAMES / float(rate), SPARE_SHARE * seconds, 0.5 if promised <= 0 else 0.0)
        end = reading.end_seconds
        if not self._mov and not self._stream.duration and len(self._container.streams) > 1:
            end = max(end, self._last_packet())
        return end + 1 / float(rate) < seconds - spare

    @property
    def _mov(self) -> bool:
        return self.format.startswith(_MOV_FAMILY)

    def _duration(self) -> float | None:
        """Returns the seconds that the header gives to the video, else to all that is in the file."""
        if self._stream.duration and not self._mov:
            return float(self._stream.duration * self._stream.time_base)
        return float(self._container.duration / av.time_base) if self._container.duration else None

    def _last_packet(self) -> float:
        """Returns when the last packet of any stream is due, in seconds, because sound can outlast the picture."""
        end = 0.0
        container, _ = open_video(self._path, alone=False)
        with container:
            try:
                for packet in container.demux():
                    if packet.pts is not None:
                        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            except (*BROKEN, LookupError):
                pass
        return end

    def _shortfall(self, reading: Reading) -> VideoError:
        promised = self._stream.frames
        text = f"its header promises {promised}" if promised else "its header promises a longer video"
        return VideoError("truncated", f"{reading.count} frames read, {text}")


def _damaged(detail: str) -> VideoError:
    return VideoError("damaged", detail)
