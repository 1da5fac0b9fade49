"""Frames and flow of a video become one memory-mappable record, and a record becomes arrays without copies.

Knows nothing of videos, solvers or Ray; the store that lies in an object store is `shared`. A record is a folder with
`rgb.arrow`, `flow.arrow` (Arrow IPC, a row per frame) and `metadata.json`: a record that has metadata is complete.
Motion boundaries are not stored: they are a stencil on the stored flow, computed when read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ptune.config.extraction import ExtractConfig
from ptune.config.stream import Modality
from ptune.errors import FeatureError, HomeError, StorageError
from ptune.extract.boundary import motion_boundaries
from ptune.extract.flow import FLOW_UNIT, dequantize
from ptune.extract.record import FLOW, METADATA, RGB, SCHEMA_VERSION, RecordBuilder
from ptune.home import sha256_file, write_bytes
from ptune.ledger.store import storing

__all__ = ["FLOW_UNIT", "FeatureStore", "VideoFeatures", "open_store", "store_of"]

_TYPES = {name: dtype for name, dtype, _ in (RGB, FLOW)}


@dataclass(frozen=True)
class VideoFeatures:
    """Frames and flow of one video, in memory or memory-mapped.

    Args:
        rgb: uint8 [T,H,W,3].
        flow: int16 [T-1,H,W,2] in units of 1/1024 px/frame, u then v.
        fps: frames per second; 0 where unknown.

    Raises:
        ValueError: shapes or types that do not belong together.
    """

    rgb: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.int16]
    fps: float

    def __post_init__(self) -> None:
        if self.rgb.ndim != 4 or self.rgb.shape[-1] != 3 or self.rgb.dtype != np.uint8 or len(self.rgb) < 2:
            raise ValueError(f"rgb is {self.rgb.dtype} {list(self.rgb.shape)}, expected uint8 [T,H,W,3] with T > 1")
        expected = (len(self.rgb) - 1, *self.rgb.shape[1:3], 2)
        if self.flow.shape != expected or self.flow.dtype != np.int16:
            raise ValueError(f"flow is {self.flow.dtype} {list(self.flow.shape)}, expected int16 {list(expected)}")

    def length(self, modality: Modality) -> int:
        """Returns the number of frames: T for rgb, T-1 for flow and mb."""
        return len(self.rgb) if modality == "rgb" else len(self.flow)

    def read(self, modality: Modality, start: int, count: int) -> npt.NDArray[Any]:
        """Returns `count` frames from `start`.

        Returns:
            rgb: uint8 [count,H,W,3]; flow: int16 [count,H,W,2] in 1/1024 px/frame; both are views.
            mb: float32 [count,H,W,2] in px/frame per px, derived from the stored flow.

        Raises:
            FeatureError: the frames do not exist.
        """
        length = self.length(modality)
        if start < 0 or count < 0 or start + count > length:
            raise FeatureError(
                modality, f"frames {start} to {start + count - 1} asked for", f"frames 0 to {length - 1}"
            )
        if modality == "rgb":
            return self.rgb[start : start + count]
        part = self.flow[start : start + count]
        return motion_boundaries(dequantize(part)) if modality == "mb" else part


class FeatureStore:
    """Records of one extraction signature, one folder per video.

    Checksums are verified when a process first opens a record; the arrays stay mapped afterwards. A copy that is sent
    to another process opens the files anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[str, VideoFeatures] = {}

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Any]]:
        return FeatureStore, (self.path,)

    @property
    def place(self) -> str:
        """Where it lies, as `store_of` takes it."""
        return str(self.path)

    @property
    def is_folder(self) -> bool:
        """Whether all workers build a record in one folder, so that they can share the work on one video."""
        return True

    def write(
        self,
        video_id: str,
        rgb: npt.NDArray[np.uint8],
        flow: npt.NDArray[np.int16],
        fps: float,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Stores one record, whole or not at all; an existing one is replaced.

        Args:
            video_id: from the manifest.
            rgb: uint8 [T,H,W,3].
            flow: int16 [T-1,H,W,2] in 1/1024 px/frame.
            fps: frames per second.
            extra: JSON values kept in the metadata.

        Raises:
            ValueError: shapes or types that do not belong together.
        """
        VideoFeatures(rgb, flow, fps)
        builder = self.builder(video_id)
        builder.discard()
        builder.finish_decoding(builder.write_frames(rgb), {})
        for chunk in builder.missing():
            builder.write_chunk(chunk, flow[chunk.first : chunk.first + chunk.pairs], {})
        self._open.pop(video_id, None)
        builder.seal(fps, extra or {})

    def require_writable(self) -> None:
        """Refuses, before anything is computed, a place that would refuse the results; `Home.open` did for a folder."""

    def builder(self, video_id: str) -> RecordBuilder:
        """Returns the record in the making of a video."""
        return RecordBuilder(self.path, self._folder(video_id).name)

    def has(self, video_id: str) -> bool:
        """Returns whether a complete record is there."""
        return (self._folder(video_id) / METADATA).is_file()

    def ids(self) -> list[str]:
        """Returns the videos that have a complete record, by id."""
        return sorted(path.parent.name for path in self.path.glob(f"*/{METADATA}"))

    def metadata(self, video_id: str) -> dict[str, Any]:
        """Returns a record's metadata.

        Raises:
            FeatureError: there is no record, or its metadata is not what this version writes.
        """
        content = self.kept(f"{self._folder(video_id).name}/{METADATA}")
        if content is None:
            raise FeatureError(f"video {video_id}", "has no features", "a record in the store", "Extract it.")
        try:
            found = json.loads(content)
        except ValueError:
            raise self._broken(video_id, "its metadata is not JSON") from None
        if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
            raise self._broken(video_id, f"its metadata is not of schema version {SCHEMA_VERSION}")
        return found

    def video(self, video_id: str) -> VideoFeatures:
        """Returns a record as memory maps.

        Raises:
            FeatureError: there is no record, or its checksums do not match.
        """
        if video_id not in self._open:
            metadata = self.metadata(video_id)
            try:
                arrays = metadata["arrays"]
                rgb, flow = (self._map(video_id, name, arrays[name]) for name in _TYPES)
                self._open[video_id] = VideoFeatures(rgb, flow, float(metadata["fps"]))
            except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
                raise self._broken(video_id, f"it cannot be mapped ({type(error).__name__})") from None
        return self._open[video_id]

    def read(self, video_id: str, modality: Modality, start: int, count: int) -> npt.NDArray[Any]:
        """Returns `count` frames of one modality from `start`, as `VideoFeatures.read` does.

        Raises:
            FeatureError: no such record or frames, or a broken record.
        """
        return self.video(video_id).read(modality, start, count)

    def keep(self, name: str, content: bytes) -> None:
        """Stores a small file beside the records, whole or not at all; `ID/...` goes when the record of ID goes."""
        with of_features(), storing(name):
            write_bytes(self.path / name, content)

    def kept(self, name: str) -> bytes | None:
        """Returns a small file, or None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, video_id: str) -> None:
        """Deletes a record, complete or not; metadata first, so that no reader takes the rest for a record."""
        folder = self._folder(video_id)
        self._open.pop(video_id, None)
        (folder / METADATA).unlink(missing_ok=True)
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    def _folder(self, video_id: str) -> Path:
        if not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", video_id):
            raise FeatureError("video id", repr(video_id), "letters, digits, '-' and '_'")
        return self.path / video_id

    def _map(self, video_id: str, name: str, facts: Mapping[str, Any]) -> npt.NDArray[Any]:
        path = self._verified(video_id, name, facts["sha256"])
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        array: npt.NDArray[Any] = batch.column(0).to_numpy_ndarray()
        if list(array.shape) != facts["shape"] or array.dtype != _TYPES[name]:
            raise self._broken(video_id, f"its {name} has another shape than its metadata says")
        return array

    def _verified(self, video_id: str, name: str, sha256: str) -> Path:
        """Returns the file of an array, whose bytes were compared with its checksum."""
        path = self._folder(video_id) / f"{name}.arrow"
        if sha256_file(path) != sha256:
            raise self._broken(video_id, f"the checksum of its {name} does not match")
        return path

    def _broken(self, video_id: str, found: str) -> FeatureError:
        return FeatureError(
            f"features of video {video_id}",
            found,
            "what extraction wrote",
            f"Delete the folder {video_id} from the feature store and extract again.",
        )


def open_store(features_root: Path | str, config: ExtractConfig) -> FeatureStore:
    """Returns the store of one extraction configuration below a home's `features`, a folder or a URI.

    Raises:
        HomeError: ptune knows no such place.
    """
    if isinstance(features_root, Path):
        return FeatureStore(features_root / config.signature())
    prefix, question_mark, query = features_root.partition("?")
    return store_of(f"{prefix.rstrip('/')}/{config.signature()}{question_mark}{query}")


def store_of(place: str) -> FeatureStore:
    """Returns the store whose `place` this is.

    Raises:
        HomeError: ptune knows no such place.
    """
    if "://" not in place:
        return FeatureStore(Path(place))
    from ptune.extract.shared import SharedFeatureStore

    return SharedFeatureStore(place)


@contextmanager
def of_features() -> Iterator[None]:
    """Says of what a disk or object store refuses that it is about features."""
    try:
        yield
    except StorageError as error:
        where = error.where.replace("ledger", "features", 1)
        raise StorageError(where, error.found, error.expected, error.remedy) from error
    except HomeError as error:
        raise HomeError("features", error.found, error.expected, "Correct --features.") from error
