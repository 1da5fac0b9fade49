"""Short generated clips for the tests of extraction."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


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


def write_clip(path: Path, frames, fps=25, container_options=None, codec="mpeg4"):
    """Encodes uint8 [T,H,W,3] RGB."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for image in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
