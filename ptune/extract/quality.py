"""Frames and flow of a video become figures that tell whether it can be trusted, and a fingerprint that finds copies.

Knows nothing of files or workers. Figures are counts, integers and per-frame values, so that a video looked at in
chunks, by whomever, gives the same figures as one looked at whole.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ptune.extract.flow import FLOW_LIMIT, FLOW_UNIT

Counts = npt.NDArray[np.int64]

#: Histogram steps: 1/64 px/frame for flow, 1/256 px/frame per px for boundaries, in the integers that they come in.
FLOW_STEP, BOUNDARY_STEP = 16, 8
#: Boundaries are differences of stored flow over two pixels: this many px/frame per px.
BOUNDARY_UNIT = FLOW_UNIT / 2
BINS = 4096
#: Camera motion is read from every sixteenth pixel; what a fit leaves counts as noise up to some px/frame.
GRID = 16
FIT_ROUNDS = 8
FIT_FLOOR = 0.01

PRINT_FRAMES, PRINT_SIZE = 24, (16, 12)
#: Gray levels by which a fingerprint's pixels must vary over time; a still video has no fingerprint.
PRINT_CONTRAST = 0.5
#: Between re-encoded copies, which correlate by 0.84 and more, and other clips, which stay below 0.4 in one room.
SAME_RECORDING = 0.6


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
        values, clipped: flow components looked at, and those at the bound of what is stored.
        flow, boundary: histograms of absolute components.
        flow_sum, boundary_sum: of absolute components, in the integers that they come in.
        sharpness, brightness: by frame number; variance of the Laplacian, mean gray level.
        camera: by number of the pair.
        repeated: pairs of equal frames.
    """

    values: int = 0
    clipped: int = 0
    flow: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    boundary: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    flow_sum: int = 0
    boundary_sum: int = 0
    sharpness: dict[int, float] = field(default_factory=dict)
    brightness: dict[int, float] = field(default_factory=dict)
    camera: dict[int, Camera] = field(default_factory=dict)
    repeated: int = 0

    @classmethod
    def of(cls, first: int, gray: npt.NDArray[np.uint8], flow: npt.NDArray[np.int16]) -> VideoQuality:
        """Looks at frames and flow, of which every second row and column.

        Args:
            first: number of the first frame.
            gray: uint8 [T,H,W].
            flow: int16 [T-1,H,W,2] in 1/1024 px/frame.
        """
        found = cls()
        for number, frame in enumerate(gray, first):
            found.sharpness[number] = float(cv2.Laplacian(frame, cv2.CV_32F).var())
            found.brightness[number] = float(frame.mean())
        found.repeated = sum(np.array_equal(one, other) for one, other in pairwise(gray))
        for number, pair in enumerate(flow, first):
            found._add_pair(number, pair)
        return found

    def _add_pair(self, number: int, flow: npt.NDArray[np.int16]) -> None:
        size = np.abs(flow[::2, ::2].astype(np.int32))
        self.values += size.size
        self.clipped += int((size >= FLOW_LIMIT).sum())
        self.flow_sum += int(size.sum())
        self.flow += _histogram(size, FLOW_STEP)
        wide = flow.astype(np.int32)
        along_x = wide[1:-1:2, 2::2] - wide[1:-1:2, :-2:2]
        along_y = wide[2::2, 1:-1:2] - wide[:-2:2, 1:-1:2]
        edges = np.abs(along_x + along_y)
        self.boundary_sum += int(edges.sum())
        self.boundary += _histogram(edges, BOUNDARY_STEP)
        self.camera[number] = camera_motion(flow)

    @classmethod
    def merged(cls, parts: Iterable[VideoQuality]) -> VideoQuality:
        """Returns what is known of several stretches of one video."""
        whole = cls()
        for part in parts:
            whole.values += part.values
            whole.clipped += part.clipped
            whole.flow = whole.flow + part.flow
            whole.boundary = whole.boundary + part.boundary
            whole.flow_sum += part.flow_sum
            whole.boundary_sum += part.boundary_sum
            whole.sharpness |= part.sharpness
            whole.brightness |= part.brightness
            whole.camera |= part.camera
            whole.repeated += part.repeated
        return whole

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values from which `from_json` makes the same."""
        return vars(self) | {"flow": _sparse(self.flow), "boundary": _sparse(self.boundary)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VideoQuality:
        """Returns what `to_json` was called on."""
        numbered = {
            name: {int(key): value for key, value in values[name].items()} for name in ("sharpness", "brightness")
        }
        camera = {int(key): Camera(*value) for key, value in values["camera"].items()}
        counts = {name: _dense(values[name]) for name in ("flow", "boundary")}
        return cls(**{**values, **numbered, **counts, "camera": camera})

    def summary(self) -> dict[str, float]:
        """Returns figures of a whole video: flow in px/frame, boundaries in px/frame per px, and, of the camera, speed
        in px/frame, growth and roll per frame, and shake, the change of its speed from frame to frame, in px/frame.
        """
        count = max(self.values, 1)
        camera = np.array([self.camera[number] for number in sorted(self.camera)]).reshape(-1, 4)
        sharpness = np.array([self.sharpness[number] for number in sorted(self.sharpness)])
        speed = np.hypot(camera[:, 0], camera[:, 1])
        shake = np.hypot(*np.diff(camera[:, :2], axis=0).T)
        return {
            "clipped_share": self.clipped / count,
            "flow_mean": self.flow_sum * FLOW_UNIT / count,
            "flow_p999": _percentile(self.flow, 0.999) * FLOW_STEP * FLOW_UNIT,
            "boundary_mean": self.boundary_sum * BOUNDARY_UNIT / max(int(self.boundary.sum()), 1),
            "boundary_p999": _percentile(self.boundary, 0.999) * BOUNDARY_STEP * BOUNDARY_UNIT,
            "camera_speed_median": _quantile(speed, 0.5),
            "camera_speed_p95": _quantile(speed, 0.95),
            "camera_zoom_p95": _quantile(np.abs(camera[:, 2]), 0.95),
            "camera_roll_p95": _quantile(np.abs(camera[:, 3]), 0.95),
            "camera_shake": float(np.sqrt((shake**2).mean())) if len(shake) else 0.0,
            "sharpness_median": _quantile(sharpness, 0.5),
            "sharpness_p05": _quantile(sharpness, 0.05),
            "brightness_mean": float(np.mean([self.brightness[number] for number in sorted(self.brightness)])),
            "repeated_share": self.repeated / max(len(self.camera), 1),
        }


def camera_motion(flow: npt.NDArray[np.int16]) -> Camera:
    """Returns the motion that most of the picture shares; a person in front of a fixed camera does not move it.

    A similarity is fitted to the flow by least squares, again and again, with weights that fall with what it leaves.

    Args:
        flow: int16 [H,W,2] in 1/1024 px/frame.
    """
    coarse = flow[GRID // 2 :: GRID, GRID // 2 :: GRID].astype(np.float64) * FLOW_UNIT
    y, x = np.indices(coarse.shape[:2], float).reshape(2, -1) * GRID
    x += GRID // 2 - (flow.shape[1] - 1) / 2
    y += GRID // 2 - (flow.shape[0] - 1) / 2
    one, zero = np.ones_like(x), np.zeros_like(x)
    # Columns: shift in x, shift in y, growth, roll.
    design = np.stack([np.stack([one, zero, x, -y], -1), np.stack([zero, one, y, x], -1)])
    target = coarse.reshape(-1, 2).T
    motion = np.array([*np.median(target, axis=1), 0.0, 0.0])
    for _ in range(FIT_ROUNDS if len(x) > 1 else 0):
        left = np.hypot(*(target - design @ motion))
        weight = 1 / (1 + (left / max(float(np.median(left)), FIT_FLOOR)) ** 2)
        weighted = design * weight[:, None]
        normal = np.einsum("cpi,cpj->ij", weighted, design)
        motion = np.linalg.solve(normal, np.einsum("cpi,cp->i", weighted, target))
    return Camera(*(float(value) for value in motion))


def fingerprint(frame_at: Callable[[int], npt.NDArray[np.uint8]], frames: int) -> str:
    """Returns what a recording looks like over time, whatever its codec, size and rate; "" if nothing moves in it.

    Gray pictures of 16x12 pixels at 24 equal steps of time, less the mean picture, which many recordings in one room
    share, and less each picture's mean, which follows the exposure.

    Args:
        frame_at: returns frame i, uint8 [H,W,3].
        frames: how many there are.
    """
    chosen = ((np.arange(PRINT_FRAMES) + 0.5) / PRINT_FRAMES * frames).astype(int)
    small = [cv2.resize(frame_at(int(i)), PRINT_SIZE, interpolation=cv2.INTER_AREA) for i in chosen]
    gray = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in small]).astype(np.float32)
    moving = gray - gray.mean(0)
    moving -= moving.mean((1, 2), keepdims=True)
    spread = float(moving.std())
    if spread < PRINT_CONTRAST:
        return ""
    return base64.b64encode(np.clip(np.rint(moving * (24 / spread)), -127, 127).astype(np.int8).tobytes()).decode()


def similarities(prints: Iterable[str]) -> npt.NDArray[np.float32]:
    """Returns the correlation of every fingerprint with every other, float32 [N,N] in [-1,1]."""
    rows = np.stack([np.frombuffer(base64.b64decode(text), np.int8) for text in prints]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: npt.NDArray[np.float32] = rows @ rows.T
    return found


def duplicates(prints: Mapping[str, str], subjects: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns pairs of ids that show the same recording under two subjects.

    Args:
        prints: id to fingerprint; empty ones match nothing.
        subjects: id to subject.
    """
    ids = sorted(video_id for video_id, text in prints.items() if text)
    if len(ids) < 2:
        return []
    same = np.argwhere(np.triu(similarities(prints[video_id] for video_id in ids) >= SAME_RECORDING, 1))
    pairs = [(ids[one], ids[other]) for one, other in same]
    return [(one, other) for one, other in pairs if subjects[one] != subjects[other]]


def _histogram(values: npt.NDArray[np.int32], step: int) -> Counts:
    return np.bincount(np.minimum(values // step, BINS - 1).ravel(), minlength=BINS)


def _percentile(counts: Counts, share: float) -> int:
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum())) + 1 if counts.any() else 0


def _quantile(values: npt.NDArray[np.float64], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else 0.0


def _sparse(counts: Counts) -> dict[str, list[int]]:
    filled = np.flatnonzero(counts)
    return {"bins": filled.tolist(), "counts": counts[filled].tolist()}


def _dense(values: Mapping[str, list[int]]) -> Counts:
    counts = np.zeros(BINS, np.int64)
    counts[values["bins"]] = values["counts"]
    return counts
