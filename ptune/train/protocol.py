"""Scores videos with a trained stream: snippets of a protocol, averaged to one score per video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from ptune.config import FitVideo, Protocol, StreamConfig
from ptune.extract.store import FeatureStore, VideoFeatures
from ptune.model.folding import folded
from ptune.model.scorer import Scorer, build_scorer
from ptune.sample.dataset import protocol_batches
from ptune.train.device import Acceleration
from ptune.train.loader import on_device


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


def score_video(
    scorer: Scorer, features: VideoFeatures, stream: StreamConfig, protocol: Protocol, acceleration: Acceleration
) -> VideoScore:
    """Scores one video: softmax of every snippet on its own, then the mean.

    Source: section 4.1, "The prediction scores of all these snippets were then averaged".
    """
    (score,) = video_scores(scorer, [features], stream, protocol, acceleration)
    return score


def mean_score(scores: Sequence[VideoScore]) -> VideoScore:
    """Returns the mean of what several networks say of the same snippets."""
    if len(scores) == 1:
        return scores[0]
    snippets_SM = np.mean([score.snippet_probabilities for score in scores], axis=0)
    attention_S = np.mean([score.attention for score in scores], axis=0)
    return VideoScore(snippets_SM.mean(0), snippets_SM, attention_S, scores[0].starts)


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
    features = (store.video(video.video_id) for video in videos)
    rows = []
    for video, result in zip(videos, video_scores(scorer, features, stream, protocol, acceleration), strict=True):
        row = video.model_dump() | {"fold": fold}
        row |= {"probabilities": result.probabilities.tolist(), "attention": result.attention.tolist()}
        rows.append(row)
    return rows


@torch.inference_mode()
def video_scores(
    scorer: Scorer,
    videos: Iterable[VideoFeatures],
    stream: StreamConfig,
    protocol: Protocol,
    acceleration: Acceleration,
) -> list[VideoScore]:
    """Scores videos in one pass of large batches; a batch may hold snippets of several videos.

    The network runs with its batch norms folded and is left as it is.
    """
    network = folded(scorer)
    snippets = acceleration.snippets_at_once(protocol.frames, stream.crop)
    batches = on_device(protocol_batches(videos, stream, protocol, snippets), acceleration)
    parts: list[tuple[int, list[int]]] = []
    probabilities, attention = [], []
    for batch in batches:
        parts += [(piece.video, piece.frames_KT[:, 0].tolist()) for piece in batch.pieces]
        with acceleration.autocast():
            logits_NM, lambda_N = network.snippet_scores(batch.network_input(stream))
        # They stay on the device to the end: copying them would wait for it.
        probabilities.append(torch.softmax(logits_NM.float(), 1))
        attention.append(lambda_N.float())
    return list(_by_video(parts, torch.cat(probabilities).cpu().numpy(), torch.cat(attention).cpu().numpy()))


def _by_video(
    parts: Sequence[tuple[int, list[int]]], probabilities_NM: NDArray[np.float32], attention_N: NDArray[np.float32]
) -> Iterator[VideoScore]:
    starts: dict[int, list[int]] = {}
    for video, first_frames in parts:
        starts.setdefault(video, []).extend(first_frames)
    end = 0
    for frames in starts.values():
        own = slice(end, end + len(frames))
        end = own.stop
        yield VideoScore(probabilities_NM[own].mean(0), probabilities_NM[own], attention_N[own], frames)


def load_scorer(stream: StreamConfig, num_classes: int, weights: Path, acceleration: Acceleration) -> Scorer:
    """Returns a trained stream, ready to score: its batch norms are folded, it cannot be trained."""
    scorer = build_scorer(stream, num_classes)
    scorer.load_state_dict(load_file(weights))
    acceleration.place(scorer)
    return folded(scorer)
