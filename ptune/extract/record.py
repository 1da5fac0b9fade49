"""One video's features come into being: frames, then flow in chunks, then a sealed record in the store.

Knows nothing of videos, solvers or Ray. A record is built in a folder of its own below the store, which all workers and
all later runs share. What a step writes depends on the video alone, so that two workers at the same step write the
same bytes, and a step that was cut off is done again; a marker, written last, says that a step is complete. Sealing
renames the folder into the store: a record is there whole, or not at all.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ptune.errors import FeatureError
from ptune.home import sha256_file, sync_folder, write_atomic, write_json, write_new

SCHEMA_VERSION = 2
METADATA = "metadata.json"
BUILDING = ".building"
#: Pairs of frames in a chunk of flow: what one worker holds at a time, and what a cut-off run loses at most.
CHUNK_PAIRS = 64

RGB: Final = ("rgb", np.dtype(np.uint8), 3)
FLOW: Final = ("flow", np.dtype(np.int16), 2)
_DECODED = "decoded.json"


class Chunk(NamedTuple):
    """Consecutive pairs of frames: how many from the first on."""

    first: int
    pairs: int


def chunks_of(frames: int) -> list[Chunk]:
    """Returns the chunks of a video's T - 1 pairs of frames."""
    pairs = frames - 1
    return [Chunk(first, min(CHUNK_PAIRS, pairs - first)) for first in range(0, pairs, CHUNK_PAIRS)]


class RecordBuilder:
    """A record in the making.

    Args:
        store: the store's folder.
        video_id: whose record; the caller vouches that it is a plain name.
    """

    def __init__(self, store: Path, video_id: str) -> None:
        self.store, self.video_id = store, video_id
        self.folder = store / BUILDING / video_id

    def decoded(self) -> dict[str, Any] | None:
        """Returns what was said of the video when its last frame was written; None before."""
        return _json(self.folder / _DECODED)

    def write_frames(self, frames: Iterable[npt.NDArray[np.uint8]]) -> tuple[int, int, int]:
        """Writes uint8 frames [H,W,3], of which one is in memory at a time.

        Returns:
            T, H, W.

        Raises:
            ValueError: there is no frame, or their sizes differ.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shape = (0, 0, 0)

        def write(temporary: Path) -> None:
            nonlocal shape
            shape = _append_frames(temporary, frames)

        write_atomic(self._array("rgb"), write)
        return shape

    def finish_decoding(self, shape: tuple[int, int, int], facts: Mapping[str, Any]) -> None:
        """Marks the frames as complete: their T, H, W, and JSON values that go into the metadata."""
        _mark(self.folder / _DECODED, {"shape": list(shape), **facts})

    def frames(self, chunk: Chunk) -> npt.NDArray[np.uint8]:
        """Returns the frames that a chunk's pairs need, uint8 [pairs+1,H,W,3], read and not mapped."""
        frames: npt.NDArray[np.uint8] = self._read(RGB, chunk.first, chunk.pairs + 1)
        return frames

    def frame(self, index: int) -> npt.NDArray[np.uint8]:
        """Returns one frame, uint8 [H,W,3]."""
        frame: npt.NDArray[np.uint8] = self._read(RGB, index, 1)[0]
        return frame

    def chunks(self) -> list[Chunk]:
        """Returns all chunks of the video."""
        return chunks_of(self._shape()[0])

    def missing(self) -> list[Chunk]:
        """Returns the chunks without flow."""
        return [chunk for chunk in self.chunks() if not self._marker(chunk).is_file()]

    def write_chunk(self, chunk: Chunk, flow: npt.NDArray[np.int16], facts: Mapping[str, Any]) -> None:
        """Writes the flow of a chunk, int16 [pairs,H,W,2], in its place, and JSON values about it.

        Raises:
            ValueError: another shape or type.
            FileNotFoundError: the record was sealed or given up meanwhile.
        """
        expected = (chunk.pairs, *self._shape()[1:], 2)
        if flow.shape != expected or flow.dtype != np.int16:
            raise ValueError(f"flow is {flow.dtype} {list(flow.shape)}, expected int16 {list(expected)}")
        frame_bytes = flow[0].nbytes
        start = _start(expected[1:], flow.dtype) + chunk.first * frame_bytes
        descriptor = os.open(self._array("flow"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            _write_at(descriptor, np.ascontiguousarray(flow).data.cast("B"), start)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _mark(self._marker(chunk), dict(facts))

    def chunk_facts(self) -> list[dict[str, Any]]:
        """Returns what was said of each chunk, in order; the chunks must be complete."""
        return [_json(self._marker(chunk)) or {} for chunk in self.chunks()]

    def seal(self, fps: float, extra: Mapping[str, Any]) -> None:
        """Moves the complete record into the store, where an older one of this video gives way.

        Args:
            fps: frames per second.
            extra: JSON values kept in the metadata.

        Raises:
            FeatureError: flow is missing.
            FileNotFoundError: another worker sealed the record meanwhile.
        """
        T, H, W = self._shape()
        missing = self.missing()
        if missing:
            raise FeatureError(f"features of video {self.video_id}", f"{len(missing)} chunks lack flow", "all of them")
        before, after = envelope(T - 1, (H, W, 2), FLOW[1])
        descriptor = os.open(self._array("flow"), os.O_WRONLY)
        try:
            _write_at(descriptor, memoryview(before), 0)
            _write_at(descriptor, memoryview(after), len(before) + (T - 1) * H * W * 2 * FLOW[1].itemsize)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        arrays = {
            name: {
                "shape": [length, H, W, channels],
                "dtype": dtype.name,
                "sha256": sha256_file(self._array(name)),
            }
            for length, (name, dtype, channels) in ((T, RGB), (T - 1, FLOW))
        }
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "video": self.video_id,
            "extraction": self.store.name,
            "fps": float(fps),
            "arrays": arrays,
            "flow_unit": "1/1024 px/frame",
            "extra": dict(extra),
        }
        write_json(self.folder / METADATA, metadata)
        self.publish()

    def sealed(self) -> bool:
        """Returns whether only publishing is left to do, because the sealing worker died just before."""
        return (self.folder / METADATA).is_file()

    def publish(self) -> None:
        """Leaves nothing but the record in the folder and moves it into the store.

        Raises:
            FileNotFoundError: another worker did meanwhile.
        """
        keep = {METADATA, *(self._array(name).name for name, *_ in (RGB, FLOW))}
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)
        target = self.store / self.video_id
        if target.exists():
            # Metadata first, so that no reader takes the rest for a record.
            (target / METADATA).unlink(missing_ok=True)
            shutil.rmtree(target)
        os.rename(self.folder, target)
        sync_folder(self.store)
        self._tidy()

    def discard(self) -> None:
        """Deletes whatever there is."""
        (self.folder / METADATA).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._tidy()

    def _tidy(self) -> None:
        # Other records may be in the making there.
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _array(self, name: str) -> Path:
        return self.folder / f"{name}.arrow"

    def _marker(self, chunk: Chunk) -> Path:
        return self.folder / f"flow-{chunk.first:08d}.json"

    def _shape(self) -> tuple[int, int, int]:
        found = self.decoded()
        if found is None:
            raise FileNotFoundError(self.folder / _DECODED)
        T, H, W = found["shape"]
        return T, H, W

    def _read(self, array: tuple[str, np.dtype[Any], int], first: int, count: int) -> npt.NDArray[Any]:
        name, dtype, channels = array
        shape = (*self._shape()[1:], channels)
        start = _start(shape, dtype) + first * math.prod(shape) * dtype.itemsize
        values = np.fromfile(self._array(name), dtype, count * math.prod(shape), offset=start)
        return values.reshape(count, *shape)


