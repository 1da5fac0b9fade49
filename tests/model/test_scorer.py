"""A video's logits are equation 1: attention-weighted snippet features, divided by K, through one linear layer."""

from __future__ import annotations

import pytest
import torch

from ptune.config.stream import StreamConfig
from ptune.model.attention import AttentionUnit
from ptune.model.inception import I3DTrunk
from ptune.model.scorer import Scorer, build_scorer


@pytest.fixture(autouse=True)
def two_threads_and_a_seed():
    torch.set_num_threads(2)
    torch.manual_seed(0)


def small(attention: bool, dropout: float = 0.0) -> Scorer:
    return Scorer(I3DTrunk(2, width=0.125), 3, attention, attention_width=16, dropout=dropout)


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
        e = torch.stack([plain.backbone.features(video).mean(dim=(2, 3, 4)).mean(dim=0) for video in x])
        torch.testing.assert_close(plain(x).logits, plain.output(e))


def test_no_attention_has_no_attention_parameters():
    names = dict(small(False).named_parameters())
    assert not any("attention" in name for name in names)


def test_weighting_features_is_weighting_logits_but_for_the_bias():
    scorer, x = small(True).eval(), snippets() * torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1, 1, 1)
    torch.nn.init.normal_(scorer.attention.output.weight)
    with torch.inference_mode():
        logits, weights = scorer(x)
        assert weights.std() > 0.01
        snippet_logits = torch.stack([scorer.output(scorer.encode(video)) for video in x])
        bias = scorer.output.bias
        weighted = (weights[..., None] * snippet_logits).mean(dim=1)
        torch.testing.assert_close(logits, weighted + bias * (1 - weights.mean(dim=1, keepdim=True)))


def test_the_sum_is_divided_by_k_not_by_the_weights():
    scorer, x = small(True).eval(), snippets()
    with torch.inference_mode():
        torch.nn.init.constant_(scorer.attention.output.bias, -100.0)
        torch.testing.assert_close(scorer(x).logits, scorer.output.bias.expand(2, 3))


def test_a_snippet_alone_is_a_video_of_one_segment():
    scorer, x = small(False).eval(), snippets(4, 1)
    with torch.inference_mode():
        expected = scorer.output(scorer.backbone.features(x[:, 0]).mean(dim=(2, 3, 4)))
        torch.testing.assert_close(scorer(x).logits, expected)
        logits, attention = scorer.snippet_scores(x[:, 0])
        torch.testing.assert_close(logits, expected)
        assert attention.shape == (4,)


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


@pytest.mark.parametrize(("modality", "channels"), [("rgb", 3), ("flow", 2), ("mb", 2)])
def test_the_stream_decides_the_scorer(modality, channels):
    stream = StreamConfig(modality=modality, width=0.125, attention=False, dropout=0.25, init="random")
    scorer = build_scorer(stream, num_classes=4)
    assert scorer.backbone.in_channels == channels
    assert scorer.backbone.feature_channels == 128
    assert scorer.output.out_features == 4
    assert scorer.attention is None
    assert scorer.dropout.p == 0.25


def test_channels_innermost_changes_speed_only():
    scorer, x = small(True).eval(), snippets()
    with torch.inference_mode():
        before = scorer(x).logits
        after = scorer.to(memory_format=torch.channels_last_3d)(x).logits
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
