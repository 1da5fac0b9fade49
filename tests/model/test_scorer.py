"""A video's logits are equation 1: attention-weighted snippet features, divided by K, through one linear layer.

The other readings of the equation, and the other networks, are checked by how they relate to it.
"""

from __future__ import annotations

import pytest
import torch

from ptune.config.stream import StreamConfig
from ptune.config.systems import SYSTEMS, stream_of
from ptune.model.attention import AttentionUnit
from ptune.model.inception import I3D
from ptune.model.scorer import Scorer, build_scorer


@pytest.fixture(autouse=True)
def a_seed():
    torch.manual_seed(0)


def small(attention: bool, dropout: float = 0.0, **settings: object) -> Scorer:
    tiny = {"modality": "flow", "width": 0.125, "attention_width": 16, "init": "random"}
    return build_scorer(StreamConfig.parse({"attention": attention, "dropout": dropout} | tiny | settings, "test"), 3)


def contrasted() -> torch.Tensor:
    """Three snippets of rising contrast, whose attention differs."""
    return snippets() * torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1, 1, 1)


def same_weights(scorer: Scorer, **settings: object) -> Scorer:
    """Another form of a scorer with attention that differs in what the settings say alone."""
    other = small(True, **settings).eval()
    other.load_state_dict(scorer.state_dict())
    return other


def snippets(videos: int = 2, segments: int = 3) -> torch.Tensor:
    return torch.rand(videos, segments, 2, 16, 48, 48) * 2 - 1


def test_attention_starts_near_one_half():
    weights = AttentionUnit(1024, 256)(torch.rand(5, 4, 1024))
    assert weights.shape == (5, 4)
    assert (weights - 0.5).abs().max() < 0.1


def test_attention_weighs_each_snippet_by_itself():
    unit, features = AttentionUnit(32, 8), torch.randn(2, 3, 32)
    order = [2, 0, 1]
    torch.testing.assert_close(unit(features)[:, order], unit(features[:, order]))
    torch.testing.assert_close(unit(features)[:, :1], unit(features[:, :1]))


def test_a_weight_of_one_is_the_plain_average():
    plain, attended, x = small(False).eval(), small(True).eval(), snippets()
    attended.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.constant_(attended.attention.output.bias, 100.0)
    with torch.inference_mode():
        assert torch.equal(attended(x).attention, torch.ones(2, 3))
        assert torch.equal(plain(x).attention, torch.ones(2, 3))
        torch.testing.assert_close(attended(x).logits, plain(x).logits)
        e = torch.stack([plain.backbone.encode(video).mean(dim=0) for video in x])
        torch.testing.assert_close(plain(x).logits, plain.output(e))


def test_no_attention_has_no_attention_parameters():
    names = dict(small(False).named_parameters())
    assert not any("attention" in name for name in names)


def test_weighting_features_and_weighting_logits_differ_by_the_bias_alone():
    features, x = small(True).eval(), contrasted()
    torch.nn.init.normal_(features.attention.output.weight)
    logits = same_weights(features, attention_on="logits")
    with torch.inference_mode():
        (of_features, weights), (of_logits, same) = features(x), logits(x)
        assert weights.std() > 0.01
        assert torch.equal(weights, same)
        bias = features.output.bias * (1 - weights.mean(dim=1, keepdim=True))
        assert bias.abs().min() > 1e-4
        torch.testing.assert_close(of_features, of_logits + bias)


@pytest.mark.parametrize("on", ["features", "logits"])
def test_normalised_weights_divide_by_their_sum(on):
    by_k, x = small(True, attention_on=on).eval(), contrasted()
    by_sum = same_weights(by_k, attention_on=on, attention_weights="normalised")
    with torch.inference_mode():
        (divided_by_k, weights), (divided_by_sum, same) = by_k(x), by_sum(x)
        assert torch.equal(weights, same)
        bias = by_k.output.bias if on == "features" else 0.0
        torch.testing.assert_close(divided_by_sum - bias, (divided_by_k - bias) / weights.mean(dim=1, keepdim=True))


def test_weights_that_sum_to_one_make_both_places_of_attention_equal():
    for weights in ("normalised", "softmax"):
        features, x = small(True, attention_weights=weights).eval(), contrasted()
        logits = same_weights(features, attention_weights=weights, attention_on="logits")
        with torch.inference_mode():
            torch.testing.assert_close(features(x).logits, logits(x).logits)


def test_softmax_compares_the_snippets_of_a_video():
    scorer, x = small(True, attention_weights="softmax").eval(), contrasted()
    torch.nn.init.normal_(scorer.attention.output.weight)
    with torch.inference_mode():
        logits, weights = scorer(x)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
        assert weights.std() > 0.01
        e = torch.stack([scorer.backbone.encode(video) for video in x])
        torch.testing.assert_close(logits, scorer.output((weights[..., None] * e).sum(dim=1)))
        assert scorer.snippet_scores(x[0]).attention.tolist() == [1, 1, 1]


def test_the_sum_is_divided_by_k_not_by_the_weights():
    scorer, x = small(True).eval(), snippets()
    with torch.inference_mode():
        torch.nn.init.constant_(scorer.attention.output.bias, -100.0)
        torch.testing.assert_close(scorer(x).logits, scorer.output.bias.expand(2, 3))


