"""Packets become a survey of a video, and what is decoded is held against it.

Knows no file and no decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

#: Headers may count frames that no player shows, such as a last packet without a picture.
SPARE_FRAMES = 2
SPARE_SHARE = 0.02
#: Frames that may refer to a key frame before the first one.
LEADING_FRAMES = 8
#: Each packet of theirs gives a picture. Others have packets that only prepare later ones, or that repeat the last.
_PICTURE_EACH = ("h264", "hevc", "vp9", "libdav1d", "mpeg1video", "mpeg2video", "mjpeg", "ffv1", "prores")

Clock = Literal["pts", "dts", "count"]


@dataclass(frozen=True)
class Survey:
    """What the packets say before any is decoded.

    Args:
        stamps: int64 [T], when pictures are shown, in units of `tick`, ascending.
        clock: which of a picture's timestamps they are; "count" where the file has none.
        tick: seconds.
        keys: (packet, stamp) of key frames.
        packets: how many there are.
    """

    stamps: npt.NDArray[np.int64]
    clock: Clock
    tick: float
    keys: tuple[tuple[int, int], ...]
    packets: int

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds after the first picture, ascending, float64 [T]."""
        return np.asarray((self.stamps - self.stamps[:1]) * self.tick, np.float64)

    @property
    def interval(self) -> float:
        """Mean ticks between pictures."""
        return float(self.stamps[-1] - self.stamps[0]) / (len(self.stamps) - 1) if len(self.stamps) > 1 else 1.0


class Reading:
    """What one pass through a video has met so far.

    Args:
        survey: of the same video.
        codec: name of its decoder.
        first: packet at which the pass begins.
    """

    def __init__(self, survey: Survey, codec: str, first: int) -> None:
        self._survey, self._codec, self.first = survey, codec, first
        self._delay: int | None = None
        self._met = np.zeros(len(survey.stamps), bool)
        self._stamp: float | None = None
        self._shape: tuple[int, int, str] | None = None
        self._fields = False
        self.count = 0

    def problem(self, frame: Any) -> str:
        """Returns what is wrong with a frame; empty if nothing is."""
        if frame.is_corrupt:
            return f"frame {self.count} is marked corrupt by its decoder"
        if self.changed(frame):
            return f"the size or pixel format changes at frame {self.count}"
        return ""

    def changed(self, frame: Any) -> bool:
        """Returns whether a frame has another size or pixel format than the first one."""
        shape = frame.width, frame.height, frame.format.name
        self._shape = self._shape or shape
        return shape != self._shape

    def seconds(self, frame: Any) -> float:
        """Counts a frame, and returns its time after the first one in the file."""
        stamp = self._next(frame)
        where = np.searchsorted(self._survey.stamps, stamp)
        if where < len(self._met):
            self._met[where] |= self._survey.stamps[where] == stamp
        self._fields = self._fields or frame.interlaced_frame
        self._stamp = stamp
        self.count += 1
        return float(stamp - self._survey.stamps[0]) * self._survey.tick if len(self._met) else 0.0

    def _next(self, frame: Any) -> float:
        stamps, clock = self._survey.stamps, self._survey.clock
        if clock == "pts" and frame.pts is not None:
            return int(frame.pts)
        if clock == "dts" and frame.dts is not None:
            # A frame bears the time of the packet that brought it out, some packets after its own.
            where = int(np.searchsorted(stamps, frame.dts))
            self._delay = where - self.first if self._delay is None else self._delay
            place = max(0, where - self._delay)
        elif self._stamp is None:
            place = 0
        else:
            place = int(np.searchsorted(stamps, self._stamp, side="right"))
        if place < len(stamps):
            return int(stamps[place])
        return (self._stamp or 0.0) + self._survey.interval

    @property
    def ticks(self) -> int:
        """The last frame's timestamp."""
        return int(self._stamp or 0)

    @property
    def end_seconds(self) -> float:
        """When the last frame is shown, by the file's clock."""
        return (self._stamp or 0.0) * self._survey.tick

    @property
    def _counts(self) -> bool:
        # Fields may come in packets of their own.
        return self._survey.clock == "pts" and self._codec in _PICTURE_EACH and not self._fields

    def holes(self) -> int:
        """Returns how many packets before the last frame gave none.

        Few at the beginning are forgiven: they refer to what stands before a clean cut.
        """
        met = np.flatnonzero(self._met)
        if not self._counts or not len(met):
            return 0
        first = 0 if self.first == 0 and met[0] > LEADING_FRAMES else met[0]
        return int(met[-1] + 1 - first - len(met))

    def lacks_end(self) -> bool:
        """Returns whether clearly more packets follow the last frame than may stay without a picture."""
        met = np.flatnonzero(self._met)
        if not self._counts or not len(met):
            return False
        return bool(len(self._met) - 1 - met[-1] > max(SPARE_FRAMES, SPARE_SHARE * len(self._met)))
