"""A path becomes an open container and its video stream; what libav complains of becomes a list.

Knows which kinds of file are opened, and nothing of what is done with them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.codec.context import Flags
from av.stream import Discard

from ptune.errors import VideoError

#: What PyAV raises for data that makes no sense.
BROKEN = (av.FFmpegError, ValueError, ArithmeticError)

MIN_SIDE = 16
#: Twice an 8K picture. A header can claim any size, and one picture of it would take all memory.
MAX_PIXELS = 1 << 26

_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
#: Streams without a container, which libav also believes to see in broken files of other kinds.
_RAW_STREAMS = ("h264", "hevc", "m4v", "mjpeg")
#: Not among them: play lists and image sequences, which lead to other files or into the network.
_FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "asf", "flv", "ogg"),
    *("mxf", "dv", "gif", "apng", "ivf", "nut", "wtv", "rm", "yuv4mpegpipe", *_RAW_STREAMS),
)


def open_video(path: Path, strict: bool = True, alone: bool = True) -> tuple[Any, Any]:
    """Returns the container and its first video stream, ready to decode on one thread.

    Args:
        path: the file.
        strict: its decoder stops at an error; otherwise it conceals what it can and returns what it could not.
        alone: packets of other streams are passed over, broken ones among them.

    Raises:
        VideoError: unreadable, too_small, too_large. Carries no path.
    """
    options = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file", **(_STRICT if strict else {})}
    try:
        # An absolute path cannot be taken for an option or a protocol, as "-one.mp4" or "concat:a" could.
        container = av.open(str(path.absolute()), metadata_errors="replace", options=options)
    except MemoryError:
        raise VideoError("too_large", "its header takes more memory than it may") from None
    except (*BROKEN, OSError) as error:
        raise VideoError("unreadable", cause(error)) from None
    try:
        return container, _video_stream(container, path, strict, alone)
    except VideoError:
        container.close()
        raise


def _video_stream(container: Any, path: Path, strict: bool, alone: bool) -> Any:
    kind = container.format.name
    if kind in _RAW_STREAMS and path.suffix.lower().lstrip(".") not in container.format.extensions:
        raise VideoError("unreadable", f"no container, only something like a {kind} stream")
    if not container.streams.video:
        raise VideoError("unreadable", "no video stream")
    stream = container.streams.video[0]
    codec = stream.codec_context
    if codec is None:
        raise VideoError("unreadable", "no decoder for its codec")
    if not codec.width or not codec.height:
        raise VideoError("unreadable", "its header states no size that a picture can have")
    if min(codec.width, codec.height) < MIN_SIDE:
        raise VideoError("too_small", f"{codec.width}x{codec.height} pixels, at least {MIN_SIDE} a side are needed")
    if codec.width * codec.height > MAX_PIXELS:
        raise VideoError("too_large", f"{codec.width}x{codec.height} pixels, at most {MAX_PIXELS} are read")
    codec.options = {"max_pixels": str(MAX_PIXELS), **(_STRICT if strict else {})}
    codec.thread_count = 1
    if not strict:
        codec.flags |= Flags.output_corrupt
    for other in container.streams:
        if alone and other.index != stream.index:
            other.discard = Discard["all"]
    return stream


def cause(error: Exception) -> str:
    """Returns libav's words without the path that it appends."""
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text)[:1].lower() + str(text)[1:]


_lock = threading.Lock()
_listeners = 0
_settings_before: tuple[int | None, bool] = (None, True)


@contextmanager
def complaints() -> Iterator[list[tuple[str, str]]]:
    """Collects (component, message) of what libav reports as an error on this thread.

    A decoder may report an error, conceal what it broke and return a picture as if nothing had been.
    """
    global _listeners, _settings_before  # noqa: PLW0603 (libav has one log level per process)
    with _lock:
        if not _listeners:
            _settings_before = av.logging.get_level(), av.logging.get_skip_repeated()
            av.logging.set_level(av.logging.ERROR)
            # A line that was said of the last video would not be said of this one.
            av.logging.set_skip_repeated(False)
        _listeners += 1
    found: list[tuple[str, str]] = []
    try:
        with av.logging.Capture() as lines:
            yield found
    finally:
        found += [(name, message.strip()) for level, name, message in lines if level <= av.logging.ERROR]
        with _lock:
            _listeners -= 1
            if not _listeners:
                av.logging.set_level(_settings_before[0])
                av.logging.set_skip_repeated(_settings_before[1])