def test_a_snippet_alone_is_a_video_of_one_segment():
    scorer, x = small(False).eval(), snippets(4, 1)
    with torch.inference_mode():
        expected = scorer.output(scorer.backbone.encode(x[:, 0]))
        torch.testing.assert_close(scorer(x).logits, expected)
        logits, attention = scorer.snippet_scores(x[:, 0])
        torch.testing.assert_close(logits, expected)
        assert attention.shape == (4,)


def test_one_segment_without_attention_is_the_published_i3d():
    """Its head sees one window where Mixed_5c has two time steps of 7x7 cells: there both average the same."""
    published = I3D(num_classes=3, in_channels=2, width=0.125).eval()
    scorer = small(False, segments=1).eval()
    trunk = {name: value for name, value in published.state_dict().items() if name.startswith("trunk")}
    scorer.backbone.load_state_dict(trunk)
    scorer.output.weight.data = published.head.weight.data.flatten(1)
    scorer.output.bias.data = published.head.bias.data
    x = torch.rand(1, 1, 2, 16, 200, 200) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(scorer(x).logits, published(x[:, 0]), rtol=1e-4, atol=1e-5)


def test_test_snippets_may_be_shorter_than_training_snippets():
    scorer = small(True).eval()
    with torch.inference_mode():
        for frames in (16, 32, 64):
            assert scorer.snippet_scores(torch.zeros(1, 2, frames, 48, 48)).logits.shape == (1, 3)


@pytest.mark.parametrize("attention", [True, False])
def test_every_parameter_learns(attention):
    scorer = small(attention).train()
    scorer(snippets()).logits.square().sum().backward()
    for name, parameter in scorer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_acts_in_training_only():
    scorer, x = small(False, dropout=0.7), snippets()
    scorer.backbone.eval()
    with torch.inference_mode():
        assert not torch.equal(scorer(x).logits, scorer(x).logits)
        scorer.eval()
        assert torch.equal(scorer(x).logits, scorer(x).logits)


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        ({"modality": "rgb"}, 3),
        ({"modality": "flow"}, 2),
        ({"modality": "mb"}, 2),
        ({"modality": "mb", "boundary": "magnitude"}, 2),
        ({"modality": "mb", "boundary": "components"}, 4),
        ({"modality": "flow", "boundary": "components"}, 2),
    ],
)
def test_the_stream_decides_the_scorer(settings, channels):
    stream = StreamConfig.parse(
        {"width": 0.125, "attention": False, "dropout": 0.25, "init": "random"} | settings, "test"
    )
    scorer = build_scorer(stream, num_classes=4)
    assert scorer.backbone.in_channels == stream.channels == channels
    assert scorer.backbone.feature_channels == 128
    assert scorer.output.out_features == 4
    assert scorer.attention is None
    assert scorer.dropout.p == 0.25


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_its_published_network(system):
    networks = {"two_stream": 1024, "tsn": 1024, "slowfast": 2304, "tsn_slowfast": 2304}
    for modality in SYSTEMS[system].streams:
        with torch.device("meta"):
            scorer = build_scorer(stream_of(system, modality), num_classes=3)
        assert scorer.output.in_features == networks.get(system, 1024)
        assert (scorer.attention is not None) == (system in ("proposed", "proposed_without_focal"))


#: How many of the 57 convolutions and of the 57 batch norms learn.
LEARNING = {
    ("i3d", "all", "none"): (57, 57),
    ("i3d", "all", "partial"): (57, 1),
    ("i3d", "all", "all"): (57, 0),
    ("i3d", "mixed_5", "none"): (12, 12),
    ("i3d", "mixed_5", "all"): (12, 0),
    ("i3d", "head", "none"): (0, 0),
    ("inception2d", "all", "partial"): (57, 1),
    ("inception2d", "mixed_5", "none"): (12, 12),
}


@pytest.mark.parametrize(("backbone", "trainable", "frozen_norm"), LEARNING)
def test_what_is_frozen_does_not_change_in_training(backbone, trainable, frozen_norm):
    frames = 1 if backbone == "inception2d" else 8
    settings = {"backbone": backbone, "trainable": trainable, "frozen_norm": frozen_norm, "attention": False}
    settings |= {"snippet_frames": frames, "validation": {"frames": frames}, "test": {"frames": frames}}
    scorer = build_scorer(StreamConfig.parse(settings, "test"), num_classes=3).train()
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    scorer(torch.rand(2, 1, 3, frames, 32, 32)).logits.square().sum().backward()
    torch.optim.SGD([p for p in scorer.parameters() if p.requires_grad], lr=1.0).step()
    changed = {name for name, value in scorer.state_dict().items() if not torch.equal(value, before[name])}
    convolutions, norms, statistics = (
        {name for name in changed if name.endswith(end)} for end in ("conv.weight", "norm.weight", "norm.running_mean")
    )
    assert (len(convolutions), len(norms)) == LEARNING[backbone, trainable, frozen_norm]
    assert len(statistics) == len(norms)
    if frozen_norm == "partial":
        assert norms == {"backbone.trunk.Conv3d_1a_7x7.norm.weight"}
    assert {"output.weight", "output.bias"} <= changed


def test_channels_innermost_changes_speed_only():
    scorer, x = small(True).eval(), snippets()
    with torch.inference_mode():
        before = scorer(x).logits
        after = scorer.to(memory_format=torch.channels_last_3d)(x).logits
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
