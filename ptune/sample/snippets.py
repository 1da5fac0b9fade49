"""Which frames of a video are in its snippets, in training and at test time. Knows numbers of frames only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptune.config import Protocol, StreamConfig

Frames = NDArray[np.int64]


def training_frames(frames: int, stream: StreamConfig, generator: np.random.Generator) -> Frames:
    """Returns the frames of one random snippet per segment, segments in chronological order.

    A video too short for disjoint segments gives overlapping snippets; one shorter than a snippet is repeated from its
    beginning.

    Args:
        frames: length of the video.
        stream: segments K, snippet_frames T, frame_stride and sampling.

    Returns:
        int64 [K,T], each in [0, frames).

    Source: section 4.1, "Preserving chronological order, we randomly sampled 32 frames within each video segment",
        read as consecutive frames because section 1 speaks of "a few consecutive frames"; `sorted_random` is the other
        reading. The rule for short videos is TSN's.
    """
    if stream.sampling == "sorted_random":
        return _sorted_random(frames, stream, generator)
    starts = _starts(frames - _span(stream.snippet_frames, stream.frame_stride) + 1, stream.segments, generator)
    return _consecutive(starts, stream.snippet_frames, stream.frame_stride, frames)


def protocol_frames(frames: int, protocol: Protocol, stride: int = 1) -> Frames:
    """Returns the frames of snippets that start uniformly spread from the first to the last possible frame.

    Returns:
        int64 [protocol.snippets, protocol.frames], each in [0, frames).

    Source: section 4.1, 64 non-sampled snippets of 16 consecutive frames.
    """
    last = max(frames - _span(protocol.frames, stride), 0)
    starts = np.rint(np.linspace(0, last, protocol.snippets)).astype(np.int64)
    return _consecutive(starts, protocol.frames, stride, frames)


def _span(snippet_frames: int, stride: int) -> int:
    """Returns how many frames of the video lie between the first and the last frame of a snippet, both included."""
    return (snippet_frames - 1) * stride + 1


def _starts(possible: int, segments: int, generator: np.random.Generator) -> Frames:
    """Returns a random start from each of K equal parts of the possible starts, [K].

    Source: Wang et al. 2016 (TSN), whose parts are `possible // K` long.
    Differs: where K does not divide `possible`, TSN never draws the last few starts, so that the end of the video is
        never seen; here the parts differ by one start and cover all.
    """
    if possible >= segments:
        bounds = np.arange(segments + 1) * possible // segments
        return generator.integers(bounds[:-1], bounds[1:])
    return np.sort(generator.integers(0, max(possible, 1), segments))


def _consecutive(starts: Frames, count: int, stride: int, frames: int) -> Frames:
    return (starts[:, None] + np.arange(count) * stride) % frames


def _sorted_random(frames: int, stream: StreamConfig, generator: np.random.Generator) -> Frames:
    """Draws T frames of each segment; a segment shorter than T is widened, as far as the video goes."""
    segments, count = stream.segments, stream.snippet_frames
    length = min(max(-(-frames // segments), count), frames)
    firsts = np.rint(np.linspace(0, frames - length, segments)).astype(np.int64)
    drawn = [np.sort(generator.choice(length, count, replace=length < count)) for _ in firsts]
    return firsts[:, None] + np.stack(drawn)
