"""A video file becomes upright RGB frames at the working size, or an error that says what is wrong with it.

The only door to video files. Knows nothing of flow, of stores or of who is shown.

Decoding is strict: a decoder that conceals damage returns all frames and says nothing, so damage must stop it (libav's
`explode`), frames that it marks as corrupt count as damage, and the frames read are held against the header's count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from ptune.config.extraction import ExtractConfig
from ptune.errors import VideoError

MIN_FRAMES = 8
MIN_SIDE = 16
#: Headers may count frames that no player shows, such as a last packet without a picture.
SPARE_FRAMES = 2
SPARE_SHARE = 0.02

_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_MOV_FAMILY = "mov,mp4"


@dataclass(frozen=True)
class Decoded:
    """Frames of one video.

    Args:
        frames: uint8 [T,H,W,3] RGB, upright, in presentation order.
        fps: frames per second by their timestamps, else by the header; 0 where neither tells.
        codec: name of the decoder.
        source_width, source_height: size in the file, before rotation.
    """

    frames: npt.NDArray[np.uint8]
    fps: float
    codec: str
    source_width: int
    source_height: int


def decode(source: Path, config: ExtractConfig) -> Decoded:
    """Returns all frames of a video at the working size.

    Args:
        source: the file.
        config: working size. `keep_aspect` scales the shorter side as displayed to `height`.

    Raises:
        VideoError: unreadable (no video can be opened), damaged (the decoder met an error), truncated (it ends before
            its header says), too_short (under 8 frames) or too_small (a side under 16 pixels). Carries no path.

    Source: section 4.1, "reduced to a resolution of 340 x 256 pixels".
    """
    try:
        container = _open(source)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("unreadable", _cause(error)) from None
    with container:
        stream = _video_stream(container)
        codec = stream.codec_context
        if min(codec.width, codec.height) < MIN_SIDE:
            raise VideoError("too_small", f"{codec.width}x{codec.height} pixels, at least {MIN_SIDE} a side are needed")
        frames, times = _read(container, stream, config)
        if len(frames) < MIN_FRAMES:
            raise VideoError("too_short", f"{len(frames)} frames, at least {MIN_FRAMES} are needed")
        fps = _rate(times, stream)
        return Decoded(np.stack(frames), fps, codec.name, codec.width, codec.height)


def probe(source: Path) -> int | None:
    """Returns the number of frames that the header states or implies by duration and rate; None where it does not."""
    try:
        with _open(source) as container:
            stream = _video_stream(container)
            if stream.frames > 0:
                return int(stream.frames)
            seconds = _duration(container, stream)
            rate = stream.average_rate
            return round(seconds * float(rate)) if seconds and rate else None
    except (av.FFmpegError, OSError, ValueError, VideoError):
        return None


def upright(image: npt.NDArray[np.uint8], degrees: int) -> npt.NDArray[np.uint8]:
    """Turns an image [H,W,3] counterclockwise by the nearest quarter turn, as its rotation metadata asks."""
    return np.rot90(image, round(degrees / 90))


def _open(source: Path) -> Any:
    # An absolute path cannot be taken for an option or a protocol, as "-one.mp4" or "concat:a" could.
    return av.open(str(source.absolute()), metadata_errors="replace", options=dict(_STRICT))


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise VideoError("unreadable", "no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("unreadable", "no decoder for its codec")
    stream.codec_context.options = dict(_STRICT)
    stream.codec_context.thread_count = 1
    return stream


def _read(container: Any, stream: Any, config: ExtractConfig) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
    frames: list[npt.NDArray[np.uint8]] = []
    times: list[float] = []
    source_size: tuple[int, int] | None = None
    packets = container.demux(stream)
    try:
        for frame in _frames(packets):
            if frame.is_corrupt:
                raise VideoError("damaged", f"frame {len(frames)} is marked corrupt by its decoder")
            size = (frame.width, frame.height)
            if source_size not in (None, size):
                raise VideoError("damaged", f"the frame size changes at frame {len(frames)}")
            source_size = size
            if frame.time is not None:
                times.append(float(frame.time))
            frames.append(_working(frame, stream, config))
    except (av.FFmpegError, ValueError) as error:
        if _ends(packets) and _lacks(container, stream, frames, times):
            raise VideoError("truncated", _shortfall(stream, frames)) from None
        raise VideoError("damaged", f"{_cause(error)} after {len(frames)} frames") from None
    if _lacks(container, stream, frames, times):
        raise VideoError("truncated", _shortfall(stream, frames))
    return frames, times


def _frames(packets: Iterator[Any]) -> Iterator[Any]:
    for packet in packets:
        yield from packet.decode()


def _ends(packets: Iterator[Any]) -> bool:
    """True if no data follows the packet at which decoding failed, so that the file was cut there."""
    try:
        return not any(packet.size for packet in packets)
    except (av.FFmpegError, ValueError):
        return True


def _lacks(container: Any, stream: Any, frames: list[Any], times: list[float]) -> bool:
    """True if clearly fewer frames were read than the header promises."""
    promised = stream.frames
    if promised > 0 and len(frames) >= promised - max(SPARE_FRAMES, SPARE_SHARE * promised):
        return False
    if promised > 0 and not container.format.name.startswith(_MOV_FAMILY):
        return True
    # A trimmed mp4 counts frames that its edit list hides, and Matroska counts none: there, time decides.
    seconds = _duration(container, stream)
    rate = stream.average_rate
    if not seconds or not rate or not times:
        return False
    spare = max(SPARE_FRAMES / float(rate), SPARE_SHARE * seconds, 0.5 if promised <= 0 else 0.0)
    return times[-1] + 1 / float(rate) < seconds - spare


def _duration(container: Any, stream: Any) -> float | None:
    """Returns the seconds that the header gives to the video; the container's only where it holds nothing else."""
    mov = container.format.name.startswith(_MOV_FAMILY)
    if stream.duration and not mov:
        return float(stream.duration * stream.time_base)
    if container.duration and (mov or len(container.streams) == 1):
        return float(container.duration / av.time_base)
    return None


def _shortfall(stream: Any, frames: list[Any]) -> str:
    promised = f"its header promises {stream.frames}" if stream.frames else "its header promises a longer video"
    return f"{len(frames)} frames read, {promised}"


def _rate(times: list[float], stream: Any) -> float:
    if len(times) > 1 and max(times) > min(times):
        return (len(times) - 1) / (max(times) - min(times))
    return float(stream.average_rate or stream.guessed_rate or 0.0)


def _working(frame: Any, stream: Any, config: ExtractConfig) -> npt.NDArray[np.uint8]:
    image = np.ascontiguousarray(upright(frame.to_ndarray(format="rgb24"), frame.rotation))
    height, width = image.shape[:2]
    target = (config.width, config.height)
    if config.keep_aspect:
        pixel = float(stream.sample_aspect_ratio or 1)
        shown = (width * pixel, height) if round(frame.rotation / 90) % 2 == 0 else (width, height * pixel)
        factor = config.height / min(shown)
        target = (max(2, round(shown[0] * factor / 2) * 2), max(2, round(shown[1] * factor / 2) * 2))
    if target == (width, height):
        return image
    shrinks = target[0] <= width and target[1] <= height
    return np.asarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def _cause(error: Exception) -> str:
    """Returns libav's words without the path that it appends."""
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text)[:1].lower() + str(text)[1:]
