"""The snippets of a video become its class logits: one shared backbone, attention, consensus, output layer.

Knows nothing of training, and nothing of how snippets are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

from torch import Tensor, nn

from ptune.config.stream import Backbone as BackboneName
from ptune.config.stream import StreamConfig
from ptune.model.attention import AttentionUnit
from ptune.model.backbone import Backbone
from ptune.model.inception import I3DTrunk, Inception2d, InceptionTrunk
from ptune.model.slowfast import SlowFast


class ScorerOutput(NamedTuple):
    """A video's class logits, float [B,M], and the weight of each of its snippets, float [B,K]."""

    logits: Tensor
    attention: Tensor


class Scorer(nn.Module):
    """Scores videos from K snippets each: F = W ((1/K) sum_i lambda_i e_i) + b.

    e_i is the feature vector of snippet i, lambda_i its attention weight. The sum is divided by K, not by the sum of
    the weights: a video all of whose snippets are uninformative gets logits near b.

    Args:
        backbone: encodes one snippet; shared by all.
        num_classes: M.
        stream: attention, attention_width, attention_weights, attention_on and dropout. Without attention lambda is 1,
            without parameters. Dropout acts on what enters the output layer. With attention on logits,
            F = (1/K) sum_i lambda_i (W e_i + b). With normalised or softmax weights a snippet alone weighs 1.

    Source: equation 1 and section 4.1.
    Differs: equation 1 puts e, W and the average in one symbol. W is linear, so weighting features is weighting
        logits but for b, which is scaled by lambda in the second form only.
    """

    def __init__(self, backbone: Backbone, num_classes: int, stream: StreamConfig) -> None:
        super().__init__()
        channels = backbone.feature_channels
        self.backbone = backbone
        self.attention = (
            AttentionUnit(channels, stream.attention_width, softmax=stream.attention_weights == "softmax")
            if stream.attention
            else None
        )
        self.weights_sum_to_one = stream.attention_weights != "sigmoid"
        self.weighs_logits = stream.attention_on == "logits"
        self.dropout = nn.Dropout(stream.dropout)
        self.output = nn.Linear(channels, num_classes)
        self._frozen: tuple[nn.Module, ...] = ()

    def forward(self, snippets_BKCTHW: Tensor) -> ScorerOutput:
        """Returns logits [B,M] and attention [B,K] of float [B,K,C,T,H,W] in [-1,1]."""
        B, K = snippets_BKCTHW.shape[:2]
        e_BKC = self.backbone.encode(snippets_BKCTHW.flatten(0, 1)).view(B, K, -1)
        lambda_BK = e_BKC.new_ones(B, K) if self.attention is None else self.attention(e_BKC)
        share_BK = lambda_BK / (lambda_BK.sum(dim=1, keepdim=True) if self.weights_sum_to_one else K)
        if self.weighs_logits:
            logits_BM = _weighted(self.output(self.dropout(e_BKC)), share_BK)
        else:
            logits_BM = self.output(self.dropout(_weighted(e_BKC, share_BK)))
        return ScorerOutput(logits_BM, lambda_BK)

    def snippet_scores(self, snippets_NCTHW: Tensor) -> ScorerOutput:
        """Returns logits [N,M] and attention [N] of float [N,C,T,H,W] in [-1,1], each snippet alone (K = 1).

        Source: section 4.2: at test time the scores of single snippets are averaged, there is no consensus of features.
        """
        logits_NM, lambda_N1 = self(snippets_NCTHW.unsqueeze(1))
        return ScorerOutput(logits_NM, lambda_N1.squeeze(1))

    def freeze(self, modules: Iterable[nn.Module]) -> None:
        """Keeps parameters, and statistics of batch norms, of these parts as they are, in training too."""
        self._frozen = (*self._frozen, *modules)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


#: What builds each backbone, given channels of a frame, frames of a snippet and the width.
BACKBONES: dict[BackboneName, Callable[[int, int, float], Backbone]] = {
    "i3d": lambda channels, frames, width: I3DTrunk(channels, width),
    "inception2d": Inception2d,
    "slowfast_4x16": lambda channels, frames, width: SlowFast(channels, width, "slowfast_4x16"),
    "slowfast_8x8": lambda channels, frames, width: SlowFast(channels, width, "slowfast_8x8"),
}


def build_scorer(stream: StreamConfig, num_classes: int) -> Scorer:
    """Returns the randomly initialised scorer of a stream; published weights are loaded into its `backbone`.

    What the stream keeps from training is frozen already.
    """
    backbone = BACKBONES[stream.backbone](stream.channels, stream.snippet_frames, stream.width)
    scorer = Scorer(backbone, num_classes, stream)
    scorer.freeze(_kept(backbone, stream))
    return scorer


def _kept(backbone: Backbone, stream: StreamConfig) -> list[nn.Module]:
    """Returns the parts of the backbone that do not learn.

    Source: Wang et al. 2016 for the partial batch norm: the first one learns, because motion is distributed unlike RGB.
    """
    kept: list[nn.Module] = []
    if stream.trainable == "head":
        kept.append(backbone)
    elif stream.trainable == "mixed_5":
        assert isinstance(backbone, InceptionTrunk)
        kept += backbone.before_mixed_5()
    if stream.frozen_norm != "none":
        norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm3d)]
        kept += norms[1:] if stream.frozen_norm == "partial" else norms
    return kept


def _weighted(values_BKC: Tensor, share_BK: Tensor) -> Tensor:
    return (share_BK.unsqueeze(-1) * values_BKC).sum(dim=1)
