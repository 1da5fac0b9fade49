"""Planned clips become frames, video files, a manifest and the truth about every movement.

The manifest is written last: a folder that has one is complete.
"""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from ptune.cohort.synthetic.config import SyntheticConfig
from ptune.cohort.synthetic.gait import HEIGHT_M, gait_limbs
from ptune.cohort.synthetic.hand import hand_limbs
from ptune.cohort.synthetic.kinematics import Floats, HandMotion, gait_signals, hand_opening
from ptune.cohort.synthetic.limbs import FIXED_POINT, Image, Limbs, draw_limbs, outlines
from ptune.cohort.synthetic.plan import ClipPlan, plan_cohort
from ptune.cohort.synthetic.scene import CameraPath, Room, camera_path, lamp, light_direction
from ptune.cohort.truth import TRUTH
from ptune.home import sha256_file, write_atomic, write_json
from ptune.progress import progress

MANIFEST = "cohort.csv"
COLUMNS = ("video", "subject", "task", "score", "side", "visit")
OVERSAMPLING = 2
#: Palm length and person's height as fractions of the frame's height.
PALM, PERSON = 0.335, 0.80
#: A stretched hand reaches from -0.9 to 2.2 palm lengths about its wrist; its middle goes to the middle of the frame.
HAND_MIDDLE = 0.78
FLOOR = 0.44
REFERENCE_WIDTH = 340
#: Without macroblock trees: with them, x264 gave other bytes for the same frames about once in 300 clips. `qcomp` is
#: set where neither slow nor fast movement makes the larger file.
X264 = "no-mbtree=1:rc-lookahead=0:qcomp=0.73"
QUALITY = {"crf": "20", "preset": "veryfast", "bf": "0", "threads": "1", "x264-params": X264}


@dataclass(frozen=True)
class ClipFrames:
    """One drawn clip.

    Args:
        frames: uint8 [T,H,W,3] RGB.
        signal: [T] hand opening as a fraction, or the walker's position in metres.
        camera: the camera's path.
        boxes_px: [T,4] left, top, right, bottom of what the frame shows of the figure.
    """

    frames: Image
    signal: Floats
    camera: CameraPath
    boxes_px: Floats


def render_cohort(folder: Path, *configs: SyntheticConfig) -> Path:
    """Writes videos, `ground_truth.json` and, last, `cohort.csv`; returns the path of the manifest.

    Args:
        folder: made if missing; files of an earlier cohort there are replaced.
        configs: what to draw; with several, one for each task, every task has a folder of its own and all one manifest.
            With one seed it is the same people who do every task.
    """
    manifest = folder / MANIFEST
    manifest.unlink(missing_ok=True)
    clips = [(plan, config) for config in configs for plan in plan_cohort(config)]
    truth = []
    with progress("render", len(clips)) as bar:
        for plan, config in clips:
            clip = render_clip(plan, config)
            name = f"{config.task}/{plan.file}" if len(configs) > 1 else plan.file
            write_atomic(folder / name, lambda path, frames=clip.frames, fps=config.fps: encode(path, frames, fps))  # type: ignore[misc]
            truth.append({"video": name, "sha256": sha256_file(folder / name)} | _truth(plan, clip, config))
            bar.advance()
    settings = [config.model_dump(mode="json") for config in configs]
    write_json(folder / TRUTH, {"configs": settings, "clips": truth})
    write_atomic(manifest, lambda path: _write_manifest(path, truth))
    return manifest


def render_clip(plan: ClipPlan, config: SyntheticConfig) -> ClipFrames:
    """Returns the frames of one planned clip."""
    limbs, signal, unit_px, walker_px = _figure(plan, config)
    camera = camera_path(config, plan.look, plan.frames, walker_px)
    size = config.width, config.height
    ends = camera.to_canvas(limbs.ends, *size, OVERSAMPLING)
    radii = limbs.radii * unit_px * camera.zoom[:, None, None] * OVERSAMPLING
    light = light_direction(plan.look)
    shapes = outlines(ends, radii, light)
    colours = limbs.colours * lamp(plan.look)
    room = Room(config, plan.look)
    still = room.canvas(camera.x_px[0], camera.y_px[0], camera.zoom[0], OVERSAMPLING) if camera.still else None
    grain = _Grain(plan.look.noise, size, np.random.default_rng([plan.look.room_seed, 1]))
    frames = np.empty((plan.frames, config.height, config.width, 3), np.uint8)
    for index in range(plan.frames):
        view = (camera.x_px[index], camera.y_px[index], camera.zoom[index])
        canvas = still.copy() if still is not None else room.canvas(*view, OVERSAMPLING)
        draw_limbs(canvas, shapes[index], colours[index], limbs.orders[limbs.order_of[index]])
        frames[index] = grain.over(np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)))
    corners = shapes[:, :, 0].reshape(plan.frames, -1, 2) / (FIXED_POINT * OVERSAMPLING)
    boxes = np.clip(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1), 0, size + size)
    return ClipFrames(frames, signal, camera, boxes)


