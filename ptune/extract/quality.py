"""Frames and flow of a video become figures that tell whether it can be trusted, and a fingerprint that finds copies.

Knows nothing of files or workers. Figures are counts, integers and per-frame values, so that a video looked at in
chunks, by whomever, gives the same figures as one looked at whole.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ptune.extract.flow import FLOW_LIMIT, FLOW_UNIT

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

#: Boundaries are differences of stored flow over two pixels: this many px/frame per px.
BOUNDARY_UNIT = FLOW_UNIT / 2
#: Every fourth row and column is looked at; not the border, where a difference would be one-sided.
STEP = 4
#: A bin holds the integers whose float32 agrees in the first 15 bits: up to 128 each has its own, further on bins are
#: at most 1.6 % wide. The last is for the largest boundary, 4 * 32767.
SHIFT, FIRST = 17, (127 << 6) - 1
BINS = (17 << 6) + 1
#: Camera motion is read from every sixteenth row and column.
GRID = 16

PRINT_FRAMES, PRINT_SIZE = 24, (16, 12)
PRINT_LENGTH = (PRINT_FRAMES + 1) * PRINT_SIZE[0] * PRINT_SIZE[1] * 4 // 3
#: Pixels of a fingerprint over which a difference counts, rather than being taken for a change of light.
PRINT_SIGMA = 2
#: Gray levels by which a fingerprint's pixels must vary over time; a still video has no fingerprint.
PRINT_CONTRAST = 0.25
#: Between 287 re-encoded copies (7 codecs, sizes, rates; trimmed; brighter and darker), which agree by 0.86 and more,
#: and 17,000 pairs of other clips, also of one room, which stay below 0.65.
SAME_RECORDING = 0.75


class Camera(NamedTuple):
    """Motion of the whole picture between two frames: px/frame to the right and down, growth and roll per frame."""

    x: float
    y: float
    zoom: float
    roll: float


@dataclass
class VideoQuality:
    """What is known of some consecutive frames and the flow between them.

    Args:
        flow, boundary: how many absolute components fall into each bin.
        flow_sum, boundary_sum: of absolute components, in the integers that they come in.
        clipped: flow components at the bound of what is stored.
        sharpness, brightness: by frame number; variance of the Laplacian, mean gray level.
        camera: by number of the pair.
        repeated: pairs of equal frames.
    """

    flow: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    boundary: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    flow_sum: int = 0
    boundary_sum: int = 0
    clipped: int = 0
    sharpness: dict[int, float] = field(default_factory=dict)
    brightness: dict[int, float] = field(default_factory=dict)
    camera: dict[int, Camera] = field(default_factory=dict)
    repeated: int = 0

    @classmethod
    def of(cls, first: int, gray: npt.NDArray[np.uint8], flow: npt.NDArray[np.int16]) -> VideoQuality:
        """Looks at frames and flow.

        Args:
            first: number of the first frame.
            gray: uint8 [T,H,W].
            flow: int16 [T-1,H,W,2] in 1/1024 px/frame.
        """
        found = cls(repeated=sum(np.array_equal(one, other) for one, other in pairwise(gray)))
        for number, frame in enumerate(gray, first):
            deviation = cv2.meanStdDev(cv2.Laplacian(frame, cv2.CV_16S))[1]
            found.sharpness[number] = _short(float(deviation[0, 0]) ** 2)
            found.brightness[number] = _short(cv2.mean(frame)[0])
        for number, pair in enumerate(flow, first):
            found._add_pair(number, pair)
        return found

    def _add_pair(self, number: int, flow: npt.NDArray[np.int16]) -> None:
        inside = slice(1, -1, STEP)
        size = np.abs(flow[inside, inside].astype(np.int32))
        edges = np.subtract(flow[inside, 2::STEP], flow[inside, :-2:STEP], dtype=np.int32)
        edges += flow[2::STEP, inside]
        edges -= flow[:-2:STEP, inside]
        edges = np.abs(edges)
        self.flow += _histogram(size)
        self.boundary += _histogram(edges)
        self.flow_sum += int(size.sum())
        self.boundary_sum += int(edges.sum())
        self.clipped += int((size >= FLOW_LIMIT).sum())
        self.camera[number] = Camera(*map(_short, camera_motion(flow)))

    @classmethod
    def merged(cls, parts: Iterable[VideoQuality]) -> VideoQuality:
        """Returns what is known of several stretches of one video; each may begin with the last frame of another."""
        whole = cls()
        for part in parts:
            for name, value in vars(part).items():
                before = getattr(whole, name)
                setattr(whole, name, before | value if isinstance(value, dict) else before + value)
        return whole

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values from which `from_json` makes the same; about 7 kB for 64 pairs."""
        return vars(self) | {"flow": _packed(self.flow), "boundary": _packed(self.boundary)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VideoQuality:
        """Returns what `to_json` was called on."""
        numbered = {
            name: {int(key): value for key, value in values[name].items()} for name in ("sharpness", "brightness")
        }
        camera = {int(key): Camera(*value) for key, value in values["camera"].items()}
        counts = {name: _unpacked(values[name]) for name in ("flow", "boundary")}
        return cls(**{**values, **numbered, **counts, "camera": camera})

    def summary(self) -> dict[str, float]:
        """Returns figures of a whole video: flow in px/frame, boundaries in px/frame per px, and, of the camera, speed
        in px/frame, growth and roll per frame, and shake, the change of its speed from frame to frame, in px/frame.
        """
        count = max(int(self.flow.sum()), 1)
        camera = np.array([self.camera[number] for number in sorted(self.camera)]).reshape(-1, 4)
        sharpness = np.array([self.sharpness[number] for number in sorted(self.sharpness)])
        brightness = np.array([self.brightness[number] for number in sorted(self.brightness)])
        speed = np.hypot(camera[:, 0], camera[:, 1])
        shake = np.diff(camera[:, :2], axis=0)
        return {
            "clipped_share": self.clipped / count,
            "flow_mean": self.flow_sum * FLOW_UNIT / count,
            **{f"flow_{name}": _percentile(self.flow, share) * FLOW_UNIT for name, share in SHARES.items()},
            "boundary_mean": self.boundary_sum * BOUNDARY_UNIT / count,
            **{f"boundary_{name}": _percentile(self.boundary, share) * BOUNDARY_UNIT for name, share in SHARES.items()},
            "camera_speed_median": _quantile(speed, 0.5),
            "camera_speed_p95": _quantile(speed, 0.95),
            "camera_zoom_median": _quantile(np.abs(camera[:, 2]), 0.5),
            "camera_zoom_p95": _quantile(np.abs(camera[:, 2]), 0.95),
            "camera_roll_median": _quantile(np.abs(camera[:, 3]), 0.5),
            "camera_roll_p95": _quantile(np.abs(camera[:, 3]), 0.95),
            "camera_shake": float(np.sqrt((shake**2).sum(1).mean())) if len(shake) else 0.0,
            "sharpness_median": _quantile(sharpness, 0.5),
            "sharpness_p05": _quantile(sharpness, 0.05),
            "brightness_mean": float(brightness.mean()) if len(brightness) else 0.0,
            "repeated_share": self.repeated / max(len(self.camera), 1),
        }


SHARES = {"p50": 0.5, "p95": 0.95, "p999": 0.999}


def camera_motion(flow: npt.NDArray[np.int16]) -> Camera:
    """Returns the motion that most of the picture shares, at its middle; a person who fills less than half of it and
    moves before a fixed camera does not count.

    Args:
        flow: int16 [H,W,2] in 1/1024 px/frame.

    Source: least median of squares, Rousseeuw 1984, for a similarity, as in OpenCV; its sampling is the same each time.
    """
    height, width = flow.shape[:2]
    step = max(1, min(GRID, height // 8, width // 8))
    moved = flow[step // 2 :: step, step // 2 :: step].reshape(-1, 2) * np.float32(FLOW_UNIT)
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    points = np.stack([columns - (width - 1) / 2, rows - (height - 1) / 2], -1).astype(np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(points, points + moved, method=cv2.LMEDS)
    if matrix is None:
        x, y = np.median(moved, axis=0).tolist()
        return Camera(x, y, 0.0, 0.0)
    growth, turn = complex(*matrix[:, 0]), float(np.arctan2(matrix[1, 0], matrix[0, 0]))
    return Camera(float(matrix[0, 2]), float(matrix[1, 2]), abs(growth) - 1, turn)


def fingerprint(frame_at: Callable[[int], npt.NDArray[np.uint8]], frames: int) -> str:
    """Returns what a recording looks like over time, whatever its codec, size, rate and light; "" if nothing moves.

    The mean picture, 16x12 pixels, and what moves before it at 24 equal steps of time: smoothed over three frames, less
    a parabola over time and less each pixel's surroundings, which leaves neither the exposure nor a person's slow way
    across the room. A shorter or cropped part of a recording has another fingerprint.

    Args:
        frame_at: returns frame i, uint8 [H,W,3].
        frames: how many there are.
    """
    middle = ((np.arange(PRINT_FRAMES) + 0.5) / PRINT_FRAMES * frames).astype(int)
    chosen = np.clip(middle[:, None] + [-1, 0, 1], 0, frames - 1)
    small = np.stack([np.mean([_tiny(frame_at(int(i))) for i in near], axis=0) for near in chosen])
    time = np.linalg.qr(np.vander(np.linspace(-1, 1, PRINT_FRAMES), 3))[0]
    flat = small.reshape(PRINT_FRAMES, -1)
    moving = (flat - time @ (time.T @ flat)).reshape(small.shape).astype(np.float32)
    moving -= np.stack([cv2.GaussianBlur(picture, (0, 0), PRINT_SIGMA) for picture in moving])
    if moving.std() < PRINT_CONTRAST:
        return ""
    still = small.mean(0) - small.mean()
    return base64.b64encode(b"".join(_int8(part) for part in (still, moving))).decode()


def similarities(prints: Iterable[str]) -> Floats:
    """Returns how far fingerprints agree with each other, float32 [N,N] in [-1,1].

    The lesser of two correlations, of the mean pictures and of what moves: people on the same way through different
    rooms differ in the one, people in the same room in the other.
    """
    rows = np.stack([np.frombuffer(base64.b64decode(text), np.int8) for text in prints]).astype(np.float32)
    pixels = PRINT_SIZE[0] * PRINT_SIZE[1]
    found: Floats = np.minimum(_correlations(rows[:, :pixels]), _correlations(rows[:, pixels:]))
    return found


def duplicates(prints: Mapping[str, str], subjects: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns pairs of ids that show the same recording under two subjects.

    Args:
        prints: id to fingerprint; empty ones match nothing, since still videos of one room cannot be told apart, nor do
            those of another length, which an older version took.
        subjects: id to subject.
    """
    ids = sorted(video_id for video_id, text in prints.items() if len(text) == PRINT_LENGTH)
    if len(ids) < 2:
        return []
    same = np.argwhere(np.triu(similarities(prints[video_id] for video_id in ids) >= SAME_RECORDING, 1))
    pairs = [(ids[one], ids[other]) for one, other in same]
    return [(one, other) for one, other in pairs if subjects[one] != subjects[other]]


def _tiny(frame: npt.NDArray[np.uint8]) -> Floats:
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.resize(gray, PRINT_SIZE, interpolation=cv2.INTER_AREA))


def _int8(values: npt.NDArray[Any]) -> bytes:
    scale = 127 / max(float(np.abs(values).max()), 1e-6)
    return np.rint(values * scale).astype(np.int8).tobytes()


def _correlations(rows: Floats) -> Floats:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    found: Floats = unit @ unit.T
    return found


def _histogram(values: npt.NDArray[np.int32]) -> Counts:
    bins = (values.astype(np.float32).ravel().view(np.int32) >> SHIFT) - FIRST
    return np.bincount(np.maximum(bins, 0), minlength=BINS)


def _percentile(counts: Counts, share: float) -> float:
    """Returns the largest integer of the bin that a share of the counted ones reach at most."""
    if not counts.any():
        return 0.0
    filled = np.cumsum(counts)
    index = int(np.searchsorted(filled, share * filled[-1]))
    end = np.array([index + FIRST + 1], np.int32) << SHIFT
    return float(np.ceil(end.view(np.float32)[0]) - 1) if index else 0.0


def _quantile(values: npt.NDArray[np.float64], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else 0.0


def _short(value: float) -> float:
    """Rounds to six digits, which a text file holds exactly."""
    return float(f"{value:.6g}")


def _packed(counts: Counts) -> str:
    return base64.b64encode(zlib.compress(counts.astype("<i8").tobytes(), 9)).decode()


def _unpacked(text: str) -> Counts:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8").astype(np.int64)
