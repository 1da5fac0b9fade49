"""Videos of a fit become batches of snippets. Every draw depends on seed, epoch and video alone,
so that an interrupted epoch continues with the batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ptune.config import FitVideo, Modality, Protocol, StreamConfig
from ptune.extract.store import FeatureStore, VideoFeatures
from ptune.sample.augment import centre_view, network_input, random_view
from ptune.sample.snippets import frame_indices, protocol_starts, training_starts


class Batch(NamedTuple):
    """Snippets of some videos.

    Args:
        snippets_BKCTHW: float32 in [-1, 1].
        labels_B: int64 class indices.
        video_ids: one per row.
    """

    snippets_BKCTHW: Tensor
    labels_B: Tensor
    video_ids: tuple[str, ...]


def training_batches(
    videos: Sequence[FitVideo],
    store: FeatureStore,
    stream: StreamConfig,
    seed: int,
    epoch: int,
    device: torch.device,
    first_batch: int = 0,
) -> Iterator[Batch]:
    """Yields the batches of one epoch in shuffled order, from `first_batch` on."""
    order = np.random.default_rng([seed, epoch]).permutation(len(videos))
    chunks = [order[start : start + stream.batch_size] for start in range(0, len(order), stream.batch_size)]
    for chunk in chunks[first_batch:]:
        rows = [_training_snippets(store, videos[index], stream, [seed, epoch, int(index)], device) for index in chunk]
        labels = torch.tensor([videos[index].label for index in chunk], device=device)
        yield Batch(torch.stack(rows), labels, tuple(videos[index].video_id for index in chunk))


def _training_snippets(
    store: FeatureStore, video: FitVideo, stream: StreamConfig, seed: list[int], device: torch.device
) -> Tensor:
    generator = np.random.default_rng(seed)
    features = store.video(video.video_id)
    frames = features.length(stream.modality)
    height, width = features.rgb.shape[1:3]
    starts = training_starts(frames, stream.segments, stream.snippet_frames, generator)
    snippets = []
    for start in starts:
        stored = _stored(features, stream, int(start), stream.snippet_frames, device)
        snippets.append(network_input(stored, random_view(height, width, stream, generator), stream))
    return torch.stack(snippets)


def protocol_snippets(
    features: VideoFeatures, stream: StreamConfig, protocol: Protocol, device: torch.device, batch: int = 16
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yields the centre-cropped snippets of the test protocol with their starts.

    Yields:
        float32 [up to batch, C, T, crop, crop] and as many start frames.
    """
    frames = features.length(stream.modality)
    height, width = features.rgb.shape[1:3]
    view = centre_view(height, width, stream.crop)
    starts = [int(start) for start in protocol_starts(frames, protocol)]
    for first in range(0, len(starts), batch):
        chunk = starts[first : first + batch]
        rows = [network_input(_stored(features, stream, s, protocol.frames, device), view, stream) for s in chunk]
        yield torch.stack(rows), chunk


def _stored(features: VideoFeatures, stream: StreamConfig, start: int, count: int, device: torch.device) -> Tensor:
    """Reads raw frames of a snippet: RGB, or fixed-point flow for both motion modalities."""
    modality: Modality = "rgb" if stream.modality == "rgb" else "flow"
    frames = features.length(modality)
    if start + count <= frames:
        stored = features.read(modality, start, count)
    else:
        stored = features.read(modality, 0, frames)[frame_indices(start, count, frames)]
    return torch.from_numpy(np.array(stored)).to(device, non_blocking=True)
