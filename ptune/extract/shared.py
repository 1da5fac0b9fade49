"""Records in an object store, for machines that share no file system: built, verified and mapped on a node's own disk.

A record's files are sent before its metadata: what has metadata is complete. Whoever reads a record fetches its files
once to the node. One worker makes all of a record, because no other sees the folder where it is built; a run that was
cut off goes on there, where the same node gets the video again, and otherwise begins the video anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ptune.errors import FeatureError
from ptune.extract.cache import NodeCache
from ptune.extract.record import FLOW, METADATA, RGB, RecordBuilder
from ptune.extract.store import FeatureStore, VideoFeatures, of_features
from ptune.ledger.objects import ObjectStore
from ptune.ledger.store import store_at, storing

ARRAYS = tuple(f"{name}.arrow" for name, *_ in (RGB, FLOW))
#: A file that another process evicts between fetching and mapping is fetched again.
TRIES = 3


class SharedFeatureStore(FeatureStore):
    """Records of one extraction signature below a prefix.

    Args:
        place: the URI, which ends in the signature.

    Raises:
        HomeError: ptune knows no such place.
    """

    def __init__(self, place: str) -> None:
        self.uri, self.cache = place, NodeCache.of_node()
        signature = place.partition("?")[0].rpartition("/")[2]
        own = hashlib.sha256(place.encode()).hexdigest()[:16]
        super().__init__(self.cache.folder / "building" / own / signature)
        self._files: dict[str, list[Path]] = {}
        with of_features():
            self.objects = _objects(place)

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Any]]:
        return SharedFeatureStore, (self.uri,)

    @property
    def place(self) -> str:
        """The URI."""
        return self.uri

    @property
    def is_folder(self) -> bool:
        """Returns False."""
        return False

    def require_writable(self) -> None:
        """Stores a probe.

        Raises:
            StorageError: the object store refuses it.
        """
        with of_features():
            self.objects.now()

    def builder(self, video_id: str) -> RecordBuilder:
        """Returns the record in the making of a video, on this node."""
        return _SendingBuilder(self, self._folder(video_id).name)

    def has(self, video_id: str) -> bool:
        """Returns whether a complete record is there."""
        with of_features():
            return self.objects.entry(f"{self._folder(video_id).name}/{METADATA}") is not None

    def ids(self) -> list[str]:
        """Returns the videos that have a complete record, by id."""
        with of_features():
            names = [entry.name.rpartition("/") for entry in self.objects.entries("")]
        return sorted(folder for folder, _, name in names if name == METADATA)

    def video(self, video_id: str) -> VideoFeatures:
        """Returns a record as memory maps of files that lie on this node.

        Raises:
            FeatureError: there is no record, or its checksums do not match.
            StorageError: it cannot be fetched.
        """
        if video_id not in self._open:
            # What the cache gave up is not held here either, or the disk would stay full.
            gone = [known for known in self._open if not all(path.exists() for path in self._files[known])]
            for known in gone:
                del self._open[known]
            self._files[video_id] = []
        return super().video(video_id)

    def keep(self, name: str, content: bytes) -> None:
        """Stores a small file beside the records, whole or not at all; `ID/...` goes when the record of ID goes."""
        with of_features():
            self.objects.put(name, content)

    def kept(self, name: str) -> bytes | None:
        """Returns a small file, or None where there is none."""
        with of_features():
            return self.objects.read(name)

    def remove(self, video_id: str) -> None:
        """Deletes a record, complete or not; metadata first, so that no reader takes the rest for a record."""
        name = self._folder(video_id).name
        self._open.pop(video_id, None)
        with of_features():
            self.objects.delete(f"{name}/{METADATA}")
            for entry in self.objects.entries(name):
                self.objects.delete(entry.name)

    def send(self, video_id: str, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Stores a complete record that lies in a folder of this node, whose arrays then are the cached ones."""
        with of_features():
            # An older record gives way; no reader takes its metadata for that of the new arrays.
            self.objects.delete(f"{video_id}/{METADATA}")
            for name in (*ARRAYS, METADATA):
                self.objects.send(f"{video_id}/{name}", folder / name)
        for name in ARRAYS:
            self.cache.take(folder / name, metadata["arrays"][Path(name).stem]["sha256"])

    def _map(self, video_id: str, name: str, facts: Mapping[str, Any]) -> npt.NDArray[Any]:
        for _ in range(TRIES - 1):
            with suppress(FileNotFoundError):
                return super()._map(video_id, name, facts)
        return super()._map(video_id, name, facts)

    def _verified(self, video_id: str, name: str, sha256: str) -> Path:
        what, size = f"{video_id}/{name}.arrow", 0
        with of_features():
            if not self.cache.path(sha256).exists():
                entry = self.objects.entry(what)
                if entry is None:
                    raise self._broken(video_id, f"it lacks its {name}")
                size = entry.size
            with storing("the cache on this node"):
                path = self.cache.file(sha256, size, lambda: self.objects.blocks(what))
        if path is None:
            raise self._broken(video_id, f"the checksum of its {name} does not match")
        self._files[video_id].append(path)
        return path

    def _broken(self, video_id: str, found: str) -> FeatureError:
        error = super()._broken(video_id, found)
        return FeatureError(error.where, found, error.expected, f"Delete {video_id}/ below the prefix, extract again.")


class _SendingBuilder(RecordBuilder):
    """A record that is built on this node and published by sending it."""

    def __init__(self, store: SharedFeatureStore, video_id: str) -> None:
        super().__init__(store.path, video_id)
        self.target = store

    def publish(self) -> None:
        """Sends the record; a run that is cut off meanwhile sends it again.

        Raises:
            FileNotFoundError: another worker did meanwhile.
            StorageError: the object store refuses it.
        """
        metadata = json.loads((self.folder / METADATA).read_text(encoding="utf-8"))
        self.target.send(self.video_id, self.folder, metadata)
        self.discard()


@lru_cache
def _objects(place: str) -> ObjectStore:
    store = store_at(place)
    assert isinstance(store, ObjectStore)
    return store
