"""A video's record and its row in the manifest become what is known of it that has nothing to do with the movement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ptune.cohort.manifest import Video
from ptune.extract.flow import to_gray
from ptune.extract.store import FeatureStore

#: Of a record that does not state its brightness, so many frames are looked at.
LOOKED_AT = 8


@dataclass(frozen=True)
class Circumstances:
    """How a video came about.

    Args:
        duration: in seconds; None where the record does not say how fast its frames follow.
        brightness: mean gray level, 0 to 255.
        side, visit: as the manifest has them, "" where it does not say.
    """

    duration: float | None
    brightness: float
    side: str = ""
    visit: str = ""


def circumstances(videos: Iterable[Video], store: FeatureStore) -> dict[str, Circumstances]:
    """Returns the circumstances of each video by its id.

    Raises:
        FeatureError: a video has no features.
    """
    return {video.id: _of(video, store) for video in videos}


def _of(video: Video, store: FeatureStore) -> Circumstances:
    metadata = store.metadata(video.id)
    frames, fps = metadata["arrays"]["rgb"]["shape"][0], metadata["fps"]
    brightness = metadata["extra"].get("quality", {}).get("brightness_mean")
    if brightness is None:
        brightness = _brightness(store, video.id)
    return Circumstances(frames / fps if fps else None, float(brightness), video.side, video.visit)


def _brightness(store: FeatureStore, video_id: str) -> float:
    rgb = store.video(video_id).rgb
    chosen = np.unique(np.linspace(0, len(rgb) - 1, LOOKED_AT).astype(int))
    return float(to_gray(rgb[chosen]).mean())
