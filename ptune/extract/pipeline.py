"""Videos become feature records, in parallel, each one whole or quarantined with a reason.

The only place that knows Ray Data. Tensors never pass through Ray: a worker decodes a video, computes its flow and
writes its record; one small row of facts comes back. A worker never raises, because Ray Data would drop the videos
beside the one that failed; what goes in is counted against what comes out.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptune.cluster import ray_session
from ptune.cohort.manifest import Video
from ptune.config.extraction import ExtractConfig
from ptune.errors import FeatureError, VideoError
from ptune.extract.boundary import MotionStatistics
from ptune.extract.decode import Decoded, decode
from ptune.extract.flow import (
    DEFAULT_BACKEND,
    FLOW_LIMIT,
    FLOW_UNIT,
    backend_named,
    dequantize,
    quantize,
    to_gray,
    tvl1,
)
from ptune.extract.store import FeatureStore, VideoFeatures, open_store
from ptune.home import Home, write_json
from ptune.progress import progress

QUARANTINE = "quarantine.json"
#: Pairs of frames solved at once: bounds the memory that float flow takes.
CHUNK_PAIRS = 64


class Quarantined(NamedTuple):
    """Why one video has no features.

    Args:
        line: where the manifest names it.
        reason: a word of `VideoError`.
        detail: what was seen; carries no path.
    """

    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class ExtractReport:
    """What became of each video.

    Args:
        done: ids extracted now.
        reused: ids whose records were there.
        quarantined: id to reason.
        frames: frames decoded now.
        seconds: wall time.
    """

    done: tuple[str, ...]
    reused: tuple[str, ...]
    quarantined: dict[str, Quarantined] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "done": len(self.done),
            "reused": len(self.reused),
            "quarantined": {video_id: item._asdict() for video_id, item in self.quarantined.items()},
            "frames": self.frames,
            "seconds": round(self.seconds, 1),
        }

    def text(self) -> str:
        """Returns one line of counts, and one for each quarantined video."""
        counts = f"{len(self.done)} videos extracted, {len(self.reused)} reused, {len(self.quarantined)} quarantined"
        lines = [f"{counts} ({self.frames} frames in {self.seconds:.0f} s)"]
        lines += [
            f"quarantined: line {item.line} of the manifest: {item.reason.replace('_', ' ')}, {item.detail}"
            for item in sorted(self.quarantined.values())
        ]
        return "\n".join(lines)


def extract_video(path: Path, config: ExtractConfig, backend: str = DEFAULT_BACKEND) -> VideoFeatures:
    """Returns the features of one video in memory; needs no Ray and writes nothing.

    Raises:
        VideoError: the video cannot be used.
        ConfigError: there is no such backend.
    """
    backend_named(backend)
    return _features(decode(path, config), config, backend)[0]


def extract(
    videos: Sequence[Video],
    config: ExtractConfig,
    home: Home,
    workers: int | None = None,
    backend: str = DEFAULT_BACKEND,
    retry: bool = True,
) -> ExtractReport:
    """Makes the feature store of `home` hold a record for every usable video.

    Complete records are reused. Videos that cannot be used are listed in `quarantine.json` in the store's folder.

    Args:
        videos: their ids must differ.
        config: working size and solver; its signature names the store.
        home: where the store lies.
        workers: parallel workers; default one per GPU where the backend needs one, else one per core.
        backend: a name in `ptune.extract.flow.BACKENDS`.
        retry: try quarantined videos again; else what was found about the same bytes stands.

    Raises:
        ConfigError: there is no such backend.
        FeatureError: records could not be written, or Ray lost videos; what was written stays.
    """
    start = time.monotonic()
    backend_named(backend)
    store = open_store(home.features, config)
    reused = tuple(video.id for video in videos if store.has(video.id))
    known = {} if retry else load_quarantine(store)
    pending = [video for video in videos if not store.has(video.id) and video.id not in known]
    rows: dict[str, dict[str, Any]] = {}
    with progress("extract", len(videos)) as bar:
        if len(pending) < len(videos):
            bar.advance(len(videos) - len(pending), f"{len(reused)} reused")
        if pending:
            backend_named(backend).warm_up()
            with ray_session(home, workers):
                for result in _run(pending, config, store, workers, backend):
                    rows[result["id"]] = result
                    bar.advance(1, result["reason"])
    quarantined = {
        video.id: Quarantined(video.line, row["reason"], row["detail"])
        for video in videos
        if (row := rows.get(video.id) or known.get(video.id)) and row["reason"] and row.get("status") != "failed"
    }
    _remember(store, {video.id for video in videos}, quarantined)
    _account(pending, rows)
    done = tuple(video.id for video in pending if rows[video.id]["status"] == "done")
    frames = sum(row["frames"] for row in rows.values())
    return ExtractReport(done, reused, quarantined, frames, time.monotonic() - start)


class Extractor:
    """One worker: turns rows that name a video into rows that say what became of it."""

    def __init__(self) -> None:
        import cv2

        cv2.setNumThreads(1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Extracts and stores one video. Never raises: whatever happens becomes a status."""
        result = {"id": str(row["id"]), "status": "done", "reason": "", "detail": "", "frames": 0}
        try:
            config = ExtractConfig.model_validate_json(str(row["config"]))
            decoded = decode(Path(str(row["path"])), config)
            features, motion = _features(decoded, config, str(row["backend"]))
            facts = {
                "codec": decoded.codec,
                "source_width": decoded.source_width,
                "source_height": decoded.source_height,
                "backend": str(row["backend"]),
                "motion": motion,
            }
            FeatureStore(Path(str(row["store"]))).write(
                str(row["id"]), features.rgb, features.flow, features.fps, facts
            )
            result["frames"] = len(features.rgb)
        except VideoError as error:
            result.update(status="quarantined", reason=error.reason, detail=error.detail)
        except Exception as error:
            cause = getattr(error, "strerror", None)
            result.update(
                status="failed", reason="failed", detail=type(error).__name__ + (f" ({cause})" if cause else "")
            )
        return result


