"""Bundles of small untrained networks, made without a study."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from ptune.config import ClassGrouping
from ptune.model.scorer import build_scorer
from ptune.track.bundle import BundleSpec, BundleStream, write_bundle
from ptune.track.seen import Seen
from tests.example_features import CLASSES, EXTRACTION, example_stream
from tests.extract.clips import panning, write_clip

#: What a pan of one pixel a frame at 25 frames per second, 24 frames long, lies well within.
SEEN = Seen(seconds=(0.9, 3.0), source_fps=(25.0, 30.0), camera_speed=(0.0, 2.0), camera_shake=(0.0, 1.0))


def stream(name: str, weight: float = 1.0, models: int = 1, **settings: Any) -> BundleStream:
    """Returns a stream called after its modality, or after its modality and a number."""
    config = example_stream(modality=name.split(maxsplit=1)[0], test={"snippets": 4, "frames": 8}, **settings)
    return BundleStream(name=name, weight=weight, stream=config, models=models)


def make_bundle(folder: Path, *streams: BundleStream, seen: Seen = SEEN) -> Path:
    """Writes a bundle with networks that a seed each has made."""
    spec = BundleSpec(
        study="hand", task="hand", grouping=ClassGrouping(), extraction=EXTRACTION, streams=streams, seen=seen
    )
    fits = []
    for member in streams:
        for _ in range(member.models):
            torch.manual_seed(len(fits))
            weights = folder.with_name(f"{folder.name}-{len(fits)}.safetensors")
            save_file(build_scorer(member.stream, len(CLASSES)).state_dict(), weights)
            fits.append(SimpleNamespace(weights=weights))
    write_bundle(folder, spec, fits)
    return folder


def pan(path: Path, frames: int = 24, step: int = 1, fps: float = 25) -> Path:
    """Writes a clip whose picture moves `step` px/frame to the right; 64x48 pixels."""
    write_clip(path, panning(frames=frames, step=step), fps=fps)
    return path
