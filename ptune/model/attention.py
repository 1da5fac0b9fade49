"""Snippet features become snippet weights: how much each snippet counts in a video's score.

Source: section 3; the unit is that of Nguyen et al. 2018 (STPN), which the paper names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Small, so that all snippets start with nearly the same weight, 0.5; not zero, so that the first layer learns at once.
OUTPUT_STD = 0.01


class AttentionUnit(nn.Module):
    """Two fully connected layers with a ReLU between and a sigmoid after: one weight per snippet, near 0.5 at first.

    Args:
        channels: length C of a snippet's feature vector.
        hidden: width of the first layer.
        softmax: compare the snippets of a video instead: weights sum to 1, near 1/K at first.

    Source: section 3, "Network architecture". The weights of a video's snippets are independent there: no softmax.
    """

    def __init__(self, channels: int, hidden: int, softmax: bool = False) -> None:
        super().__init__()
        self.softmax = softmax
        self.hidden = nn.Linear(channels, hidden)
        self.output = nn.Linear(hidden, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.normal_(self.output.weight, std=OUTPUT_STD)
        nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, features_BKC: Tensor) -> Tensor:
        """Returns the weights, float [B,K] in (0, 1), of float [B,K,C]."""
        hidden_BKH = torch.relu(self.hidden(features_BKC))
        score_BK: Tensor = self.output(hidden_BKH).squeeze(-1)
        return torch.softmax(score_BK, dim=1) if self.softmax else torch.sigmoid(score_BK)
