"""Snippets become feature maps: Inception-V1 as one table of blocks, as a 2-D network or inflated to I3D.

The 2-D network is the same code whose kernels last one frame: what it sees of a snippet are channels of one time step.

Knows nothing of attention, classes of severity or where weights come from.

Source: section 3, "Network architecture"; Carreira and Zisserman 2017 for I3D, Szegedy et al. 2015 for Inception-V1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ptune.errors import BadInput
from ptune.model.backbone import Backbone, scaled

#: Of TensorFlow's batch norm; with PyTorch's 1e-5 the published weights give other logits.
NORM_EPSILON = 1e-3
#: The published decay of 0.999 needs thousands of steps to forget its start; a fit may have a few hundred.
NORM_MOMENTUM = 0.1
#: Window of the published head over time, height and width of Mixed_5c.
HEAD_WINDOW = (2, 7, 7)

Extent = tuple[int, int]


@dataclass(frozen=True)
class Conv:
    """Convolution, batch norm, ReLU. `kernel` and `stride` are (time, space)."""

    name: str
    channels: int
    kernel: Extent = (1, 1)
    stride: Extent = (1, 1)


@dataclass(frozen=True)
class Pool:
    """Max-pool. `kernel` and `stride` are (time, space)."""

    name: str
    kernel: Extent
    stride: Extent


@dataclass(frozen=True)
class Mixed:
    """Four parallel branches, concatenated: 1x1, 1x1 then 3x3 (twice), 3x3 max-pool then 1x1."""

    name: str
    branch_0: int
    branch_1: tuple[int, int]
    branch_2: tuple[int, int]
    branch_3: int


#: The network from the image to Mixed_5c. Names are the published ones without their dimension.
INCEPTION_V1: tuple[Conv | Pool | Mixed, ...] = (
    Conv("1a_7x7", 64, kernel=(7, 7), stride=(2, 2)),
    Pool("2a_3x3", kernel=(1, 3), stride=(1, 2)),
    Conv("2b_1x1", 64),
    Conv("2c_3x3", 192, kernel=(3, 3)),
    Pool("3a_3x3", kernel=(1, 3), stride=(1, 2)),
    Mixed("3b", 64, (96, 128), (16, 32), 32),
    Mixed("3c", 128, (128, 192), (32, 96), 64),
    Pool("4a_3x3", kernel=(3, 3), stride=(2, 2)),
    Mixed("4b", 192, (96, 208), (16, 48), 64),
    Mixed("4c", 160, (112, 224), (24, 64), 64),
    Mixed("4d", 128, (128, 256), (24, 64), 64),
    Mixed("4e", 112, (144, 288), (32, 64), 64),
    Mixed("4f", 256, (160, 320), (32, 128), 128),
    Pool("5a_2x2", kernel=(2, 2), stride=(2, 2)),
    Mixed("5b", 256, (160, 320), (32, 128), 128),
    Mixed("5c", 384, (192, 384), (48, 128), 128),
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the padding before and after one axis that makes the output ceil(size / stride) long.

    Source: TensorFlow's SAME; the odd element goes to the far side.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Unit3d(nn.Module):
    """Convolution without bias, batch norm, ReLU, with SAME padding by zeros.

    Differs: batch norm has a trainable scale, which the published network lacks; it starts at 1, and stays 1 when
    published weights are loaded.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Extent, stride: Extent) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, _cube(kernel), _cube(stride), bias=False)
        self.norm = nn.BatchNorm3d(out_channels, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Returns float [N,out_channels,T',H',W'] with T' = ceil(T / stride), and H', W' alike."""
        return F.relu(self.norm(self._convolved(x_NCTHW)), inplace=True)

    def _convolved(self, x_NCTHW: Tensor) -> Tensor:
        conv = self.conv
        pointwise = conv.kernel_size == (1, 1, 1)
        innermost = torch.channels_last_3d
        if pointwise and x_NCTHW.device.type == "cpu" and x_NCTHW.is_contiguous(memory_format=innermost):
            # With channels innermost this is one matrix product; on one thread the convolution would copy to NCTHW.
            y_NTHWC = F.linear(x_NCTHW.permute(0, 2, 3, 4, 1), conv.weight.flatten(1), conv.bias)
            return y_NTHWC.permute(0, 4, 1, 2, 3)
        pads = _pads(x_NCTHW, conv.kernel_size, conv.stride)
        if all(before == after for before, after in pads):
            padding = [before for before, _ in pads]
        else:
            x_NCTHW = F.pad(x_NCTHW, [side for pad in reversed(pads) for side in pad])
            padding = [0] * len(pads)
        return F.conv3d(x_NCTHW, conv.weight, conv.bias, conv.stride, padding)


class MaxPool3d(nn.Module):
    """Max-pool with SAME padding that never wins."""

    def __init__(self, kernel: Extent, stride: Extent) -> None:
        super().__init__()
        self.kernel = _cube(kernel)
        self.stride = _cube(stride)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Returns float [N,C,T',H',W'] with T' = ceil(T / stride), and H', W' alike."""
        # PyTorch pads a max-pool by -inf on both sides alike; ceil_mode lets the last window hang over the far edge,
        # which is the one more element that SAME puts there.
        near = [before for before, _ in _pads(x_NCTHW, self.kernel, self.stride)]
        if x_NCTHW.device.type == "cpu":
            # On a CPU the same pool is several times faster with the channels innermost, the copy included.
            x_NCTHW = x_NCTHW.contiguous(memory_format=torch.channels_last_3d)
        return F.max_pool3d(x_NCTHW, self.kernel, self.stride, near, ceil_mode=True)


class MixedBlock(nn.Module):
    """One Mixed block: the branches of one input, concatenated along the channels.

    Args:
        depth: length of its 3x3 kernels in time.
    """

    def __init__(self, in_channels: int, block: Mixed, width: float, depth: int) -> None:
        super().__init__()
        branch_0, branch_3 = scaled(block.branch_0, width), scaled(block.branch_3, width)
        (reduce_1, branch_1), (reduce_2, branch_2) = (
            (scaled(reduce, width), scaled(out, width)) for reduce, out in (block.branch_1, block.branch_2)
        )
        one, three = (1, 1), (depth, 3)
        self.Branch_0 = _named(Conv3d_0a_1x1=Unit3d(in_channels, branch_0, one, one))
        self.Branch_1 = _named(
            Conv3d_0a_1x1=Unit3d(in_channels, reduce_1, one, one), Conv3d_0b_3x3=Unit3d(reduce_1, branch_1, three, one)
        )
        self.Branch_2 = _named(
            Conv3d_0a_1x1=Unit3d(in_channels, reduce_2, one, one), Conv3d_0b_3x3=Unit3d(reduce_2, branch_2, three, one)
        )
        self.Branch_3 = _named(
            MaxPool3d_0a_3x3=MaxPool3d(three, one), Conv3d_0b_1x1=Unit3d(in_channels, branch_3, one, one)
        )
        self.out_channels = branch_0 + branch_1 + branch_2 + branch_3

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Returns float [N,out_channels,T,H,W]."""
        branches = (self.Branch_0, self.Branch_1, self.Branch_2, self.Branch_3)
        return torch.cat([branch(x_NCTHW) for branch in branches], dim=1)


class InceptionTrunk(Backbone):
    """Inception-V1 without its head: a snippet becomes the feature maps of Mixed_5c, pooled by their global mean.

    Unlike the published head, the mean suits any snippet and crop: a fit trains on 32 frames and tests on 16 (four and
    two time steps), and crops may be smaller than the seven cells that the published window spans.

    Args:
        in_channels, width: see `Backbone`.
        stack: frames that the first layer sees as channels of one time step.
        inflated: kernels and strides extend in time as they do in space.

    Initial weights are He-normal.
    Source: section 4.2 for the frames.
    """

    def __init__(self, in_channels: int, width: float, stack: int, inflated: bool) -> None:
        super().__init__(in_channels, width)
        self.stack = stack
        self.inflated = inflated
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels * stack
        for block in INCEPTION_V1 if inflated else map(_flat, INCEPTION_V1):
            match block:
                case Conv(name, published, kernel, stride):
                    out_channels = scaled(published, width)
                    layers[f"Conv3d_{name}"] = Unit3d(channels, out_channels, kernel, stride)
                    channels = out_channels
                case Pool(name, kernel, stride):
                    layers[f"MaxPool3d_{name}"] = MaxPool3d(kernel, stride)
                case Mixed(name):
                    mixed = MixedBlock(channels, block, width, depth=3 if inflated else 1)
                    layers[f"Mixed_{name}"] = mixed
                    channels = mixed.out_channels
        self.trunk = nn.Sequential(layers)
        self.feature_channels = channels

    def features(self, x_NCTHW: Tensor) -> Tensor:
        """Returns Mixed_5c, float [N,feature_channels,T',ceil(H/32),ceil(W/32)], of float [N,C,T,H,W] in [-1,1].

        T' is ceil(T/8) of an inflated network, else 1.
        """
        features: Tensor = self.trunk(x_NCTHW)
        return features

    def encode(self, x_NCTHW: Tensor) -> Tensor:
        """Returns e, float [N,feature_channels], of float [N,C,T,H,W] in [-1,1]."""
        return self.features(x_NCTHW).mean(dim=(2, 3, 4))

    def before_mixed_5(self) -> Iterable[nn.Module]:
        """Returns the layers before Mixed_5b."""
        return [layer for name, layer in self.trunk.named_children() if not name.startswith("Mixed_5")]


class I3DTrunk(InceptionTrunk):
    """I3D without its head: 12.29 million parameters, 1024 features.

    Args:
        in_channels, width: see `Backbone`.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__(in_channels, width, stack=1, inflated=True)


class Inception2d(InceptionTrunk):
    """Inception-V1 with batch norm on single frames or stacks of them: 5.6 million parameters, 1024 features.

    Args:
        in_channels, width: see `Backbone`.
        frames: T of every snippet; they are stacked as channels, frame by frame (u1, v1, u2, v2, ...).

    Source: Szegedy et al. 2015; Simonyan and Zisserman 2014 and Wang et al. 2016 (TSN) for stacked flow.
    Differs: TSN's public code uses the larger BN-Inception; here both networks of a comparison have the same blocks.
        SAME padding is I3D's.
    """

    def __init__(self, in_channels: int = 3, frames: int = 1, width: float = 1.0) -> None:
        super().__init__(in_channels, width, stack=frames, inflated=False)

    def features(self, x_NCTHW: Tensor) -> Tensor:
        """Returns Mixed_5c, float [N,feature_channels,1,ceil(H/32),ceil(W/32)], of float [N,C,T,H,W] in [-1,1].

        Raises:
            BadInput: T is not the number of frames that the network stacks.
        """
        if x_NCTHW.shape[2] != self.stack:
            raise BadInput("Inception2d", f"a snippet of {x_NCTHW.shape[2]} frames", f"{self.stack} frames to stack")
        stacked = x_NCTHW.transpose(1, 2).flatten(1, 2).unsqueeze(2)
        return super().features(stacked)


class I3D(I3DTrunk):
    """The published I3D: a snippet becomes logits.

    Args:
        num_classes: 400 for Kinetics.
        in_channels, width: see `Backbone`.

    Source: Carreira and Zisserman 2017, with the padding and the head of the public kinetics-i3d code.
    """

    def __init__(self, num_classes: int = 400, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__(in_channels, width)
        self.num_classes = num_classes
        self.head = nn.Conv3d(self.feature_channels, num_classes, 1)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Returns logits, float [N,num_classes], of float [N,C,T,H,W] in [-1,1].

        The head averages windows of 2x7x7 cells at stride 1 without padding, and then their logits. This is not the
        global mean: the four time steps of 32 frames weigh 1:2:2:1.

        Raises:
            BadInput: the snippet has fewer than 9 frames or is smaller than 193 pixels, so that no window fits.
        """
        features = self.features(x_NCTHW)
        if any(size < window for size, window in zip(features.shape[2:], HEAD_WINDOW, strict=True)):
            raise BadInput(
                "I3D head",
                "a snippet of {} frames, {}x{} pixels".format(*x_NCTHW.shape[2:]),
                "at least 9 frames of 193x193 pixels",
                "Use features(x) with global mean pooling for smaller snippets.",
            )
        windows = F.avg_pool3d(features, HEAD_WINDOW, stride=1)
        logits: Tensor = self.head(windows)
        return logits.mean(dim=(2, 3, 4))


def _flat(block: Conv | Pool | Mixed) -> Conv | Pool | Mixed:
    """Returns the block as it is in a network of single time steps."""
    if isinstance(block, Mixed):
        return block
    return replace(block, kernel=(1, block.kernel[1]), stride=(1, block.stride[1]))


def _cube(extent: Extent) -> tuple[int, int, int]:
    time, space = extent
    return time, space, space


def _pads(x_NCTHW: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[tuple[int, int]]:
    sizes = x_NCTHW.shape[2:]
    return [same_padding(*axis) for axis in zip(sizes, kernel, stride, strict=True)]


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))
