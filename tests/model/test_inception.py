"""I3D and its 2-D form keep the published geometry: SAME padding, channel counts, head, any snippet length and crop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from ptune.errors import BadInput
from ptune.model.backbone import scaled
from ptune.model.inception import (
    I3D,
    INCEPTION_V1,
    NORM_EPSILON,
    I3DTrunk,
    Inception2d,
    MaxPool3d,
    Mixed,
    Unit3d,
    same_padding,
)

SIZES = [(4, 6, 8), (5, 7, 9), (4, 7, 6), (1, 2, 3)]


@pytest.fixture(autouse=True)
def a_seed():
    torch.manual_seed(0)


def windows(x_CTHW, kernel, stride, fill):
    """Yields (output place, window) of TensorFlow's SAME: ceil(n / s) windows, the odd padding on the far side."""
    out = [-(-n // s) for n, s in zip(x_CTHW.shape[1:], stride, strict=True)]
    total = [max((o - 1) * s + k - n, 0) for o, s, k, n in zip(out, stride, kernel, x_CTHW.shape[1:], strict=True)]
    padded = np.pad(x_CTHW, [(0, 0)] + [(t // 2, t - t // 2) for t in total], constant_values=fill)
    for place in itertools.product(*map(range, out)):
        corner = [i * s for i, s in zip(place, stride, strict=True)]
        yield place, padded[(slice(None), *(slice(c, c + k) for c, k in zip(corner, kernel, strict=True)))]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (224, 7, 2, (2, 3)),
        (225, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (8, 2, 2, (0, 0)),
        (7, 3, 1, (1, 1)),
    ],
)
def test_same_padding_puts_the_odd_element_on_the_far_side(size, kernel, stride, pads):
    assert same_padding(size, kernel, stride) == pads


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), [((7, 7), (2, 2)), ((3, 3), (1, 1)), ((3, 3), (2, 2)), ((1, 1), (1, 1))])
def test_convolution_pads_like_tensorflow(size, kernel, stride):
    unit = Unit3d(2, 3, kernel, stride).eval()
    x = torch.randn(1, 2, *size)
    weight = unit.conv.weight.detach().numpy().astype(np.float64)
    cube = [(time, space, space) for time, space in (kernel, stride)]
    got = unit(x)[0].detach().numpy()
    for (t, h, w), window in windows(x[0].numpy(), *cube, fill=0.0):
        expected = np.maximum((weight * window).sum(axis=(1, 2, 3, 4)) / np.sqrt(1 + NORM_EPSILON), 0)
        np.testing.assert_allclose(got[:, t, h, w], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), [((1, 3), (1, 2)), ((3, 3), (2, 2)), ((2, 2), (2, 2)), ((3, 3), (1, 1))])
def test_pool_padding_never_wins(size, kernel, stride):
    x = -1 - torch.rand(1, 2, *size)
    cube = [(time, space, space) for time, space in (kernel, stride)]
    got = MaxPool3d(kernel, stride)(x)[0].numpy()
    places = 0
    for (t, h, w), window in windows(x[0].numpy(), *cube, fill=-np.inf):
        np.testing.assert_array_equal(got[:, t, h, w], window.max(axis=(1, 2, 3)))
        places += 1
    assert got[0].size == places


def test_parameter_count_is_the_published_one():
    network = I3D()
    head = sum(p.numel() for p in network.head.parameters())
    assert head == 1024 * 400 + 400
    assert round((sum(p.numel() for p in network.parameters()) - head) / 1e6, 2) == 12.29
    assert network.feature_channels == 1024


@pytest.mark.parametrize(("channels", "frames", "millions"), [(3, 1, 5.60), (2, 5, 5.62), (2, 10, 5.65)])
def test_the_2d_network_has_the_same_blocks_without_time(channels, frames, millions):
    flat, inflated = Inception2d(channels, frames), I3DTrunk(channels)
    assert round(sum(p.numel() for p in flat.parameters()) / 1e6, 2) == millions
    assert flat.feature_channels == 1024
    shapes = {name: value.shape for name, value in inflated.state_dict().items()}
    for name, value in flat.state_dict().items():
        if value.ndim == 5 and not name.startswith("trunk.Conv3d_1a"):
            assert value.shape == (*shapes[name][:2], 1, *shapes[name][3:])
        elif value.ndim < 5:
            assert value.shape == shapes[name]


def test_a_stack_is_ordered_frame_by_frame():
    network, x = Inception2d(2, 3, width=0.125).eval(), torch.randn(1, 2, 3, 32, 32)
    stacked = torch.stack([x[:, channel, frame] for frame in range(3) for channel in range(2)], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(network.encode(x), network.trunk(stacked.unsqueeze(2)).mean(dim=(2, 3, 4)))
    with pytest.raises(BadInput, match="a snippet of 4 frames; expected 3 frames to stack"):
        network.encode(torch.zeros(1, 2, 4, 32, 32))


@pytest.mark.parametrize("size", [(8, 16, 18), (7, 15, 17), (1, 16, 17)])
@pytest.mark.parametrize("inflated", [True, False])
def test_the_first_stage_is_padded_as_by_hand(inflated, size):
    """From 1a_7x7 to 3a_3x3, on even and odd sizes, against convolutions and pools that pad nothing themselves."""
    trunk = (I3DTrunk if inflated else Inception2d)(2, width=0.125).eval().trunk
    stage = dict(list(trunk.named_children())[:5])
    assert list(stage) == ["Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3"]
    x = expected = torch.randn(1, 2, *size)
    for layer in stage.values():
        pool = isinstance(layer, MaxPool3d)
        kernel, stride = (layer.kernel, layer.stride) if pool else (layer.conv.kernel_size, layer.conv.stride)
        pads = []
        for length, k, s in zip(expected.shape[2:], kernel, stride, strict=True):
            total = max((-(-length // s) - 1) * s + k - length, 0)
            pads = [total // 2, total - total // 2, *pads]
        padded = F.pad(expected, pads, value=-torch.inf if pool else 0.0)
        if pool:
            expected = F.max_pool3d(padded, kernel, stride)
        else:
            expected = F.relu(F.conv3d(padded, layer.conv.weight, stride=stride) / (1 + NORM_EPSILON) ** 0.5)
    with torch.inference_mode():
        torch.testing.assert_close(trunk[:5](x), expected, rtol=1e-4, atol=1e-5)


def test_width_scales_every_layer():
    full, narrow = I3DTrunk(), I3DTrunk(in_channels=2, width=0.25)
    convolutions = [[m for m in net.modules() if isinstance(m, nn.Conv3d)] for net in (full, narrow)]
    assert len(convolutions[0]) == len(convolutions[1]) == 57
    for wide, thin in zip(*convolutions, strict=True):
        assert thin.out_channels == scaled(wide.out_channels, 0.25)
        assert thin.kernel_size == wide.kernel_size
    assert narrow.feature_channels == 256
    assert scaled(16, 0.01) == 8


def test_the_published_channel_counts_survive_rounding():
    counts = itertools.chain.from_iterable(
        (b.branch_0, *b.branch_1, *b.branch_2, b.branch_3) for b in INCEPTION_V1 if isinstance(b, Mixed)
    )
    assert all(scaled(count, 1.0) == count for count in counts)


@pytest.mark.parametrize("frames", [16, 32, 64])
@pytest.mark.parametrize("crop", [48, 65])
def test_any_snippet_length_and_crop(frames, crop):
    trunk = I3DTrunk(in_channels=2, width=0.125).eval()
    with torch.inference_mode():
        features = trunk.features(torch.randn(1, 2, frames, crop, crop))
    assert features.shape == (1, 128, frames // 8, -(-crop // 32), -(-crop // 32))


def test_the_head_weights_four_time_steps_1_2_2_1():
    network = I3D(num_classes=5, width=0.125).eval()
    x = torch.randn(1, 3, 32, 224, 224)
    with torch.inference_mode():
        features = network.features(x)
        assert features.shape == (1, 128, 4, 7, 7)
        weights = torch.tensor([1.0, 2.0, 2.0, 1.0]) / 6
        pooled = torch.einsum("nct,t->nc", features.mean(dim=(3, 4)), weights)
        expected = pooled @ network.head.weight.flatten(1).T + network.head.bias
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
        assert network(x[:, :, :16]).shape == (1, 5)


def test_the_published_head_refuses_small_snippets():
    with pytest.raises(BadInput, match="16 frames, 48x48 pixels"):
        I3D(width=0.125).eval()(torch.zeros(1, 3, 16, 48, 48))


@pytest.mark.parametrize("settings", [{"in_channels": 0}, {"width": 0.0}])
def test_nonsense_is_refused(settings):
    with pytest.raises(BadInput):
        I3DTrunk(**settings)
