"""A look becomes a room with its light, and camera switches become a path of the camera.

The room is larger than the frame, so that a moving camera never sees its edge. Knows nothing of limbs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ptune.cohort.synthetic.config import SyntheticConfig
from ptune.cohort.synthetic.limbs import Floats, Image
from ptune.cohort.synthetic.plan import Look

Pixels = npt.NDArray[np.float32]

#: Room beyond each edge of the frame, as a fraction of the frame's width.
MARGIN = 0.35
PAN_PEAK, SHAKE_SD, ZOOM_PEAK = (0.05, 0.10), 0.006, (0.08, 0.16)
PAN_HZ, SHAKE_HZ, ZOOM_HZ = (0.2, 0.45), 1.5, (0.15, 0.4)
FOLLOW = (0.4, 0.8)
WARMTH = np.array([0.07, 0.0, -0.09])


@dataclass(frozen=True)
class CameraPath:
    """Where the camera looks at each frame.

    Args:
        x_px, y_px: [T] offset of the frame's centre from the room's centre, right and down positive.
        zoom: [T] magnification.
    """

    x_px: Floats
    y_px: Floats
    zoom: Floats

    @property
    def still(self) -> bool:
        """True if every frame sees the same part of the room."""
        return bool(np.ptp(self.x_px) == np.ptp(self.y_px) == np.ptp(self.zoom) == 0)

    def to_canvas(self, points_px: Floats, width: int, height: int, oversampling: int) -> Floats:
        """Brings room points [T,...,2], from the centre of the room and y down, to the canvas of each frame."""
        shape = (-1,) + (1,) * (points_px.ndim - 2)
        x = (points_px[..., 0] - self.x_px.reshape(shape)) * self.zoom.reshape(shape) + width / 2
        y = (points_px[..., 1] - self.y_px.reshape(shape)) * self.zoom.reshape(shape) + height / 2
        return np.stack([x, y], axis=-1) * oversampling


def camera_path(config: SyntheticConfig, look: Look, frames: int, walker_px: Floats | None) -> CameraPath:
    """Returns the camera's path; all of it is drawn without regard to the score.

    A pan sways by a sine of 5 to 10 % of the width; where it has a walker to follow, it goes a part of the walker's way
    as well. Shaking is low-pass noise of about 0.6 % of the width, zooming a sine of 8 to 16 %.
    """
    rng = np.random.default_rng(look.camera_seed)
    time = np.arange(frames) / config.fps
    sway = rng.uniform(*PAN_PEAK) * config.width * _sine(time, PAN_HZ, rng)
    share = rng.uniform(*FOLLOW)
    x_px, y_px, zoom = np.zeros(frames), np.zeros(frames), np.ones(frames)
    if config.pan:
        x_px += sway + (share * walker_px if walker_px is not None else 0.0)
    jitter = [_wander(time, rng) * SHAKE_SD * config.width for _ in range(2)]
    if config.shake:
        x_px, y_px = x_px + jitter[0], y_px + jitter[1]
    breath = rng.uniform(*ZOOM_PEAK) * _sine(time, ZOOM_HZ, rng)
    if config.zoom:
        zoom += breath
    return CameraPath(x_px, y_px, zoom)


class Room:
    """The background of one clip, lit; `canvas` shows it as a camera sees it."""

    def __init__(self, config: SyntheticConfig, look: Look) -> None:
        self.width, self.height = config.width, config.height
        self.margin = math.ceil(MARGIN * config.width)
        size = (config.width + 2 * self.margin, config.height + 2 * self.margin)
        rng = np.random.default_rng(look.room_seed)
        floor_y = self.margin + round((0.90 if config.task == "gait" else rng.uniform(0.75, 1.2)) * config.height)
        room = _walls(size, floor_y, config.height, rng)
        self.image = np.clip(room * _light(size, look), 0, 255).astype(np.uint8)

    def canvas(self, x_px: float, y_px: float, zoom: float, oversampling: int) -> Image:
        """Returns what the camera sees, uint8 [height * oversampling, width * oversampling, 3] RGB."""
        scale = zoom * oversampling
        centre_x, centre_y = self.width / 2 + self.margin + x_px, self.height / 2 + self.margin + y_px
        half = (oversampling - 1) / 2
        matrix = np.array(
            [
                [scale, 0, self.width / 2 * oversampling - scale * centre_x + half],
                [0, scale, self.height / 2 * oversampling - scale * centre_y + half],
            ]
        )
        size = (self.width * oversampling, self.height * oversampling)
        return np.asarray(
            cv2.warpAffine(self.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        )


def light_direction(look: Look) -> tuple[float, float]:
    """Returns the unit vector in the image towards the light, y down; light comes from above more than from below."""
    x, y = math.cos(math.radians(look.light_deg)), math.sin(math.radians(look.light_deg)) - 0.8
    length = math.hypot(x, y) or 1.0
    return x / length, y / length


def lamp(look: Look) -> Floats:
    """Returns the light's factor on red, green and blue [3]."""
    return look.exposure * (1 + look.warmth * WARMTH)


