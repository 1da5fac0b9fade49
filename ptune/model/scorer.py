"""The snippets of a video become its class logits: one shared backbone, attention, consensus, output layer.

Knows nothing of training, and nothing of how snippets are sampled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ptune.config.stream import Modality, StreamConfig
from ptune.model.attention import AttentionUnit
from ptune.model.inception import Backbone, I3DTrunk

CHANNELS: dict[Modality, int] = {"rgb": 3, "flow": 2, "mb": 2}


class ScorerOutput(NamedTuple):
    """A video's class logits, float [B,M], and the weight of each of its snippets, float [B,K]."""

    logits: Tensor
    attention: Tensor


class Scorer(nn.Module):
    """Scores videos from K snippets each: F = W ((1/K) sum_i lambda_i e_i) + b.

    e_i is the global mean over time and space of the backbone's feature maps of snippet i, so that snippets of any
    length and crop can be scored; lambda_i is its attention weight. The sum is divided by K, not by the sum of the
    weights: a video all of whose snippets are uninformative gets logits near b.

    Args:
        backbone: encodes one snippet; shared by all.
        num_classes: M.
        attention: learn lambda; else lambda is 1, without parameters.
        attention_width: hidden width of the attention unit; unused without attention.
        dropout: probability, on the consensus before the output layer.

    Source: equation 1 and section 4.1.
    Differs: equation 1 puts e, W and the average in one symbol. W is linear, so weighting features is weighting
        logits but for b, which is not scaled by lambda here.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, attention: bool, attention_width: int, dropout: float
    ) -> None:
        super().__init__()
        channels = backbone.feature_channels
        self.backbone = backbone
        self.attention = AttentionUnit(channels, attention_width) if attention else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(channels, num_classes)

    def forward(self, snippets_BKCTHW: Tensor) -> ScorerOutput:
        """Returns logits [B,M] and attention [B,K] of float [B,K,C,T,H,W] in [-1,1]."""
        B, K = snippets_BKCTHW.shape[:2]
        e_BKC = self.encode(snippets_BKCTHW.flatten(0, 1)).view(B, K, -1)
        if self.attention is None:
            lambda_BK = e_BKC.new_ones(B, K)
            consensus_BC = e_BKC.mean(dim=1)
        else:
            lambda_BK = self.attention(e_BKC)
            consensus_BC = torch.einsum("bk,bkc->bc", lambda_BK, e_BKC) / K
        return ScorerOutput(self.output(self.dropout(consensus_BC)), lambda_BK)

    def encode(self, snippets_NCTHW: Tensor) -> Tensor:
        """Returns e, float [N,channels], of float [N,C,T,H,W] in [-1,1]."""
        return self.backbone.features(snippets_NCTHW).mean(dim=(2, 3, 4))

    def snippet_scores(self, snippets_NCTHW: Tensor) -> ScorerOutput:
        """Returns logits [N,M] and attention [N] of float [N,C,T,H,W] in [-1,1], each snippet alone (K = 1).

        Source: section 4.2: at test time the scores of single snippets are averaged, there is no consensus of features.
        """
        logits_NM, lambda_N1 = self(snippets_NCTHW.unsqueeze(1))
        return ScorerOutput(logits_NM, lambda_N1.squeeze(1))


def build_scorer(stream: StreamConfig, num_classes: int) -> Scorer:
    """Returns the randomly initialised scorer of a stream; published weights are loaded into its `backbone`."""
    return Scorer(
        I3DTrunk(CHANNELS[stream.modality], stream.width),
        num_classes,
        stream.attention,
        stream.attention_width,
        stream.dropout,
    )
