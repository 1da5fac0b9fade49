"""The unchanged Kinetics network turns a video into one vector, kept beside its features; the vectors of all videos
become a row of every table: what pretraining alone gives.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ptune.config import FitVideo, Protocol, StreamConfig, signature_of
from ptune.config.base import STAGE_VERSIONS
from ptune.extract.store import FeatureStore
from ptune.model.folding import folded
from ptune.model.inception import I3DTrunk
from ptune.model.weights import load_kinetics
from ptune.replay import Baseline
from ptune.sample.dataset import protocol_batches
from ptune.train.crossfit import Floats, Labels, Model, cross_fit
from ptune.train.device import Acceleration
from ptune.train.loader import on_device
from ptune.train.ordinal import ordinal_logistic

KEY, NAME = "frozen", "frozen Kinetics I3D + ordinal logistic"
#: Inverse strength of the L2 penalty on 1024 standardised features. On synthetic cohorts of both tasks, as balanced and
#: as skewed as the paper's, choosing it by cross-validation within the training subjects scored no better.
C = 0.01


def embedding_name(video_id: str, weights: str, protocol: Protocol, crop: int) -> str:
    """Returns the name that a store keeps the vector of a video by: a new one for other weights, snippets or crop.

    Args:
        weights: `weights_hash` of the network's.
    """
    version = STAGE_VERSIONS["protocol"]
    what = {"weights": weights, "protocol": protocol.model_dump(), "crop": crop, "version": version}
    return f"{video_id}/i3d-{signature_of(what)}.npy"


@torch.inference_mode()
def embed(
    videos: Sequence[str],
    store: FeatureStore,
    names: Sequence[str],
    weights: Path,
    protocol: Protocol,
    crop: int,
    acceleration: Acceleration,
) -> None:
    """Stores the vector of each video, float32 [1024]: the network's features, averaged over centre-cropped snippets.

    Args:
        videos: by id.
        names: which the store keeps each vector by.
        weights: of the Kinetics RGB network.
    """
    stream = StreamConfig(modality="rgb", crop=crop, test=protocol)
    network = I3DTrunk(stream.channels, stream.width)
    load_kinetics(network, weights)
    acceleration.place(network)
    network = folded(network)
    for video_id, name in zip(videos, names, strict=True):
        snippets = acceleration.snippets_at_once(protocol.frames, crop)
        batches = on_device(protocol_batches([store.video(video_id)], stream, protocol, snippets), acceleration)
        parts = []
        for batch in batches:
            with acceleration.autocast():
                parts.append(network.encode(batch.network_input(stream)).float())
        content = io.BytesIO()
        np.save(content, torch.cat(parts).mean(0).cpu().numpy())
        store.keep(name, content.getvalue())


def frozen_row(
    videos: Sequence[FitVideo],
    folds: Mapping[str, int],
    embeddings_ND: NDArray[np.float32],
    class_names: Sequence[str],
) -> Baseline:
    """Returns the row of an ordinal logistic model on the vectors of the videos.

    Args:
        folds: fold of each subject.
        embeddings_ND: one row per video.
        class_names: M names.
    """

    def learn(values_ND: Floats, labels_N: Labels) -> Model:
        return ordinal_logistic(values_ND, labels_N, len(class_names), C)

    return Baseline(KEY, NAME, cross_fit(videos, folds, embeddings_ND, learn))
