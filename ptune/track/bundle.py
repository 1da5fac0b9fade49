"""Trained streams become one folder that scores videos on its own: settings, weights and a checksum of each file.

Needs no home, no ledger and no Ray; extraction and snippets are the code that training used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ptune.config import ClassGrouping, ExtractConfig, StreamConfig, Strict
from ptune.errors import BadInput, RegistryError
from ptune.extract.decode import WHOLE, Part
from ptune.extract.pipeline import extract_video
from ptune.extract.store import VideoFeatures
from ptune.home import sha256_file, write_json
from ptune.ledger import FitRecord
from ptune.model.scorer import Scorer
from ptune.track.seen import Seen
from ptune.train.device import Acceleration
from ptune.train.protocol import VideoScore, load_scorer, mean_score, score_video

SCHEMA_VERSION = 2
SPEC = "bundle.json"
CHECKSUMS = "sha256.json"

#: How many snippets are scored: all of the stream's test protocol, or the few that validation takes.
ProtocolName = Literal["paper", "fast"]


class BundleStream(Strict):
    """One stream of a bundle.

    Args:
        name: its modality, or `flow 2` for the second of one modality.
        weight: its share in the fused probabilities.
        stream: what it was trained with.
        models: how many networks it has: one that was trained on all subjects, or one per fold, which are averaged.
    """

    name: str
    weight: float = Field(gt=0, le=1)
    stream: StreamConfig
    models: int = Field(1, ge=1)


class BundleSpec(Strict):
    """What a bundle is: streams are fused by the weighted average of their probabilities.

    Args:
        seen: ranges of the videos that it was trained on.
    """

    schema_version: int = SCHEMA_VERSION
    study: str
    task: str
    grouping: ClassGrouping
    extraction: ExtractConfig
    streams: tuple[BundleStream, ...]
    seen: Seen


def write_bundle(folder: Path, spec: BundleSpec, fits: Sequence[FitRecord]) -> None:
    """Writes a bundle into an empty folder; the checksums come last.

    Args:
        fits: the networks of the first stream, of the second, and so on.
    """
    folder.mkdir(parents=True)
    write_json(folder / SPEC, spec.model_dump(mode="json"))
    names = _weights_names(spec)
    for name, fit in zip(names, fits, strict=True):
        (folder / name).write_bytes(fit.weights.read_bytes())
    write_json(folder / CHECKSUMS, {name: sha256_file(folder / name) for name in [SPEC, *names]})


def verify_bundle(folder: Path) -> None:
    """Compares a bundle's files with its checksums.

    Raises:
        RegistryError: a file is missing or differs from its checksum.
    """
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
    except (FileNotFoundError, ValueError):
        raise RegistryError("bundle", "has no list of checksums", "a complete bundle", "Register it again.") from None
    for name in [SPEC, *expected]:
        path = folder / name
        if not path.is_file() or sha256_file(path) != expected.get(name):
            raise RegistryError(
                "bundle",
                f"{name} is missing or differs from its checksum",
                "the bytes registered",
                "Register it again.",
            )


@dataclass(frozen=True)
class FusedScore:
    """What a bundle says of one video.

    Args:
        probabilities: float64 [M], fused.
        streams: score of each stream by name.
    """

    probabilities: NDArray[np.float64]
    streams: dict[str, VideoScore]


class Bundle:
    """A bundle, loaded and verified."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Loads a bundle.

        Args:
            device: where it computes, as torch names it; default the first GPU, else the CPU.

        Raises:
            RegistryError: a file is missing or differs from its checksum.
        """
        verify_bundle(folder)
        self.spec = BundleSpec.parse(json.loads((folder / SPEC).read_text()), "bundle")
        self.acceleration = Acceleration.best(device)
        classes = len(self.spec.grouping.names)
        names = iter(_weights_names(self.spec))
        self._scorers: dict[str, list[Scorer]] = {
            member.name: [
                load_scorer(member.stream, classes, folder / next(names), self.acceleration)
                for _ in range(member.models)
            ]
            for member in self.spec.streams
        }

    def move(self, device: str | None) -> None:
        """Computes on another device from now on; default as when it was loaded without one.

        Raises:
            BadInput: there is no such device.
        """
        try:
            torch.empty(0, device=device or None)
        except (RuntimeError, AssertionError) as error:
            found = f"{device!r}: {str(error).splitlines()[0]}"
            raise BadInput("device", found, "cpu, cuda or cuda:1") from None
        wanted = Acceleration.best(device or None)
        if wanted != self.acceleration:
            self.acceleration = wanted
            for scorer in (scorer for scorers in self._scorers.values() for scorer in scorers):
                wanted.place(scorer)

    def features(self, video: Path, part: Part = WHOLE) -> tuple[VideoFeatures, dict[str, Any]]:
        """Returns a video's features, made as those of training were, and what is known of the video.

        Raises:
            VideoError: the video cannot be used.
        """
        return extract_video(video, self.spec.extraction, part=part)

    def streams(self, protocol: ProtocolName = "paper") -> Mapping[str, StreamConfig]:
        """Returns the settings of each stream by name; their `test` is the protocol asked for."""
        settings = {member.name: member.stream for member in self.spec.streams}
        if protocol == "paper":
            return settings
        return {name: stream.model_copy(update={"test": stream.validation}) for name, stream in settings.items()}

    def score_features(self, features: VideoFeatures, protocol: ProtocolName = "paper") -> FusedScore:
        """Scores one video by its features."""
        scores = {
            name: mean_score(
                [
                    score_video(scorer, features, stream, stream.test, self.acceleration)
                    for scorer in self._scorers[name]
                ]
            )
            for name, stream in self.streams(protocol).items()
        }
        each_EM = np.stack([score.probabilities for score in scores.values()]).astype(np.float64)
        weights_E = np.array([member.weight for member in self.spec.streams])
        return FusedScore(weights_E @ each_EM / weights_E.sum(), scores)


def _weights_names(spec: BundleSpec) -> list[str]:
    return [
        f"stream-{index}-{model}.safetensors"
        for index, member in enumerate(spec.streams)
        for model in range(member.models)
    ]