def _features(decoded: Decoded, config: ExtractConfig, backend: str) -> tuple[VideoFeatures, dict[str, float]]:
    frames = decoded.frames
    flow = np.empty((len(frames) - 1, *frames.shape[1:3], 2), np.int16)
    motion = MotionStatistics(FLOW_LIMIT * FLOW_UNIT)
    for first in range(0, len(flow), CHUNK_PAIRS):
        part = tvl1(to_gray(frames[first : first + CHUNK_PAIRS + 1]), backend, config.flow)
        flow[first : first + len(part)] = quantize(part)
        motion.add(dequantize(flow[first : first + len(part)]))
    return VideoFeatures(frames, flow, decoded.fps), motion.summary()


def _run(
    pending: Sequence[Video], config: ExtractConfig, store: FeatureStore, workers: int | None, backend: str
) -> Iterator[dict[str, Any]]:
    """Yields a status row per video as workers finish; long files start first, so that none is left to the end."""
    import ray
    import ray.data

    _hush(ray.data.DataContext.get_current())
    needs_gpu = backend_named(backend).needs_gpu
    available = int(ray.cluster_resources().get("GPU" if needs_gpu else "CPU", 1))
    size = max(1, min(workers or available, available, len(pending)))
    # Everything travels in rows: arguments of the worker would be printed with Ray's plan.
    common = {"config": config.model_dump_json(by_alias=True), "store": str(store.path), "backend": backend}
    rows = [{"id": video.id, "path": str(video.path.absolute()), **common} for video in _longest_first(pending)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Extractor,
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
        num_gpus=1 if needs_gpu else 0,
    )
    yield from dataset.iter_rows()


def _longest_first(videos: Sequence[Video]) -> list[Video]:
    def size(video: Video) -> int:
        try:
            return os.stat(video.path).st_size
        except OSError:
            return 0

    return sorted(videos, key=size, reverse=True)


def _hush(context: Any) -> None:
    """Leaves the terminal to ptune's own progress."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal", "ray.data._internal.execution"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _account(pending: Sequence[Video], rows: dict[str, dict[str, Any]]) -> None:
    """Refuses to lose a video: each one that went in must have come out."""
    lost = [video for video in pending if video.id not in rows]
    failed = [row for row in rows.values() if row["status"] == "failed"]
    if not lost and not failed:
        return
    found = f"{len(failed)} of {len(pending)} records could not be made ({failed[0]['detail']})" if failed else ""
    if lost:
        found += f"{'; ' if found else ''}{len(lost)} of {len(pending)} videos got lost with their worker"
    raise FeatureError("extraction", found, "a record or a reason for each video", "Remove the cause and run again.")


def _remember(store: FeatureStore, asked: set[str], quarantined: dict[str, Quarantined]) -> None:
    """Brings the store's list of quarantined videos up to date; what was not asked for stays."""
    path = store.path / QUARANTINE
    before = load_quarantine(store)
    after = {video_id: entry for video_id, entry in before.items() if video_id not in asked}
    after |= {video_id: {"reason": item.reason, "detail": item.detail} for video_id, item in quarantined.items()}
    if after != before:
        write_json(path, after)


def load_quarantine(store: FeatureStore) -> dict[str, dict[str, str]]:
    """Returns id to reason and detail of the videos that the last extraction could not use."""
    path = store.path / QUARANTINE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
