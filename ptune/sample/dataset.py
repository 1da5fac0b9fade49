"""Videos of a fit become batches of snippets. Every draw depends on seed, epoch and video alone,
so that an interrupted epoch continues with the batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptune.config import FitVideo, Protocol, StreamConfig
from ptune.extract.store import FeatureStore, VideoFeatures
from ptune.sample.augment import View, centre_view, network_input, random_view
from ptune.sample.snippets import Frames, protocol_frames, training_frames


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
    height, width = features.rgb.shape[1:3]
    frames_KT = training_frames(features.length(stream.modality), stream, generator)
    views = [random_view(height, width, stream, generator) for _ in frames_KT]
    return _snippets(features, stream, frames_KT, views, device)


def protocol_snippets(
    features: VideoFeatures, stream: StreamConfig, protocol: Protocol, device: torch.device, batch: int = 16
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yields the centre-cropped snippets of the test protocol with their starts.

    Yields:
        float32 [up to batch, C, T, crop, crop] and as many start frames.
    """
    height, width = features.rgb.shape[1:3]
    view = centre_view(height, width, stream.crop)
    frames_ST = protocol_frames(features.length(stream.modality), protocol, stream.frame_stride)
    for first in range(0, len(frames_ST), batch):
        chunk = frames_ST[first : first + batch]
        yield _snippets(features, stream, chunk, [view] * len(chunk), device), chunk[:, 0].tolist()


def _snippets(
    features: VideoFeatures, stream: StreamConfig, frames_KT: Frames, views: Sequence[View], device: torch.device
) -> Tensor:
    """Returns the network's input of some snippets of one video, float32 [K,C,T,crop,crop]."""
    source: NDArray[Any] = features.rgb if stream.modality == "rgb" else features.flow
    stored_KTHWC = torch.from_numpy(source[frames_KT]).to(device, non_blocking=True)
    # One by one: a stencil on all snippets at once leaves the CPU's cache and takes four times as long.
    return torch.stack([network_input(*snippet, stream) for snippet in zip(stored_KTHWC, views, strict=True)])
