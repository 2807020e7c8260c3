from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers.cbam import ChannelAttn
from torch import nn

from attention_blocks import ChannelAttention, load_weights

Draw = Callable[[nn.Module], nn.Module]


def test_equals_the_equation_of_the_paper(draw: Draw) -> None:
    block, x = ChannelAttention(12, reduction=4), torch.randn(2, 12, 5, 3, dtype=torch.float64)
    draw(block)

    def mlp(pooled: torch.Tensor) -> torch.Tensor:
        hidden = (pooled @ block.down_proj.weight.T + block.down_proj.bias).clamp(min=0)
        return hidden @ block.up_proj.weight.T + block.up_proj.bias

    locations = x.reshape(2, 12, 15)
    gate = 1 / (1 + (-mlp(locations.sum(2) / 15) - mlp(locations.sort(2).values[..., -1])).exp())
    torch.testing.assert_close(block(x), torch.einsum("bchw,bc->bchw", x, gate))


def test_equals_timm(draw: Draw) -> None:
    theirs, ours = draw(ChannelAttn(64)), ChannelAttention(64, bias=False).double()
    load_weights(ours, theirs.state_dict(), "timm")
    x = torch.randn(2, 64, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_maxima_are_over_locations_and_count(draw: Draw) -> None:
    """Other implementations pool wrongly: channels with equal means but different maxima have different gates."""
    block = draw(ChannelAttention(2, reduction=1))
    even = torch.ones(1, 2, 2, 2, dtype=torch.float64)
    spiked = torch.tensor([4.0, 0, 0, 0], dtype=torch.float64).view(1, 1, 2, 2).expand(1, 2, 2, 2)
    assert torch.equal(even.mean((2, 3)), spiked.mean((2, 3)))
    assert not torch.allclose(block.gate(even), block.gate(spiked))  # type: ignore[operator]


def test_is_a_sigmoid() -> None:
    """Other implementations lack the sigmoid, so that gates leave (0, 1)."""
    gate = ChannelAttention(16)(10 * torch.ones(1, 16, 2, 2)) / 10
    assert ((gate > 0) & (gate < 1)).all()


def test_refuses_a_reduction_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="reduction must divide channels, got reduction=16 and channels=24"):
        ChannelAttention(24)
