"""Trained streams become one folder that scores videos on its own: settings, weights and a checksum of each file.

Needs no home, no ledger and no Ray; extraction and snippets are the code that training used.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.config import ClassGrouping, ExtractConfig, StreamConfig, Strict
from ptune.errors import RegistryError, VideoError
from ptune.extract.pipeline import extract_video
from ptune.extract.store import VideoFeatures
from ptune.home import sha256_file, write_json
from ptune.ledger import FitRecord
from ptune.model.scorer import Scorer
from ptune.train.device import Acceleration
from ptune.train.protocol import VideoScore, load_scorer, score_video

SCHEMA_VERSION = 1
SPEC = "bundle.json"
CHECKSUMS = "sha256.json"


class BundleSpec(Strict):
    """What a bundle is: streams are fused by the plain average of their probabilities."""

    schema_version: int = SCHEMA_VERSION
    study: str
    task: str
    grouping: ClassGrouping
    extraction: ExtractConfig
    streams: tuple[StreamConfig, ...]


def write_bundle(folder: Path, spec: BundleSpec, fits: Sequence[FitRecord]) -> None:
    """Writes a bundle into an empty folder; the checksums come last."""
    folder.mkdir(parents=True)
    write_json(folder / SPEC, spec.model_dump(mode="json"))
    for index, fit in enumerate(fits):
        (folder / _weights_name(index)).write_bytes(fit.weights.read_bytes())
    names = [SPEC, *(_weights_name(index) for index in range(len(fits)))]
    write_json(folder / CHECKSUMS, {name: sha256_file(folder / name) for name in names})


@dataclass(frozen=True)
class FusedScore:
    """What a bundle says of one video.

    Args:
        probabilities: float64 [M], fused.
        streams: score of each stream by modality.
    """

    probabilities: NDArray[np.float64]
    streams: dict[str, VideoScore]


class Bundle:
    """A bundle, loaded and verified."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Loads a bundle.

        Raises:
            RegistryError: a file is missing or differs from its checksum.
        """
        _verify(folder)
        self.spec = BundleSpec.parse(json.loads((folder / SPEC).read_text()), "bundle")
        self.acceleration = Acceleration.best(device)
        classes = len(self.spec.grouping.names)
        self.scorers: list[Scorer] = [
            load_scorer(stream, classes, folder / _weights_name(index), self.acceleration)
            for index, stream in enumerate(self.spec.streams)
        ]

    def score(self, video: Path) -> FusedScore:
        """Scores one video.

        Raises:
            VideoError: the video cannot be used.
        """
        return self.score_features(extract_video(video, self.spec.extraction)[0])

    def score_features(self, features: VideoFeatures) -> FusedScore:
        """Scores one video whose features are there already."""
        streams: dict[str, VideoScore] = {
            stream.modality: score_video(scorer, features, stream, stream.test, self.acceleration)
            for stream, scorer in zip(self.spec.streams, self.scorers, strict=True)
        }
        fused = np.stack([score.probabilities for score in streams.values()]).astype(np.float64).mean(0)
        return FusedScore(fused, streams)

    def row(self, video: str) -> dict[str, Any]:
        """Returns the flat answer of the registered model; a video that cannot be used has a problem and no scores.

        Args:
            video: a path, or the video itself as `data:video/mp4;base64,...`.
        """
        names = self.spec.grouping.names
        try:
            with _as_file(video) as path:
                result = self.score(path)
        except VideoError as error:
            return _empty_row(self.spec) | {"problem": f"{error.reason}: {error.detail}"}
        row: dict[str, Any] = {"score_group": names[int(result.probabilities.argmax())], "problem": ""}
        row |= _named("probability", names, result.probabilities)
        for modality, score in result.streams.items():
            row |= _named(f"{modality}.probability", names, score.probabilities)
            row[f"{modality}.attention"] = [float(value) for value in score.attention]
            row[f"{modality}.snippet_start"] = list(score.starts)
        return row


@contextmanager
def _as_file(video: str) -> Iterator[Path]:
    """Yields the path of a video; one that came as a data URI lies in a temporary file without a telling name."""
    if not video.startswith("data:"):
        yield Path(video)
        return
    try:
        content = base64.b64decode(video.partition(",")[2], validate=True)
    except binascii.Error:
        raise VideoError("unreadable", "the data URI is not base64") from None
    with tempfile.NamedTemporaryFile(prefix="ptune-", suffix=".video") as handle:
        handle.write(content)
        handle.flush()
        yield Path(handle.name)


def as_data_uri(video: Path) -> str:
    """Returns a video file as a data URI, to send it where its path means nothing."""
    return "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()


def _empty_row(spec: BundleSpec) -> dict[str, Any]:
    names = spec.grouping.names
    nothing = np.full(len(names), np.nan)
    row: dict[str, Any] = {"score_group": "", "problem": ""} | _named("probability", names, nothing)
    for stream in spec.streams:
        row |= _named(f"{stream.modality}.probability", names, nothing)
        row |= {f"{stream.modality}.attention": [], f"{stream.modality}.snippet_start": []}
    return row


def _named(prefix: str, names: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    return {f"{prefix}.{name}": float(value) for name, value in zip(names, values, strict=True)}


def _weights_name(index: int) -> str:
    return f"stream-{index}.safetensors"


def _verify(folder: Path) -> None:
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
    except FileNotFoundError:
        raise RegistryError("bundle", "has no list of checksums", "a complete bundle", "Register it again.") from None
    for name, digest in expected.items():
        path = folder / name
        if not path.exists() or sha256_file(path) != digest:
            raise RegistryError("bundle", f"{name} is missing or differs from its checksum", "the bytes registered")
