"""Ways to break a video file: each takes the bytes of a good one and returns those of a bad one."""

from __future__ import annotations

import struct

import numpy as np


def cut(content: bytes, share: float) -> bytes:
    """Returns the beginning."""
    return content[: int(len(content) * share)]


def blank_third(content: bytes, third: int) -> bytes:
    """Returns the content with zeros in its first, second or last third (0, 1, 2)."""
    size = len(content) // 3
    return content[: third * size] + bytes(size) + content[(third + 1) * size :]


def scatter(content: bytes, seed: int, count: int = 200) -> bytes:
    """Returns the content with random bytes at random places in its middle half."""
    rng = np.random.default_rng(seed)
    changed = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(len(content) // 4, 3 * len(content) // 4, count)
    changed[places] = rng.integers(256, size=count)
    return changed.tobytes()


def promise_in_mp4(content: bytes, frames: int) -> bytes:
    """Returns an mp4 whose sample tables count so many frames: of one size, of one duration."""
    sizes, durations = content.index(b"stsz"), content.index(b"stts")
    changed = bytearray(content)
    # Type, version and flags, then: size of each sample (0: a table follows), number of samples.
    struct.pack_into(">I", changed, sizes + 12, frames)
    # Type, version and flags, number of entries, then: number of samples, ticks of each.
    struct.pack_into(">I", changed, durations + 12, frames)
    return bytes(changed)


def promise_in_avi(content: bytes, frames: int) -> bytes:
    """Returns an AVI whose headers count so many frames."""
    main, stream = content.index(b"avih"), content.index(b"strh")
    changed = bytearray(content)
    struct.pack_into("<I", changed, main + 8 + 16, frames)
    struct.pack_into("<I", changed, stream + 8 + 32, frames)
    return bytes(changed)


def enlarge_gif(content: bytes, width: int, height: int) -> bytes:
    """Returns a GIF that claims a canvas of this size."""
    return content[:6] + struct.pack("<HH", width, height) + content[10:]