@lru_cache
def _start(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return len(envelope(2, shape, dtype)[0])


def envelope(frames: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[bytes, bytes]:
    """Returns what stands before and after the frames in an Arrow IPC file with one row per frame.

    What stands before is as long for any number of frames, so that frames can be written before they are counted.

    Args:
        frames: at least one.
        shape: of one frame.
        dtype: of its elements.
    """
    elements = math.prod(shape)
    size = frames * elements * dtype.itemsize
    # Address space only: Arrow passes the buffer on without touching it.
    hollow = pa.py_buffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE))
    values = pa.Array.from_buffers(pa.from_numpy_dtype(dtype), frames * elements, [None, hollow])
    rows = pa.FixedSizeListArray.from_arrays(values, elements)
    kind = pa.fixed_shape_tensor(values.type, shape)
    batch = pa.record_batch([pa.ExtensionArray.from_storage(kind, rows)], names=["frames"])
    sink = _Around()
    # Without it, frames of more than 2^31 bytes in all are refused.
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    before, after = sink.parts
    return bytes(before), bytes(after)


#: Linux; elsewhere anonymous memory is reserved lazily anyway.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)


class _Around:
    """A sink that keeps what is written before and after the one buffer of frames."""

    closed = False

    def __init__(self) -> None:
        self.parts = [bytearray()]

    def write(self, data: Any) -> int:
        if isinstance(data, pa.Buffer):
            self.parts.append(bytearray())
        else:
            self.parts[-1] += data
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def _append_frames(path: Path, frames: Iterable[npt.NDArray[np.uint8]]) -> tuple[int, int, int]:
    count = 0
    shape: tuple[int, ...] = ()
    with open(path, "wb") as handle:
        for frame in frames:
            if not count:
                shape = frame.shape
                handle.write(envelope(2, shape, RGB[1])[0])
            if frame.shape != shape or frame.dtype != np.uint8 or frame.ndim != 3:
                raise ValueError(f"a frame is {frame.dtype} {list(frame.shape)}, expected uint8 {list(shape)}")
            handle.write(np.ascontiguousarray(frame).data.cast("B"))
            count += 1
        if count < 2:
            raise ValueError(f"{count} frames, at least 2 are needed")
        before, after = envelope(count, shape, RGB[1])
        handle.write(after)
        handle.seek(0)
        handle.write(before)
    return count, shape[0], shape[1]


def _mark(path: Path, value: dict[str, Any]) -> None:
    """Writes a marker, whole; where its folder has moved into the store meanwhile, it must not come back."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    # Synced, so that after a loss of power no marker is there without its text.
    write_new(temporary, json.dumps(value, sort_keys=True, allow_nan=False).encode(), sync=True)
    os.replace(temporary, path)


def _write_at(descriptor: int, content: memoryview, start: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], start + done)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found if isinstance(found, dict) else None
