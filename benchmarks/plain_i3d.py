"""The network that `train.py` measures against: I3D in plain eager PyTorch, NCDHW and float32, nothing fused.

Written from the published list of layers in the way of the public ports: every padding is a copy, every pool pads its
own input by zeros, batch norm and ReLU are layers of their own.

Source: Carreira and Zisserman 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

#: Branches of the Mixed blocks: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pool, 1x1.
MIXED_3 = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))
MIXED_4 = (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
)
MIXED_5 = ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))


def padded(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Returns a copy padded by zeros as TensorFlow's SAME."""
    sides: list[int] = []
    for size, window, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(window - step if size % step == 0 else window - size % step, 0)
        sides = [total // 2, total - total // 2, *sides]
    return F.pad(x, sides)


class Unit(nn.Module):
    """Padding, convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int = 1, step: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (side,) * 3, (step,) * 3
        self.conv = nn.Conv3d(inputs, outputs, self.kernel, self.stride, bias=False)
        self.norm = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(padded(x, self.kernel, self.stride))))


class Pool(nn.Module):
    """Padding, max-pool."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(padded(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches, concatenated."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce_3, three, reduce_5, five, pooled = widths
        self.branches = nn.ModuleList(
            [
                Unit(inputs, one),
                nn.Sequential(Unit(inputs, reduce_3), Unit(reduce_3, three, 3)),
                nn.Sequential(Unit(inputs, reduce_5), Unit(reduce_5, five, 3)),
                nn.Sequential(Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, pooled)),
            ]
        )
        self.outputs = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class PlainI3D(nn.Module):
    """Float [N,C,T,224,224] becomes logits [N,classes], averaged over time."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [Unit(channels, 64, 7, 2), Pool((1, 3, 3), (1, 2, 2))]
        layers += [Unit(64, 64), Unit(64, 192, 3), Pool((1, 3, 3), (1, 2, 2))]
        width = 192
        for blocks, pool in (
            (MIXED_3, Pool((3, 3, 3), (2, 2, 2))),
            (MIXED_4, Pool((2, 2, 2), (2, 2, 2))),
            (MIXED_5, None),
        ):
            for widths in blocks:
                mixed = Mixed(width, widths)
                layers.append(mixed)
                width = mixed.outputs
            layers += [pool] if pool else []
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.5)
        self.logits = nn.Conv3d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = F.avg_pool3d(self.layers(x), (2, 7, 7), stride=1)
        return self.logits(self.dropout(features)).squeeze(4).squeeze(3).mean(2)
