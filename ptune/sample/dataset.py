"""Videos of a fit become batches of stored snippets, and those the network's input. Every draw depends on seed, epoch
and video alone, so that an interrupted epoch continues with the batches it would have had.

Reading and preparing are apart: what is read is small (uint8, int16) and can be read ahead by another thread; cropping,
mirroring, stencils and scaling happen where the batch lies by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptune.config import FitVideo, Protocol, StreamConfig
from ptune.extract.store import FeatureStore, VideoFeatures
from ptune.sample.augment import View, centre_view, network_input, random_view
from ptune.sample.snippets import Frames, protocol_frames, training_frames


@dataclass(frozen=True)
class Piece:
    """Some snippets of one video, as whole stored frames.

    Args:
        video: place of the video in its list.
        frames_KT: int64 [K,T], which frames of the video these are.
        views: what the network sees of each snippet.
        stored_KTHWC: uint8 [K,T,H,W,3] RGB, or int16 [K,T,H,W,2] fixed-point flow for both motion modalities.
    """

    video: int
    frames_KT: Frames
    views: Sequence[View]
    stored_KTHWC: Tensor


@dataclass(frozen=True)
class Batch:
    """Snippets of some videos, read but not prepared."""

    pieces: tuple[Piece, ...]

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """Returns the batch with every tensor moved."""
        pieces = tuple(replace(piece, stored_KTHWC=move(piece.stored_KTHWC)) for piece in self.pieces)
        return replace(self, pieces=pieces)

    def network_input(self, stream: StreamConfig) -> Tensor:
        """Returns all snippets, piece after piece, float32 [N,C,T,crop,crop] in [-1,1]."""
        # One by one: a stencil on all snippets at once leaves the CPU's cache and takes four times as long.
        pairs = [pair for piece in self.pieces for pair in zip(piece.stored_KTHWC, piece.views, strict=True)]
        return torch.stack([network_input(*pair, stream) for pair in pairs])


@dataclass(frozen=True)
class TrainingBatch(Batch):
    """K snippets of each of B videos with their labels.

    Args:
        labels_B: int64 class indices.
        video_ids: one per video.
    """

    labels_B: Tensor
    video_ids: tuple[str, ...]

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """Returns the batch with every tensor moved."""
        return replace(super().moved(move), labels_B=move(self.labels_B))

    def parts(self, videos: int) -> Iterator[Self]:
        """Yields the batch in parts of at most so many videos."""
        for first in range(0, len(self.pieces), videos):
            part = slice(first, first + videos)
            yield replace(self, pieces=self.pieces[part], labels_B=self.labels_B[part], video_ids=self.video_ids[part])


def training_batches(
    videos: Sequence[FitVideo], store: FeatureStore, stream: StreamConfig, seed: int, epoch: int, first_batch: int = 0
) -> Iterator[TrainingBatch]:
    """Yields the batches of one epoch in shuffled order, from `first_batch` on."""
    order = np.random.default_rng([seed, epoch]).permutation(len(videos))
    chunks = [order[start : start + stream.batch_size] for start in range(0, len(order), stream.batch_size)]
    for chunk in chunks[first_batch:]:
        pieces = tuple(_training_piece(store, videos, int(index), stream, [seed, epoch, int(index)]) for index in chunk)
        labels_B = torch.tensor([videos[index].label for index in chunk])
        yield TrainingBatch(pieces, labels_B, tuple(videos[index].video_id for index in chunk))


def _training_piece(
    store: FeatureStore, videos: Sequence[FitVideo], index: int, stream: StreamConfig, seed: list[int]
) -> Piece:
    generator = np.random.default_rng(seed)
    features = store.video(videos[index].video_id)
    height, width = features.rgb.shape[1:3]
    frames_KT = training_frames(features.length(stream.modality), stream, generator)
    views = [random_view(height, width, stream, generator) for _ in frames_KT]
    return Piece(index, frames_KT, views, _stored(features, stream, frames_KT))


def protocol_batches(
    videos: Iterable[VideoFeatures], stream: StreamConfig, protocol: Protocol, snippets: int
) -> Iterator[Batch]:
    """Yields the centre-cropped snippets of the test protocol of all videos in order, `snippets` at a time.

    A batch may hold snippets of several videos, and a video may be spread over several batches.
    """
    pieces: list[Piece] = []
    room = snippets
    for index, features in enumerate(videos):
        height, width = features.rgb.shape[1:3]
        view = centre_view(height, width, stream.crop)
        frames_ST = protocol_frames(features.length(stream.modality), protocol, stream.frame_stride)
        while len(frames_ST):
            frames_KT, frames_ST = frames_ST[:room], frames_ST[room:]
            pieces.append(Piece(index, frames_KT, [view] * len(frames_KT), _stored(features, stream, frames_KT)))
            room -= len(frames_KT)
            if room == 0:
                yield Batch(tuple(pieces))
                pieces, room = [], snippets
    if pieces:
        yield Batch(tuple(pieces))


def _stored(features: VideoFeatures, stream: StreamConfig, frames_KT: Frames) -> Tensor:
    """Returns frames of one video as they are stored, [K,T,H,W,C]."""
    source: NDArray[Any] = features.rgb if stream.modality == "rgb" else features.flow
    return torch.from_numpy(source[frames_KT])
