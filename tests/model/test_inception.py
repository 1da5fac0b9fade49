"""I3D keeps the published geometry: SAME padding, channel counts, head, and any snippet length and crop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ptune.errors import BadInput
from ptune.model.inception import (
    I3D,
    INCEPTION_V1,
    NORM_EPSILON,
    I3DTrunk,
    MaxPool3d,
    Mixed,
    Unit3d,
    same_padding,
    scaled,
)

SIZES = [(4, 6, 8), (5, 7, 9), (4, 7, 6), (1, 2, 3)]


@pytest.fixture(autouse=True)
def two_threads_and_a_seed():
    torch.set_num_threads(2)
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


@pytest.mark.parametrize("settings", [{"in_channels": 4}, {"width": 0.0}])
def test_nonsense_is_refused(settings):
    with pytest.raises(BadInput):
        I3DTrunk(**settings)
