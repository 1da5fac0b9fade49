"""What an extraction worker does with a row: decode a video, or solve a chunk of it and seal what has become whole.

Knows nothing of Ray. Frames and flow go from and to files, so that memory depends on the working size and not on a
video's length. A worker never raises, because Ray Data would drop the rows beside the one that failed: whatever happens
becomes the row's status.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from ptune.config.extraction import ExtractConfig
from ptune.errors import StorageError, VideoError
from ptune.extract.decode import Part
from ptune.extract.flow import quantize, to_gray, tvl1
from ptune.extract.isolation import Decoder
from ptune.extract.preview import draw_film, draw_sheet, scale_of
from ptune.extract.quality import VideoQuality, fingerprint
from ptune.extract.record import Chunk, RecordBuilder
from ptune.extract.store import store_of

Row = dict[str, Any]


def decode_into(
    builder: RecordBuilder, decoder: Decoder, path: Path, config: ExtractConfig, part: Part, allow_damaged: bool
) -> None:
    """Writes a video's frames into its record, with what is known of them.

    Raises:
        VideoError: the video cannot be used.
    """
    frames = decoder.frames(path, config, part, allow_damaged)
    shape = builder.write_frames(frames)
    builder.finish_decoding(shape, {"video": asdict(frames.facts)})


def solve_into(builder: RecordBuilder, chunk: Chunk, config: ExtractConfig, backend: str) -> None:
    """Writes the flow of a chunk into its record, with what is known of it."""
    gray = to_gray(builder.frames(chunk))
    flow = quantize(tvl1(gray, backend, config.flow))
    builder.write_chunk(chunk, flow, {"quality": VideoQuality.of(chunk.first, gray, flow).to_json()})


def seal(builder: RecordBuilder) -> None:
    """Moves a record whose chunks are complete into the store."""
    video = (builder.decoded() or {})["video"]
    quality = VideoQuality.merged(VideoQuality.from_json(facts["quality"]) for facts in builder.chunk_facts())
    extra = {
        "video": video,
        "fingerprint": fingerprint(builder.frame, video["frames"]),
        "quality": quality.summary(),
    }
    builder.seal(video["fps"], extra)


class DecodeWorker:
    """Turns a row that names a video into a row for each chunk that lacks flow, or one that says what is wrong."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)
        self.decoder = Decoder()

    def __call__(self, row: Row) -> list[Row]:
        """Decodes one video, unless an earlier run did."""
        result = {"id": row["id"], "status": "working", "reason": "", "detail": "", "first": 0, "pairs": 0}
        result |= {name: row[name] for name in ("config", "store", "backend")}
        try:
            builder = store_of(row["store"]).builder(row["id"])
            if builder.decoded() is None:
                config = ExtractConfig.model_validate_json(row["config"])
                end = row["end_seconds"]
                part = Part(row["start_seconds"], None if math.isinf(end) else end)
                decode_into(builder, self.decoder, Path(row["path"]), config, part, bool(row["allow_damaged"]))
            # A complete record goes on with an empty chunk, so that it is sealed.
            chunks = builder.missing() or [Chunk(0, 0)]
        except VideoError as error:
            builder.discard()
            return [result | {"status": "quarantined", "reason": error.reason, "detail": error.detail}]
        except Exception as error:
            return [result | _failure(error)]
        return [result | chunk._asdict() for chunk in chunks]


class FlowWorker:
    """Solves the chunk that a row names; whoever solves the last one of a video seals its record."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)

    def __call__(self, row: Row) -> Row:
        """Returns the row with its status: working, done, quarantined or failed."""
        result = {name: row[name] for name in ("id", "status", "reason", "detail", "pairs")}
        if row["status"] != "working":
            return result
        store = store_of(row["store"])
        builder = store.builder(row["id"])
        try:
            if row["pairs"]:
                config = ExtractConfig.model_validate_json(row["config"])
                solve_into(builder, Chunk(row["first"], row["pairs"]), config, row["backend"])
            if builder.sealed():
                builder.publish()
            elif not builder.missing():
                seal(builder)
        except Exception as error:
            # Another worker may have sealed the record meanwhile.
            if not store.has(row["id"]):
                return result | _failure(error)
        return result | {"status": "done" if store.has(row["id"]) else "working"}


class RecordWorker:
    """Makes all of the record that a row names, where workers share no folder in which they could share the work."""

    def __init__(self) -> None:
        self.decode, self.flow = DecodeWorker(), FlowWorker()

    def __call__(self, row: Row) -> Row:
        """Returns the row with its status: done, quarantined or failed."""
        try:
            rows = [self.flow(chunk) for chunk in self.decode(row)]
        except Exception as error:
            return {"id": row["id"], "reason": "", "pairs": 0, **_failure(error)}
        final = next((found for found in rows if found["status"] != "working"), rows[-1])
        return final | {"pairs": sum(found["pairs"] for found in rows)}


class PreviewWorker:
    """Draws the record that a row names: film, then sheet, which says that both are there."""

    def __call__(self, row: Row) -> Row:
        """Returns the row's id and what failed, if anything."""
        try:
            store = store_of(row["store"])
            features = store.video(row["id"])
            scale = scale_of(store.metadata(row["id"])["extra"]["quality"])
            folder = Path(row["folder"])
            draw_film(features, scale, folder / f"{row['id']}.mp4")
            draw_sheet(features, scale, folder / f"{row['id']}.png")
        except Exception as error:
            return {"id": row["id"], **_failure(error)}
        return {"id": row["id"], "status": "done", "reason": "", "detail": ""}


def _failure(error: Exception) -> Row:
    cause = error.found if isinstance(error, StorageError) else getattr(error, "strerror", None)
    return {"status": "failed", "reason": "failed", "detail": type(error).__name__ + (f" ({cause})" if cause else "")}
