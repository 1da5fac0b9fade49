"""What OpenCV makes of a frame's size: the pyramid's sizes, how each level is resized, when its iterations settle.

Numbers only; knows nothing of devices. OpenCV's resizing of floats is that of its x86-64 builds on processors with
AVX2: neighbours are blended by a fused multiply-add, along rows first, with weights rounded from double precision.

Source: OpenCV 5.0.0 as measured against `cv2.resize`; the stopping rule is that of `ptune.extract.tvl1_cpu`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptune.config.extraction import TVL1Config
from ptune.extract.tvl1_cpu import MIN_LEVEL_SIDE

#: Rounding to single precision moves a value by at most this share of it.
_ROUNDING = 2.0**-24
#: OpenCV stretches by the ratio of sizes where that is the asked factor up to this share, else by the factor itself.
_SAME_FACTOR = 1e-10


@dataclass(frozen=True)
class Taps:
    """How one axis is resized: output i blends inputs `first[i]` and `first[i] + 1`, no further than the last.

    Args:
        first: int32 [N].
        weight: float32 [N], the share of the second input.
        length: of the input.
    """

    first: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]
    length: int

    @property
    def second(self) -> npt.NDArray[np.int32]:
        """The other input of each output, int32 [N]."""
        return np.minimum(self.first + 1, self.length - 1).astype(np.int32)


@dataclass(frozen=True)
class Level:
    """One scale of the pyramid, finest first.

    Args:
        height, width: in pixels.
        rows, columns: how the next finer level becomes this one; None at the finest.
    """

    height: int
    width: int
    rows: Taps | None = None
    columns: Taps | None = None

    @property
    def pixels(self) -> int:
        """Pixels of a plane."""
        return self.height * self.width

    def threshold(self, config: TVL1Config) -> float:
        """The summed squared change of the flow, in px^2, at or below which a level is settled."""
        return float(np.float32(config.epsilon * config.epsilon * self.pixels))

    def slack(self) -> float:
        """The largest share by which OpenCV's one-by-one sum in single precision is off the sum of the changes."""
        return math.expm1((self.pixels + 1) * _ROUNDING)

    def enlarged(self, finer: Level) -> tuple[Taps, Taps]:
        """Returns how the rows and the columns of this level's flow become those of the next finer level."""
        return by_ratio(self.height, finer.height), by_ratio(self.width, finer.width)


def pyramid_levels(height: int, width: int, config: TVL1Config) -> tuple[Level, ...]:
    """Returns the scales that OpenCV makes of a frame."""
    levels = [Level(height, width)]
    factor = config.scale_step
    for _ in range(1, config.scales):
        last = levels[-1]
        # cv2 rounds half to even, as Python does.
        sides = round(last.height * factor), round(last.width * factor)
        if min(sides) < MIN_LEVEL_SIDE:
            break
        rows, columns = _shrunk((last.height, last.width), sides, factor)
        levels.append(Level(*sides, rows, columns))
    return tuple(levels)


def _shrunk(sides: tuple[int, int], smaller: tuple[int, int], factor: float) -> tuple[Taps, Taps]:
    off = max(abs(out / side - factor) / factor for side, out in zip(sides, smaller, strict=True))
    if sides == smaller or off <= _SAME_FACTOR:
        return by_ratio(sides[0], smaller[0]), by_ratio(sides[1], smaller[1])
    return _by_factor(sides[0], smaller[0], factor), _by_factor(sides[1], smaller[1], factor)


def by_ratio(length: int, outputs: int) -> Taps:
    """Returns the taps for `outputs` pixels in place of `length`."""
    place = (np.arange(outputs) + 0.5) * (length / outputs) - 0.5
    first = np.floor(place)
    weight = np.where((first < 0) | (first >= length - 1), 0, place - first)
    return Taps(np.clip(first, 0, length - 1).astype(np.int32), weight.astype(np.float32), length)


def _by_factor(length: int, outputs: int, factor: float) -> Taps:
    # Beyond the last pixel, OpenCV blends the last two with a weight of one: rounding makes that another number.
    place = np.clip((np.arange(outputs) + 0.5) * (1 / factor) - 0.5, 0, length - 1)
    first = np.minimum(np.floor(place), max(length - 2, 0))
    return Taps(first.astype(np.int32), (place - first).astype(np.float32), length)