def encode(path: Path, frames: Image, fps: float) -> None:
    """Writes frames as H.264 in MP4, without dates and the same bytes for the same frames."""
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=dict(QUALITY))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


class _Grain:
    """Sensor noise: a fixed field of it, read at another place for every frame."""

    def __init__(self, deviation: float, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.width, self.height = size
        self.rng = rng
        field = rng.normal(0, deviation, (self.height + 64, self.width + 64, 3)) * np.array([1.0, 0.8, 1.1])
        self.field = np.clip(np.rint(field), -60, 60).astype(np.int16)

    def over(self, image: Image) -> Image:
        y, x = self.rng.integers(64, size=2).tolist()
        patch = self.field[y : y + self.height, x : x + self.width]
        return np.asarray(cv2.add(image, patch, dtype=cv2.CV_8U))


def _figure(plan: ClipPlan, config: SyntheticConfig) -> tuple[Limbs, Floats, float, npt.NDArray[np.float64] | None]:
    """Returns limbs in room pixels (radii in own units), the signal, pixels per unit and a walker's path in pixels."""
    look, subject, motion = plan.look, plan.subject, plan.motion
    time = np.arange(plan.frames) / plan.fps
    tremor = subject.tremor_px * config.width / REFERENCE_WIDTH / 2 * (subject.tremor_hz > 0)
    wobble = tremor * np.sin(2 * math.pi * subject.tremor_hz * time + look.tremor_phase)
    scale = look.scale * subject.size * config.height
    drift = np.array([(look.centre_x - 0.5) * config.width, look.centre_y * config.height])
    walker_px = None
    if isinstance(motion, HandMotion):
        signal = hand_opening(motion, plan.seconds, plan.frames, plan.fps)
        limbs = hand_limbs(signal, subject, look, plan.side)
        unit = PALM * scale
        origin = np.array([0.0, HAND_MIDDLE * unit])
    else:
        unit = PERSON / HEIGHT_M * scale
        reach = max(0.25, (0.42 * config.width - abs(drift[0])) / unit - 0.35)
        walk = gait_signals(motion, plan.seconds, plan.frames, plan.fps, reach)
        signal, walker_px = walk.position_m, walk.position_m * unit
        limbs = gait_limbs(walk, motion, subject, plan.fps)
        origin = np.array([0.0, FLOOR * config.height])
    ends = limbs.ends * np.array([unit, -unit]) + origin + drift
    ends[:, list(limbs.hands)] += wobble[:, None, None, None] * np.array([0.8, 0.6])
    return replace(limbs, ends=ends), signal, unit, walker_px


def _truth(plan: ClipPlan, clip: ClipFrames, config: SyntheticConfig) -> dict[str, Any]:
    signal = "opening_fraction" if config.task == "hand" else "position_m"
    camera = {"x_px": clip.camera.x_px, "y_px": clip.camera.y_px, "zoom": clip.camera.zoom}
    return {
        "subject": asdict(plan.subject),
        "side": plan.side,
        "visit": plan.visit,
        "task": config.task,
        "severity": plan.severity,
        "score": plan.score,
        "frames": plan.frames,
        "seconds": plan.seconds,
        "motion": asdict(plan.motion),
        "look": asdict(plan.look),
        "box_px": np.round(clip.boxes_px.mean(axis=0), 2).tolist(),
        signal: np.round(clip.signal, 4).tolist(),
        "camera": {name: np.round(values, 4).tolist() for name, values in camera.items()},
    }


def _write_manifest(path: Path, truth: list[dict[str, Any]]) -> None:
    # A walk has no side.
    rows = [
        clip | {"subject": clip["subject"]["name"], "side": clip["side"] if clip["task"] == "hand" else ""}
        for clip in truth
    ]
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