def _walls(size: tuple[int, int], floor_y: int, height: int, rng: np.random.Generator) -> Pixels:
    width, tall = size
    image = np.empty((tall, width, 3), np.float32)
    wall = rng.uniform(60, 205) + rng.uniform(-20, 20, 3)
    image[:] = wall
    image[min(floor_y, tall) :] = np.clip(wall * rng.uniform(0.5, 0.9) + rng.uniform(-20, 20, 3), 20, 235)
    cv2.line(image, (0, floor_y), (width, floor_y), (wall * 0.55).tolist(), max(1, height // 60))
    for _ in range(int(rng.integers(3, 8))):
        wide, high = (rng.uniform(0.12, 0.5, 2) * height).astype(int).tolist()
        x, y = int(rng.integers(0, width)), int(rng.integers(0, max(1, floor_y - high // 2)))
        colour = np.clip(wall + rng.normal(0, 28) + rng.normal(0, 16, 3), 15, 240)
        corner = (x + wide, min(y + high, floor_y))
        cv2.rectangle(image, (x, y), corner, (colour * 0.7).tolist(), -1, cv2.LINE_AA)
        inset = max(1, height // 80)
        if wide > 2 * inset and corner[1] - y > 2 * inset:
            cv2.rectangle(image, (x + inset, y + inset), (corner[0] - inset, corner[1] - inset), colour.tolist(), -1)
    for cells, strength in ((6, 9.0), (24, 6.0), (90, 5.0)):
        grid = rng.normal(0, strength, (max(2, cells * tall // width), cells)).astype(np.float32)
        image += np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC))[..., None]
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.4, height / 240)))


def _light(size: tuple[int, int], look: Look) -> Pixels:
    x, y = light_direction(look)
    across = np.linspace(-1, 1, size[0])[None, :] * x + np.linspace(-1, 1, size[1])[:, None] * y
    fall = 1 + look.light_fall / 2 * across / (abs(x) + abs(y))
    return np.asarray(fall[..., None] * lamp(look), np.float32)


def _sine(time: Floats, hz: tuple[float, float], rng: np.random.Generator) -> Floats:
    return np.sin(2 * math.pi * (rng.uniform(*hz) * time + rng.random()))


def _wander(time: Floats, rng: np.random.Generator) -> Floats:
    """Returns smooth noise [T] of standard deviation near 1: a sum of sines up to a few times SHAKE_HZ."""
    total = np.zeros_like(time)
    for octave in (0.5, 1.0, 1.7, 2.6):
        total += np.sin(2 * math.pi * (octave * SHAKE_HZ * rng.uniform(0.8, 1.2) * time + rng.random())) / octave
    return total / 1.66
