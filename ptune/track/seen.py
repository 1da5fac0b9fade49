"""The videos that a model learned from become ranges, and a new video the flags of what none of those had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from ptune.config import StreamConfig, Strict
from ptune.extract.store import FeatureStore, VideoFeatures

Range = tuple[float, float]

#: Frame rates this close to a range are in it: 29.97 is no other rate than 30.
RATE_TOLERANCE = 0.01


class Seen(Strict):
    """Least and greatest value over all videos, nothing of a single one; None where no record states it.

    Args:
        seconds: length.
        source_fps: frames per second of the file.
        camera_speed: how fast the camera moves at its fastest (95th percentile), in px/frame of the working size.
        camera_shake: change of that speed from frame to frame, in px/frame.
    """

    seconds: Range | None = None
    source_fps: Range | None = None
    camera_speed: Range | None = None
    camera_shake: Range | None = None

    @classmethod
    def of(cls, store: FeatureStore, video_ids: Iterable[str]) -> Self:
        """Returns the ranges of stored videos.

        Raises:
            FeatureError: a video has no features.
        """
        found: dict[str, list[float]] = {}
        for video_id in video_ids:
            metadata = store.metadata(video_id)
            frames = metadata["arrays"]["rgb"]["shape"][0]
            for name, value in _circumstances(metadata["extra"], frames, metadata["fps"]).items():
                found.setdefault(name, []).append(value)
        return cls(**{name: (min(values), max(values)) for name, values in found.items()})


def flags(seen: Seen, features: VideoFeatures, facts: Mapping[str, Any], streams: Iterable[StreamConfig]) -> list[str]:
    """Returns what makes the scores of a video doubtful, none where nothing does.

    `too_short`: a snippet of some stream is longer than the video, or every video of training was longer.
    `frame_rate`: no video of training had so few or so many frames per second.
    `camera_motion`: the camera moves or shakes more than in any video of training.

    Args:
        facts: what extraction says of the video.
        streams: their `test` is the protocol that scores the video.
    """
    own = _circumstances(facts, len(features.rgb), features.fps)
    found = []
    repeats = any(
        features.length(stream.modality) < (stream.test.frames - 1) * stream.frame_stride + 1 for stream in streams
    )
    if repeats or _below(own, seen, "seconds"):
        found.append("too_short")
    if _below(own, seen, "source_fps", RATE_TOLERANCE) or _above(own, seen, "source_fps", RATE_TOLERANCE):
        found.append("frame_rate")
    if _above(own, seen, "camera_speed") or _above(own, seen, "camera_shake"):
        found.append("camera_motion")
    return found


def _circumstances(extra: Mapping[str, Any], frames: int, fps: float) -> dict[str, float]:
    """Returns what a record states of the fields of `Seen`."""
    quality, video = extra.get("quality", {}), extra.get("video", {})
    stated = {
        "seconds": frames / fps if fps else None,
        "source_fps": video.get("source_fps") or None,
        "camera_speed": quality.get("camera_speed_p95"),
        "camera_shake": quality.get("camera_shake"),
    }
    return {name: float(value) for name, value in stated.items() if value is not None}


def _below(own: Mapping[str, float], seen: Seen, name: str, tolerance: float = 0.0) -> bool:
    bounds: Range | None = getattr(seen, name)
    return bounds is not None and name in own and own[name] < bounds[0] * (1 - tolerance)


def _above(own: Mapping[str, float], seen: Seen, name: str, tolerance: float = 0.0) -> bool:
    bounds: Range | None = getattr(seen, name)
    return bounds is not None and name in own and own[name] > bounds[1] * (1 + tolerance)
