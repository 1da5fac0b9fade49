"""Short generated clips for the tests of extraction."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.filter import Graph

TICKS = 12800
FIELDS = Flags.interlaced_dct | Flags.interlaced_me


def texture(height, width, seed=0):
    """A smooth random gray pattern, uint8 [height,width]."""
    import cv2

    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.uint8(255 * (smooth - smooth.min()) / (smooth.max() - smooth.min()))


def panning(frames=10, height=48, width=64, step=1, seed=0):
    """A pattern that moves `step` px/frame to the right, uint8 [T,H,W,3]."""
    wide = texture(height, width + frames * step, seed)
    views = [wide[:, (frames - index) * step :][:, :width] for index in range(frames)]
    return np.repeat(np.stack(views)[..., None], 3, axis=-1)


def woven(frames):
    """Interlaces uint8 [2T,H,W,3]: even lines of one frame, odd ones of the next. uint8 [T,H,W,3]."""
    fields = frames[0::2][: len(frames) // 2].copy()
    fields[:, 1::2] = frames[1::2, 1::2]
    return fields


def write_clip(
    path: Path,
    frames,
    fps=25,
    container_options=None,
    codec="mpeg4",
    times=None,
    pixels="yuv420p",
    options=None,
    interlaced=False,
    rotation=0,
):
    """Encodes uint8 [T,H,W,3] RGB, at the given times in seconds or at a constant rate."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.bit_rate = 2_000_000
        if times is not None:
            stream.codec_context.time_base = Fraction(1, TICKS)
        if interlaced:
            stream.codec_context.flags |= FIELDS
        if rotation:
            stream.set_display_rotation(rotation)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=pixels)
            frame.time_base = Fraction(1, fps) if times is None else Fraction(1, TICKS)
            frame.pts = index if times is None else round(times[index] * TICKS)
            for packet in stream.encode(_top_first(frame) if interlaced else frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _top_first(frame):
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("setfield", "mode=tff"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()
