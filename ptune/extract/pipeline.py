"""Videos become feature records, in parallel, each one whole or quarantined with a reason.

The only place that knows Ray Data. Two stages with workers of their own: decoding, on CPU cores, turns a video into
frames on disk and rows that name chunks of them; flow, on a GPU or a core each, takes chunks of whichever video, so
that a single long one keeps all workers busy. Tensors never pass through Ray. What goes in is counted against what
comes out.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ptune.extract.workers as work
from ptune.cluster import ray_session
from ptune.cohort.manifest import Video
from ptune.config.extraction import ExtractConfig
from ptune.errors import FeatureError
from ptune.extract.decode import Part, probe
from ptune.extract.flow import DEFAULT_BACKEND, backend_named, default_backend
from ptune.extract.isolation import Decoder
from ptune.extract.preview import write_index
from ptune.extract.report import ExtractReport, Quarantined, load_quarantine, notes_on, remember
from ptune.extract.store import FeatureStore, VideoFeatures, open_store
from ptune.home import Home
from ptune.progress import progress

#: Two workers share a GPU: one reads, writes and looks at features while the other's flow is solved.
WORKERS_PER_GPU = 2
#: Flow workers leave this share of their core to the decoding workers, which Ray would not start otherwise.
DECODING_SHARE = 0.1
#: Workers that may die one after the other while they start.
WORKER_DEATHS = 3
#: One core decodes about as many frames as this many solve.
SOLVERS_PER_DECODER = 16


def extract_video(
    path: Path,
    config: ExtractConfig,
    backend: str | None = None,
    part: Part = Part(),  # noqa: B008 (frozen)
) -> tuple[VideoFeatures, dict[str, Any]]:
    """Returns the features of one video, mapped from files that no folder names any more, and what is known of it.

    The same steps as `extract` takes; needs no Ray.

    Raises:
        VideoError: the video cannot be used.
        ConfigError: there is no such backend.
    """
    backend = backend or default_backend()
    backend_named(backend)
    with tempfile.TemporaryDirectory(prefix="ptune-") as folder, Decoder() as decoder:
        store = FeatureStore(Path(folder) / config.signature())
        builder = store.builder("video")
        work.decode_into(builder, decoder, path, config, part, allow_damaged=False)
        for chunk in builder.missing():
            work.solve_into(builder, chunk, config, backend)
        work.seal(builder)
        return store.video("video"), store.metadata("video")["extra"]


def extract(
    videos: Sequence[Video],
    config: ExtractConfig,
    home: Home,
    workers: int | None = None,
    backend: str | None = None,
    retry: bool = True,
    allow_damaged: bool = False,
) -> ExtractReport:
    """Makes the feature store of `home` hold a record for every usable video.

    Complete records are reused, and so are the complete steps of records that an interrupted run left. Videos that
    cannot be used are listed in `quarantine.json` in the store's folder.

    Args:
        videos: their ids must differ.
        config: working size and solver; its signature names the store.
        home: where the store lies.
        workers: parallel flow workers; default two per GPU where the backend needs one, else one per core.
        backend: a name in `ptune.extract.flow.BACKENDS`; default the GPU's where the cluster has GPUs.
        retry: try quarantined videos again; else what was found about the same bytes stands.
        allow_damaged: keep what can be decoded of damaged videos, and say so in their metadata.

    Raises:
        ConfigError: there is no such backend.
        FeatureError: records could not be written, or Ray lost videos; what was written stays.
        StorageError: the object store refuses to be read or written.
    """
    start = time.monotonic()
    if backend is not None:
        backend_named(backend)
    store = open_store(home.features, config)
    reused = tuple(video.id for video in videos if store.has(video.id))
    for video_id in reused:
        store.builder(video_id).discard()
    known = {} if retry else load_quarantine(store)
    pending = [video for video in videos if not store.has(video.id) and video.id not in known]
    rows = _Rows(pending, {video.id: _expected_pairs(video) for video in pending})
    if pending:
        store.require_writable()
        with progress("extract", sum(rows.left.values())) as bar:
            if reused:
                bar.advance(0, f"{len(reused)} videos reused")
            with ray_session(home, workers):
                solver = backend or _quickest()
                if not backend_named(solver).needs_gpu:
                    backend_named(solver).warm_up()
                for row in _run(
                    _requests(pending, config, store, solver, allow_damaged), solver, workers, store.is_folder
                ):
                    bar.advance(rows.add(row), row["reason"])
    reasons = {video_id: (entry["reason"], entry["detail"]) for video_id, entry in known.items()} | rows.quarantined()
    quarantined = {
        video.id: Quarantined(video.line, *reasons[video.id])
        for video in videos
        if video.id in reasons and not store.has(video.id)
    }
    remember(store, {video.id for video in videos}, quarantined)
    rows.account(store)
    done = tuple(video.id for video in pending if store.has(video.id))
    return ExtractReport(done, reused, quarantined, rows.pairs, time.monotonic() - start, notes_on(videos, store))


def preview_videos(
    videos: Sequence[Video], config: ExtractConfig, home: Home, report: ExtractReport, workers: int | None = None
) -> Path:
    """Draws the records of `videos`, those that were drawn before excepted; returns the page that lists them.

    Raises:
        FeatureError: a record could not be drawn.
    """
    store = open_store(home.features, config)
    folder = home.previews / config.signature()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    records = [video.id for video in videos if store.has(video.id)]
    pending = [video_id for video_id in records if not (folder / f"{video_id}.png").is_file()]
    if pending:
        requests = [{"id": video_id, "store": store.place, "folder": str(folder)} for video_id in pending]
        with progress("preview", len(pending)) as bar, ray_session(home, workers):
            for row in each_on_workers(work.PreviewWorker, requests, workers):
                if row["status"] != "done":
                    raise FeatureError(f"preview of video {row['id']}", row["detail"], "a picture of its features")
                bar.advance(1)
    entries: dict[str, Any] = {video_id: store.metadata(video_id)["extra"] for video_id in records}
    entries |= {video_id: item._asdict() for video_id, item in report.quarantined.items()}
    return write_index(folder, entries, report.notes)


class _Rows:
    """What came back of each pending video.

    Args:
        expected: pairs of frames of each video, by its header.
    """

    def __init__(self, pending: Sequence[Video], expected: Mapping[str, int]) -> None:
        self.pending = pending
        self.left = dict(expected)
        self.final: dict[str, work.Row] = {}
        self.pairs = 0

    def add(self, row: work.Row) -> int:
        """Takes a row; returns how many of the expected pairs it settles."""
        video_id = str(row["id"])
        settled = int(row["pairs"])
        self.pairs += settled
        if row["status"] != "working":
            self.final[video_id] = row
            settled = self.left[video_id]
        settled = min(settled, self.left[video_id])
        self.left[video_id] -= settled
        return settled

    def quarantined(self) -> dict[str, tuple[str, str]]:
        """Returns id to reason and detail of the videos that cannot be used."""
        rows = [row for row in self.final.values() if row["status"] == "quarantined"]
        return {row["id"]: (row["reason"], row["detail"]) for row in rows}

    def account(self, store: FeatureStore) -> None:
        """Refuses to lose a video: each one that went in must have come out."""
        failed = [row for row in self.final.values() if row["status"] == "failed" and not store.has(row["id"])]
        lost = [video for video in self.pending if video.id not in self.final and not store.has(video.id)]
        if not lost and not failed:
            return
        asked = len(self.pending)
        found = f"{len(failed)} of {asked} records could not be made ({failed[0]['detail']})" if failed else ""
        if lost:
            found += f"{'; ' if found else ''}{len(lost)} of {asked} videos got lost with their worker"
        raise FeatureError(
            "extraction", found, "a record or a reason for each video", "Remove the cause and run again."
        )


def _requests(
    pending: Sequence[Video], config: ExtractConfig, store: FeatureStore, backend: str, allow_damaged: bool
) -> list[work.Row]:
    """Returns a row per video: the smallest file, so that flow begins at once, then the largest, so that no long one is
    left to the end.

    Everything travels in rows: arguments of a worker would be printed with Ray's plan.
    """
    common = {
        "config": config.model_dump_json(by_alias=True),
        "store": store.place,
        "backend": backend,
        "allow_damaged": allow_damaged,
    }
    return [
        {
            "id": video.id,
            "path": str(video.path.absolute()),
            "start_seconds": video.start_seconds,
            "end_seconds": math.inf if video.end_seconds is None else video.end_seconds,
            **common,
        }
        for video in _in_turn(pending)
    ]


def _run(requests: list[work.Row], backend: str, workers: int | None, share_videos: bool) -> Iterator[work.Row]:
    """Yields a row per chunk as workers finish, or per video.

    Args:
        share_videos: the chunks of a video go to different workers, which see the same folder.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    _hush(context)
    # A block for each row: the chunks of one video go to different workers.
    context.target_max_block_size = 1
    # A worker that is killed while it starts is replaced, as one is that is killed later.
    context.max_consecutive_actor_init_deaths = WORKER_DEATHS
    available = ray.cluster_resources()
    cores = int(available.get("CPU", 1))
    if backend_named(backend).needs_gpu:
        size = workers or WORKERS_PER_GPU * int(available.get("GPU", 0))
        decoding, decoding_share = max(1, min(cores - 1, len(requests))), 1.0
        flow_share = {"num_gpus": 1 / WORKERS_PER_GPU, "num_cpus": DECODING_SHARE}
    else:
        size = min(workers or cores, cores)
        decoding, decoding_share = -(-size // SOLVERS_PER_DECODER), DECODING_SHARE
        flow_share = {"num_gpus": 0, "num_cpus": 1 - DECODING_SHARE}
    pool = ray.data.ActorPoolStrategy
    rows = ray.data.from_items(requests, override_num_blocks=len(requests))
    if share_videos:
        chunks = rows.flat_map(work.DecodeWorker, compute=pool(size=decoding), num_cpus=decoding_share)
        made = chunks.map(work.FlowWorker, compute=pool(size=size), **flow_share)
    else:
        made = rows.map(work.RecordWorker, compute=pool(size=min(size, len(requests))), **flow_share)
    try:
        yield from made.iter_rows()
    except ray.exceptions.RayError as error:
        raise FeatureError(
            "extraction",
            f"Ray could not go on ({type(error).__name__})",
            "workers that stay alive",
            "Run again: what is complete is reused.",
        ) from error


def _quickest() -> str:
    import ray

    return "cuda" if ray.cluster_resources().get("GPU") else DEFAULT_BACKEND


def each_on_workers(
    worker: type, requests: list[work.Row], workers: int | None = None, gpu: bool = False
) -> Iterator[work.Row]:
    """Yields what a worker makes of each row, as workers finish; Ray must be connected.

    Args:
        worker: a class of callables, one object per process.
        workers: default one per core or GPU.
        gpu: each has a GPU of its own, where there are some.
    """
    import ray
    import ray.data

    _hush(ray.data.DataContext.get_current())
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if gpu else 0
    size = min(workers or gpus or int(there.get("CPU", 1)), len(requests))
    rows = ray.data.from_items(requests, override_num_blocks=len(requests))
    pool = ray.data.ActorPoolStrategy(size=size)
    yield from rows.map(worker, compute=pool, num_cpus=1, num_gpus=1 if gpus else 0).iter_rows()


def _expected_pairs(video: Video) -> int:
    return max((probe(video.path, Part(video.start_seconds, video.end_seconds)) or 2) - 1, 1)


def _in_turn(videos: Sequence[Video]) -> list[Video]:
    def size(video: Video) -> int:
        try:
            return os.stat(video.path).st_size
        except OSError:
            return 0

    ordered = sorted(videos, key=size)
    return [*ordered[:1], *reversed(ordered[1:])]


def _hush(context: Any) -> None:
    """Leaves the terminal to ptune's own progress."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal", "ray.data._internal.execution", "ray.data.exceptions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
