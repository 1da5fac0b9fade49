"""What an extraction would take, before it starts: frames by the videos' headers, time by solving a few real pairs.

Writes nothing and needs no Ray.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptune.cohort.manifest import Video
from ptune.config.extraction import ExtractConfig
from ptune.errors import VideoError
from ptune.extract.decode import Part, probe
from ptune.extract.flow import backend_named, default_backend, to_gray, tvl1
from ptune.extract.isolation import Decoder
from ptune.extract.store import open_store
from ptune.home import Home

#: Videos that are tried, and the pairs of each.
SAMPLED_VIDEOS, SAMPLED_PAIRS = 5, 3
#: Bytes of a stored pixel: three of RGB, two times two of flow.
PIXEL_BYTES = 7
#: Of the working size that `keep_aspect` leaves open, when no video says.
USUAL_ASPECT = 16 / 9


@dataclass(frozen=True)
class Estimate:
    """The cost of an extraction.

    Args:
        videos: to be extracted.
        reused: whose records are there.
        uncounted: whose headers do not say how many frames they have; `frames` leaves them out.
        frames: of the videos to be extracted.
        seconds_per_pair: decoding and solving one pair of frames on one worker; None if no video could be read.
        workers: assumed.
        backend: measured.
        bytes_needed: by the store.
        bytes_free: on its disk; None where it lies in an object store, which does not say.
    """

    videos: int
    reused: int
    uncounted: int
    frames: int
    seconds_per_pair: float | None
    workers: int
    backend: str
    bytes_needed: int
    bytes_free: int | None

    @property
    def hours(self) -> float | None:
        """Wall time on `workers` workers."""
        if self.seconds_per_pair is None:
            return None
        return self.frames * self.seconds_per_pair / self.workers / 3600

    @property
    def fits(self) -> bool:
        """Whether the disk has room, as far as is known."""
        return self.bytes_free is None or self.bytes_needed <= self.bytes_free

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self) | {"hours": self.hours, "fits": self.fits}

    def text(self) -> str:
        """Returns a few lines for a terminal."""
        lines = [f"{self.videos} videos to extract, {self.frames} frames; {self.reused} videos are there already"]
        if self.uncounted:
            lines.append(f"{self.uncounted} videos do not say how many frames they have and are not counted")
        if self.seconds_per_pair is not None and self.hours is not None:
            rate = 1 / self.seconds_per_pair
            lines.append(
                f"{_duration(self.hours)} on {self.workers} workers, at {rate:.3g} pairs of frames/s each, "
                f"measured with the {self.backend} backend"
            )
        needed = f"{self.bytes_needed / 1e9:.3g} GB"
        if self.bytes_free is None:
            lines.append(f"{needed} of the object store needed")
        else:
            free = f"{self.bytes_free / 1e9:.3g} GB free"
            lines.append(f"{needed} of disk needed, {free}" + ("" if self.fits else ": TOO LITTLE"))
        return "\n".join(lines)


def estimate(
    videos: Sequence[Video], config: ExtractConfig, home: Home, workers: int | None = None, backend: str | None = None
) -> Estimate:
    """Returns what extracting `videos` would take.

    Args:
        workers: assumed; default the cores of this machine.
        backend: default the GPU's where there is one.

    Raises:
        ConfigError: there is no such backend.
    """
    backend = backend or default_backend()
    backend_named(backend)
    store = open_store(home.features, config)
    pending = [video for video in videos if not store.has(video.id)]
    counts = [probe(video.path, Part(video.start_seconds, video.end_seconds)) for video in pending]
    frames = sum(count or 0 for count in counts)
    # Spread over the manifest, in which one camera's videos often stand together.
    sampled = [pending[int(i)] for i in np.linspace(0, len(pending) - 1, min(SAMPLED_VIDEOS, len(pending)))]
    speeds = [speed for video in sampled if (speed := _seconds_per_pair(video, config, backend)) is not None]
    width = round(config.height * USUAL_ASPECT) if config.keep_aspect else config.width
    return Estimate(
        videos=len(pending),
        reused=len(videos) - len(pending),
        uncounted=sum(not count for count in counts),
        frames=frames,
        seconds_per_pair=sum(speeds) / len(speeds) if speeds else None,
        workers=workers or os.cpu_count() or 1,
        backend=backend,
        bytes_needed=frames * width * config.height * PIXEL_BYTES,
        bytes_free=shutil.disk_usage(home.features).free if isinstance(home.features, Path) else None,
    )


def _seconds_per_pair(video: Video, config: ExtractConfig, backend: str) -> float | None:
    backend_named(backend).warm_up()
    try:
        with Decoder() as decoder:
            found = decoder.frames(video.path, config)
            # The first frame bears the cost of opening the file.
            frames = [next(found)]
            start = time.perf_counter()
            frames += itertools.islice(found, SAMPLED_PAIRS)
            if len(frames) < 2:
                return None
            tvl1(to_gray(np.stack(frames)), backend, config.flow)
            return (time.perf_counter() - start) / (len(frames) - 1)
    except (VideoError, StopIteration):
        return None


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
