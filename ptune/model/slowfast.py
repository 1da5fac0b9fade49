"""Snippets become feature vectors: SlowFast, a wide pathway on few frames beside a narrow one on many.

Source: Feichtenhofer, Fan, Malik and He 2019, "SlowFast networks for video recognition", table 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ptune.config.stream import SLOWFAST_ALPHA
from ptune.config.stream import Backbone as BackboneName
from ptune.errors import BadInput
from ptune.model.backbone import Backbone, scaled

Extent3 = tuple[int, int, int]

#: The fast pathway has an eighth of the slow one's channels.
BETA_INVERSE = 8
#: A lateral connection doubles the fast pathway's channels on the way into the slow one.
LATERAL_RATIO = 2
STEM_CHANNELS = 64


class Stage(NamedTuple):
    """One stage of ResNet-50: `blocks` bottlenecks of `inner` and `out` channels; the first strides over space.

    `slow_depth` is the length in time of the slow pathway's kernels; the fast pathway's are all 3 long.
    """

    name: str
    blocks: int
    inner: int
    out: int
    slow_depth: int
    stride: int


STAGES = (
    Stage("res2", 3, 64, 256, slow_depth=1, stride=1),
    Stage("res3", 4, 128, 512, slow_depth=1, stride=2),
    Stage("res4", 6, 256, 1024, slow_depth=3, stride=2),
    Stage("res5", 3, 512, 2048, slow_depth=3, stride=2),
)
#: Length in time of the lateral kernels, as in the public configurations.
LATERAL_DEPTH: dict[BackboneName, int] = {"slowfast_4x16": 5, "slowfast_8x8": 7}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the first lasts `depth` frames, the second strides over space.

    The last batch norm starts at scale 0, so that the block starts as its shortcut.
    """

    def __init__(self, in_channels: int, inner: int, out: int, depth: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_unit(in_channels, inner, (depth, 1, 1)),
            nn.ReLU(inplace=True),
            *_unit(inner, inner, (1, 3, 3), (1, stride, stride)),
            nn.ReLU(inplace=True),
            *_unit(inner, out, scale=0.0),
        )
        same = in_channels == out and stride == 1
        self.shortcut = nn.Identity() if same else _unit(in_channels, out, stride=(1, stride, stride))

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Returns float [N,out,T,ceil(H/stride),ceil(W/stride)]."""
        return torch.relu(self.shortcut(x_NCTHW) + self.convolutions(x_NCTHW))


class SlowFast(Backbone):
    """SlowFast with ResNet-50: 2048 slow and 256 fast features.

    The fast pathway sees every frame of a snippet, the slow one every alpha-th; after each stage but the last, lateral
    convolutions hand the fast features to the slow pathway. 4x16 has alpha 8 and 34.5 million parameters with 400
    classes, 8x8 alpha 4 and 34.6 million; both see 32 frames, every second one of the video.

    Args:
        in_channels, width: see `Backbone`. Below width 1 the fast pathway has more than an eighth of the channels,
            where eight channels are the fewest.
        variant: which of the two.

    Source: Feichtenhofer et al. 2019; alpha and lateral kernels of 8x8 and the zero start of each block's last batch
        norm are those of the public configurations.
    Differs: the slow pathway takes frames 0, alpha, 2 alpha, ..., on which the lateral strides are centred; the public
        code takes as many evenly spread from the first frame to the last. Dropout is the scorer's.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0, variant: BackboneName = "slowfast_4x16") -> None:
        super().__init__(in_channels, width)
        self.alpha = SLOWFAST_ALPHA[variant]
        slow, fast = scaled(STEM_CHANNELS, width), scaled(STEM_CHANNELS // BETA_INVERSE, width)
        self.slow = nn.ModuleDict({"stem": _stem(in_channels, slow, depth=1)})
        self.fast = nn.ModuleDict({"stem": _stem(in_channels, fast, depth=5)})
        self.lateral = nn.ModuleDict()
        after = "stem"
        for stage in STAGES:
            self.lateral[after] = _lateral(fast, self.alpha, LATERAL_DEPTH[variant])
            inner, out = scaled(stage.inner, width), scaled(stage.out, width)
            self.slow[stage.name] = _stage(stage, slow + LATERAL_RATIO * fast, inner, out, stage.slow_depth)
            slow = out
            inner, out = scaled(stage.inner // BETA_INVERSE, width), scaled(stage.out // BETA_INVERSE, width)
            self.fast[stage.name] = _stage(stage, fast, inner, out, depth=3)
            fast = out
            after = stage.name
        self.feature_channels = slow + fast

    def encode(self, x_NCTHW: Tensor) -> Tensor:
        """Returns both pathways' global means, float [N,feature_channels], of float [N,C,T,H,W] in [-1,1].

        Raises:
            BadInput: T is no multiple of alpha.
        """
        if x_NCTHW.shape[2] % self.alpha:
            raise BadInput("SlowFast", f"a snippet of {x_NCTHW.shape[2]} frames", f"a multiple of {self.alpha} frames")
        slow, fast = x_NCTHW[:, :, :: self.alpha], x_NCTHW
        for name, stage in self.slow.items():
            slow, fast = stage(slow), self.fast[name](fast)
            if name in self.lateral:
                slow = torch.cat([slow, self.lateral[name](fast)], dim=1)
        return torch.cat([slow.mean(dim=(2, 3, 4)), fast.mean(dim=(2, 3, 4))], dim=1)


def _unit(
    in_channels: int, out_channels: int, kernel: Extent3 = (1, 1, 1), stride: Extent3 = (1, 1, 1), scale: float = 1.0
) -> nn.Sequential:
    """Returns a convolution without bias, padded by half its kernel, and batch norm that starts at `scale`."""
    time, height, width = kernel
    convolution = nn.Conv3d(in_channels, out_channels, kernel, stride, (time // 2, height // 2, width // 2), bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    norm = nn.BatchNorm3d(out_channels)
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(convolution, norm)


def _stem(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    convolution = _unit(in_channels, out_channels, (depth, 7, 7), (1, 2, 2))
    return nn.Sequential(*convolution, nn.ReLU(inplace=True), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))


def _stage(stage: Stage, in_channels: int, inner: int, out: int, depth: int) -> nn.Sequential:
    first = Bottleneck(in_channels, inner, out, depth, stage.stride)
    return nn.Sequential(first, *(Bottleneck(out, inner, out, depth, 1) for _ in range(stage.blocks - 1)))


def _lateral(channels: int, alpha: int, depth: int) -> nn.Sequential:
    convolution = _unit(channels, LATERAL_RATIO * channels, (depth, 1, 1), (alpha, 1, 1))
    return nn.Sequential(*convolution, nn.ReLU(inplace=True))
