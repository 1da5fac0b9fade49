"""SlowFast has the published shapes at every stage, the published number of parameters, and two real pathways."""

from __future__ import annotations

import pytest
import torch

from ptune.errors import BadInput
from ptune.model.slowfast import SlowFast

#: Output of each stage for 64 raw frames of 224x224: channels, frames, side; slow, then fast.
#: Source: Feichtenhofer et al. 2019, table 1 (4x16); for 8x8 the slow pathway sees twice the frames.
TABLE_1 = {
    "stem": ((64, 4, 56), (8, 32, 56)),
    "res2": ((256, 4, 56), (32, 32, 56)),
    "res3": ((512, 4, 28), (64, 32, 28)),
    "res4": ((1024, 4, 14), (128, 32, 14)),
    "res5": ((2048, 4, 7), (256, 32, 7)),
}


@pytest.fixture(autouse=True)
def a_seed():
    torch.manual_seed(0)


def shapes_of(network: SlowFast, x: torch.Tensor) -> dict[tuple[str, str], tuple[int, ...]]:
    found = {}
    for pathway in ("slow", "fast", "lateral"):
        for stage, module in getattr(network, pathway).items():
            module.register_forward_hook(
                lambda _module, _x, out, place=(pathway, stage): found.update({place: tuple(out.shape)})
            )
    found["features", ""] = tuple(network.encode(x).shape)
    return found


@pytest.mark.parametrize(("variant", "slow_frames"), [("slowfast_4x16", 4), ("slowfast_8x8", 8)])
def test_shapes_are_those_of_the_published_table(variant, slow_frames):
    raw_frames = torch.empty(1, 3, 64, 224, 224, device="meta")
    with torch.device("meta"):
        shapes = shapes_of(SlowFast(variant=variant), raw_frames[:, :, ::2])
    for stage, ((slow, _, side), (fast, frames, _)) in TABLE_1.items():
        assert shapes["slow", stage] == (1, slow, slow_frames, side, side)
        assert shapes["fast", stage] == (1, fast, frames, side, side)
        if stage != "res5":
            assert shapes["lateral", stage] == (1, 2 * fast, slow_frames, side, side)
    assert shapes["features", ""] == (1, 2304)


@pytest.mark.parametrize(("variant", "millions"), [("slowfast_4x16", 34.48), ("slowfast_8x8", 34.57)])
def test_parameter_count_is_that_of_the_public_models(variant, millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in SlowFast(variant=variant).parameters())
    head = 2304 * 400 + 400
    assert round((count + head) / 1e6, 2) == millions


def test_kernels_last_in_time_where_the_table_says():
    with torch.device("meta"):
        network = SlowFast()
    for pathway, depths in (("slow", (1, 1, 1, 3, 3)), ("fast", (5, 3, 3, 3, 3))):
        for stage, depth in zip(getattr(network, pathway).values(), depths, strict=True):
            found = {m.kernel_size[0] for m in stage.modules() if isinstance(m, torch.nn.Conv3d)}
            assert found - {1} == {depth} - {1}


def test_the_slow_pathway_sees_every_alpha_th_frame_and_the_fast_one_all():
    network, x = SlowFast(2, width=0.125).eval(), torch.randn(1, 2, 16, 32, 32)
    slow_only = network.slow["stem"](x[:, :, ::8])
    heard = {}
    network.slow["stem"].register_forward_hook(lambda _module, _x, out: heard.update(slow=out))
    with torch.inference_mode():
        before = network.encode(x)
        torch.testing.assert_close(heard["slow"], slow_only)
        x[:, :, 5] += 1
        after = network.encode(x)
        torch.testing.assert_close(heard["slow"], slow_only)
    slow = before.shape[1] - network.fast["res5"][-1].convolutions[-1].num_features
    assert not torch.allclose(before[:, slow:], after[:, slow:]), "the fast pathway sees frame 5"
    assert not torch.allclose(before[:, :slow], after[:, :slow]), "the slow pathway hears of it"


def test_a_block_starts_as_its_shortcut_and_learns():
    block = SlowFast(2, width=0.125).train().slow["res4"][1]
    x = torch.rand(2, 128, 2, 4, 4)
    torch.testing.assert_close(block(x), x)
    block(x).square().sum().backward()
    assert block.convolutions[-1].weight.grad.abs().sum() > 0


def test_frames_that_alpha_does_not_divide_are_refused():
    with pytest.raises(BadInput, match="a snippet of 12 frames; expected a multiple of 8 frames"):
        SlowFast(width=0.125).encode(torch.zeros(1, 3, 12, 32, 32))
