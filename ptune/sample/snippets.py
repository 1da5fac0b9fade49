"""Where snippets start in a video, in training and at test time. Knows numbers of frames only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptune.config import Protocol


def training_starts(
    frames: int, segments: int, snippet_frames: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Returns one random start per segment, in chronological order.

    A video too short for disjoint segments gives overlapping snippets; one shorter than a snippet gives
    zeros, and `frame_indices` repeats it from its beginning.

    Args:
        frames: length of the video.
        segments: K.
        snippet_frames: T.

    Returns:
        int64 [K], each in [0, max(frames - T, 0)].

    Source: section 4.1; the rule for short videos is TSN's: starts are spread by (frames - T + 1) // K.
    """
    possible = frames - snippet_frames + 1
    spread = possible // segments
    if spread > 0:
        return np.arange(segments) * spread + generator.integers(0, spread, segments)
    if possible > 1:
        return np.sort(generator.integers(0, possible, segments))
    return np.zeros(segments, np.int64)


def protocol_starts(frames: int, protocol: Protocol) -> NDArray[np.int64]:
    """Returns uniformly spread starts from the first to the last possible one.

    Returns:
        int64 [protocol.snippets].

    Source: section 4.1, 64 non-sampled snippets of 16 consecutive frames.
    """
    last = max(frames - protocol.frames, 0)
    return np.rint(np.linspace(0, last, protocol.snippets)).astype(np.int64)


def frame_indices(start: int, snippet_frames: int, frames: int) -> NDArray[np.int64]:
    """Returns the frames of a snippet; past the end the video begins again."""
    return (start + np.arange(snippet_frames)) % frames
