"""The focal loss of equation 4."""

from __future__ import annotations

import torch
from torch import Tensor

from ptune.config import FocalConfig


def focal_loss(logits_BM: Tensor, labels_B: Tensor, focal: FocalConfig) -> Tensor:
    """Returns the mean of -alpha (1 - p)^gamma log p over a batch, p being the probability of the true class.

    With alpha 1 and gamma 0 this is cross-entropy. A single alpha only scales the loss; one alpha per class
    weights the classes against each other.

    Args:
        logits_BM: float [B,M].
        labels_B: int64 [B].

    Returns:
        float scalar.

    Source: equation 4.
    """
    log_p_B = torch.log_softmax(logits_BM.float(), 1).gather(1, labels_B[:, None])[:, 0]
    alpha: Tensor | float
    if isinstance(focal.alpha, tuple):
        # Sums, because a tensor of alphas would have to be copied to the device, which waits for it.
        alpha = torch.zeros_like(log_p_B)
        for label, value in enumerate(focal.alpha):
            alpha = alpha + value * (labels_B == label)
    else:
        alpha = focal.alpha
    miss_B = -torch.expm1(log_p_B)
    modulation_B = miss_B.clamp_min(torch.finfo(miss_B.dtype).tiny) ** focal.gamma
    return -(alpha * modulation_B * log_p_B).mean()
