"""Focal loss against its definition and its special cases."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from ptune.config import FocalConfig
from ptune.errors import ConfigError
from ptune.train.loss import focal_loss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.1, 0.2, 0.3], [-3.0, 4.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1])


def test_worked_example():
    logits = torch.log(torch.tensor([[0.8, 0.1, 0.1]]))
    expected = -0.5 * (1 - 0.8) ** 2 * math.log(0.8)
    assert focal_loss(logits, torch.tensor([0]), FocalConfig(alpha=0.5, gamma=2)).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_alpha_one_and_gamma_zero_is_cross_entropy_in_value_and_gradient():
    ours, theirs = (LOGITS.float().requires_grad_() for _ in range(2))
    value = focal_loss(ours, LABELS, FocalConfig(alpha=1.0, gamma=0.0))
    reference = cross_entropy(theirs, LABELS)
    value.backward()
    reference.backward()
    assert value.item() == pytest.approx(reference.item(), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)


def test_one_alpha_per_class_weights_the_classes():
    alphas = (0.2, 1.0, 0.5)
    each = [
        focal_loss(LOGITS[i : i + 1], LABELS[i : i + 1], FocalConfig(alpha=1.0, gamma=2.0)).item() for i in range(3)
    ]
    weighted = sum(alphas[int(label)] * value for label, value in zip(LABELS, each, strict=True)) / 3
    assert focal_loss(LOGITS, LABELS, FocalConfig(alpha=alphas, gamma=2.0)).item() == pytest.approx(weighted, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_one_alpha_per_class_is_reweighting_in_value_and_gradient(gamma):
    alphas = (0.2, 1.0, 0.5)
    ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
    value = focal_loss(ours, LABELS, FocalConfig(alpha=alphas, gamma=gamma))
    p = torch.softmax(theirs, dim=1)[torch.arange(3), LABELS]
    weights = torch.tensor(alphas, dtype=torch.float64)[LABELS]
    reweighted = (weights * (1 - p) ** gamma * cross_entropy(theirs, LABELS, reduction="none")).mean()
    value.backward()
    reweighted.backward()
    torch.testing.assert_close(value.double(), reweighted, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_gradient_is_finite_where_the_prediction_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, 0]), FocalConfig(gamma=gamma)).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("alpha", [0.0, 1.5, (0.5, 0.0, 1.0)])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ConfigError, match="alpha must lie in"):
        FocalConfig.parse({"alpha": alpha}, "test")
