"""What a scorer needs of a network: a snippet becomes one feature vector."""

from __future__ import annotations

from torch import Tensor, nn

from ptune.errors import BadInput

#: Narrow networks keep channel counts that fill a vector register.
CHANNEL_MULTIPLE = 8


def scaled(channels: int, width: float) -> int:
    """Returns `channels * width`, rounded to the nearest multiple of eight and at least eight."""
    return max(CHANNEL_MULTIPLE, int(channels * width / CHANNEL_MULTIPLE + 0.5) * CHANNEL_MULTIPLE)


class Backbone(nn.Module):
    """Encodes snippets as feature vectors, pooled over time and space as suits the network.

    Args:
        in_channels: C, channels of one frame: 3 for RGB, 2 for flow or motion boundaries, 4 for their components.
        width: factor on all channel counts, rounded to multiples of eight; 1 is the published network.

    `feature_channels` is the length of the vector. Initial weights are drawn from PyTorch's global generator.
    """

    feature_channels: int

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        if in_channels < 1:
            raise BadInput("network", f"in_channels {in_channels}", "3 (RGB), 2 (motion) or 4 (components)")
        if not width > 0:
            raise BadInput("network", f"width {width}", "a factor above 0; 1 is the published network")
        self.in_channels = in_channels
        self.width = width

    def encode(self, x_NCTHW: Tensor) -> Tensor:
        """Returns e, float [N,feature_channels], of float [N,C,T,H,W] in [-1,1]."""
        raise NotImplementedError

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Returns `encode(x)`."""
        return self.encode(x_NCTHW)
