"""Scores videos with a trained stream: snippets of a protocol, averaged to one score per video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from ptune.config import FitVideo, Protocol, StreamConfig
from ptune.extract.store import FeatureStore, VideoFeatures
from ptune.model.scorer import Scorer, build_scorer
from ptune.sample.dataset import protocol_snippets
from ptune.train.device import Acceleration


@dataclass(frozen=True)
class VideoScore:
    """What one stream says of one video.

    Args:
        probabilities: float32 [M], the mean over snippets.
        snippet_probabilities: float32 [S,M].
        attention: float32 [S].
        starts: first frame of each snippet, [S].
    """

    probabilities: NDArray[np.float32]
    snippet_probabilities: NDArray[np.float32]
    attention: NDArray[np.float32]
    starts: list[int]


@torch.inference_mode()
def score_video(
    scorer: Scorer, features: VideoFeatures, stream: StreamConfig, protocol: Protocol, acceleration: Acceleration
) -> VideoScore:
    """Scores one video: softmax of every snippet on its own, then the mean.

    Source: section 4.1, "The prediction scores of all these snippets were then averaged".
    """
    scorer.eval()
    probabilities, attention, starts = [], [], []
    for snippets, chunk in protocol_snippets(features, stream, protocol, acceleration.device):
        with acceleration.autocast():
            logits, weights = scorer.snippet_scores(snippets)
        probabilities.append(torch.softmax(logits.float(), 1).cpu())
        attention.append(weights.float().cpu())
        starts += chunk
    snippet_probabilities = torch.cat(probabilities).numpy()
    return VideoScore(snippet_probabilities.mean(0), snippet_probabilities, torch.cat(attention).numpy(), starts)


def score_videos(
    scorer: Scorer,
    videos: Sequence[FitVideo],
    store: FeatureStore,
    stream: StreamConfig,
    protocol: Protocol,
    acceleration: Acceleration,
    fold: int,
) -> list[dict[str, Any]]:
    """Returns one row per video, as `ptune.ledger.predictions_table` takes them."""
    rows = []
    for video in videos:
        result = score_video(scorer, store.video(video.video_id), stream, protocol, acceleration)
        row = video.model_dump() | {"fold": fold}
        row |= {"probabilities": result.probabilities.tolist(), "attention": result.attention.tolist()}
        rows.append(row)
    return rows


def load_scorer(stream: StreamConfig, num_classes: int, weights: Path, acceleration: Acceleration) -> Scorer:
    """Returns a trained stream, ready to score."""
    scorer = build_scorer(stream, num_classes)
    scorer.load_state_dict(load_file(weights))
    acceleration.place(scorer)
    return scorer.eval()
