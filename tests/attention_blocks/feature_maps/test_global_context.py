from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from timm.layers import GlobalContext as TimmGlobalContext
from torch import nn

from attention_blocks import GlobalContext, load_weights

Draw = Callable[[nn.Module], nn.Module]


def test_takes_the_released_weights_and_equals_the_equation() -> None:
    shapes = {
        "conv_mask.weight": (1, 32, 1, 1),
        "conv_mask.bias": (1,),
        "channel_add_conv.0.weight": (2, 32, 1, 1),
        "channel_add_conv.0.bias": (2,),
        "channel_add_conv.1.weight": (2, 1, 1),
        "channel_add_conv.1.bias": (2, 1, 1),
        "channel_add_conv.3.weight": (32, 2, 1, 1),
        "channel_add_conv.3.bias": (32,),
    }
    state = {name: torch.rand(shape, dtype=torch.float64) - 0.3 for name, shape in shapes.items()}
    block, x = GlobalContext(32).double(), torch.randn(2, 32, 5, 3, dtype=torch.float64)
    load_weights(block, state, "authors")

    score, score_bias, down, down_bias, scale, shift, up, up_bias = (weight.squeeze() for weight in state.values())
    locations = x.flatten(2)
    weights = torch.softmax(torch.einsum("c,bcp->bp", score, locations) + score_bias, dim=1)
    hidden = torch.einsum("bp,bcp->bc", weights, locations) @ down.T + down_bias
    deviation = (hidden - hidden.mean(1, keepdim=True)).square().mean(1, keepdim=True).add(1e-5).sqrt()
    hidden = ((hidden - hidden.mean(1, keepdim=True)) / deviation * scale + shift).relu()
    torch.testing.assert_close(block(x), x + (hidden @ up.T + up_bias)[:, :, None, None])
    torch.testing.assert_close(block.gate(x).flatten(1), weights)


def test_equals_timm(draw: Draw) -> None:
    theirs = draw(TimmGlobalContext(64))
    ours = GlobalContext(64, reduction=8, fuse="multiply", eps=1e-6).double()
    load_weights(ours, theirs.state_dict(), "timm")
    x = torch.randn(2, 64, 9, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_starts_as_the_identity() -> None:
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(GlobalContext(32)(x), x)


def test_refuses_another_way_to_fuse() -> None:
    with pytest.raises(ValueError, match="fuse must be 'add' or 'multiply', got 'mul'"):
        GlobalContext(32, fuse="mul")  # type: ignore[arg-type]


@pytest.mark.parametrize("fuse", ["add", "multiply"])
def test_resets_its_own_parameters(fuse: Literal["add", "multiply"]) -> None:
    block = GlobalContext(512, fuse=fuse)
    assert block.score_weight.shape == (512,)
    assert block.score_bias.shape == (1,)
    down = block.down_proj.weight.clone()
    up = block.up_proj.weight.clone()
    with torch.no_grad():
        for parameter in (block.score_weight, block.score_bias):
            parameter.fill_(7.0)
    block.reset_parameters()
    assert block.score_weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.15)
    assert not block.score_bias.any()
    assert torch.equal(block.down_proj.weight, down)
    assert torch.equal(block.up_proj.weight, up)
    assert block.up_proj.weight.any().item() is (fuse == "multiply")
    if fuse == "add":
        nn.init.ones_(block.up_proj.weight)
        block.reset_parameters()
        assert not block.up_proj.weight.any()
