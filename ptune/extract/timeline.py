"""Timestamps become a decision, pass frames on or resample them, and frames become evenly spaced ones.

Knows numbers only: no file, no decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

#: A longer silence between two frames is no held picture but a broken clock.
MAX_GAP_SECONDS = 10.0
#: Where a constant interval is long by itself, as in a slide show, only intervals so many times as long are gaps.
MAX_GAP_INTERVALS = 8
#: Resampling returns at most so many times the frames that there are, unless the user chose the rate.
MAX_GROWTH = 8
#: A stated rate is believed if it is so near to the rate that the timestamps show.
RATE_TOLERANCE = 0.02
#: The interval that so many frames share is the camera's; the others are its failures to keep it.
USUAL_SHARE = 0.6
#: A video whose frames are moved by less than this share of an interval has a constant rate.
MAX_SHIFT = 0.5

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Timeline:
    """What the timestamps of a video tell before any frame is decoded.

    Args:
        fps: mean frames per second; 0 where it is unknown.
        interval: seconds after which most frames follow each other, else their mean; 0 where it is unknown.
        variable: the timestamps are not those of a constant rate.
        target_fps: rate to resample to; None where frames are to be passed on as they are.
        gap: what is wrong with the clock, in words; empty where nothing is.
    """

    fps: float
    interval: float
    variable: bool
    target_fps: float | None
    gap: str


def plan(times: npt.ArrayLike, stated: Sequence[float], tick: float, wanted: float | None) -> Timeline:
    """Returns what to do with frames at these times.

    The rate is constant if each timestamp lies within half a frame of a straight line, so that a single late or lost
    frame changes nothing. A variable rate is replaced by the rate at which most frames follow each other, as far as
    that repeats few of them, else by the mean; in either case by the stated rate that is nearly the same, if there is
    one.

    Args:
        times: seconds, in any order.
        stated: frames per second as the file says, the most trusted first; zeros are passed over.
        tick: seconds to which timestamps are rounded.
        wanted: the user's rate, which goes before all others.
    """
    seconds = np.unique(np.asarray(times, float))
    if len(seconds) < 2:
        rate = next((rate for rate in stated if rate > 0), 0.0)
        return Timeline(rate, 1 / rate if rate else 0.0, False, wanted, "")
    intervals = np.diff(seconds)
    mean = float(intervals.mean())
    shift = seconds - seconds[0] - mean * np.arange(len(seconds))
    if np.ptp(shift) / 2 <= MAX_SHIFT * mean + tick:
        return Timeline(1 / mean, mean, False, wanted, "")
    usual, share = _usual(intervals)
    longest = int(intervals.argmax())
    if intervals[longest] > max(MAX_GAP_SECONDS, MAX_GAP_INTERVALS * usual):
        gap = f"{intervals[longest]:.0f} seconds without a picture after frame {longest}"
        return Timeline(1 / mean, usual, True, None, gap)
    interval = usual if share >= USUAL_SHARE and mean <= MAX_GROWTH * usual else mean
    rate = min((rate for rate in stated if rate > 0), key=lambda rate: abs(rate * interval - 1), default=0.0)
    believed = abs(rate * interval - 1) <= RATE_TOLERANCE
    return Timeline(1 / mean, interval, True, wanted or (rate if believed else 1 / interval), "")


def _usual(intervals: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns the interval that most others are near to, and the share that are."""
    median = np.median(intervals)
    near = abs(intervals - median) <= median / 4
    # Of intervals rounded to milliseconds the median is 33 or 34; the mean of those near it is not rounded.
    return float(intervals[near].mean()), float(near.mean())


class Resampler(Generic[Frame]):
    """Passes on, for each moment of a constant rate, the frame that is nearest in time.

    Args:
        fps: the constant rate; its first moment is the first frame's.
        hold: seconds that the last frame is shown.

    After the last frame, `repeated` says how many frames are copies of their predecessors, `dropped` how many frames
    were passed over.
    """

    def __init__(self, fps: float, hold: float) -> None:
        self.fps, self.hold = fps, hold
        self.repeated = self.dropped = 0

    def __call__(self, frames: Iterable[tuple[float, Frame]]) -> Iterator[Frame]:
        """Yields frames; a repeated one is the same object again.

        Args:
            frames: (seconds, frame) in presentation order.
        """
        moment, start = 0, 0.0
        current: tuple[float, Frame] | None = None
        for seconds, frame in frames:
            if current is None:
                start = seconds
            else:
                count = self._moments(moment, (current[0] + seconds) / 2 - start)
                yield from self._shown(current[1], count)
                moment += count
            current = max(seconds, current[0] if current else seconds), frame
        if current is not None:
            # Timestamps in whole milliseconds must not make one more frame of the last one's end.
            yield from self._shown(current[1], self._moments(moment, current[0] + self.hold - start, slack=0.1))

    def _moments(self, first: int, until: float, slack: float = 1e-3) -> int:
        """Returns how many moments there are from the given one until some seconds after the start."""
        return max(0, int(np.ceil(until * self.fps - slack)) - first)

    def _shown(self, frame: Frame, count: int) -> Iterator[Frame]:
        self.dropped += count == 0
        self.repeated += max(0, count - 1)
        for _ in range(count):
            yield frame
