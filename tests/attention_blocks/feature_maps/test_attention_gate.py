from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention_blocks import AttentionGate

Draw = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("size", [(3, 2), (6, 4), (1, 1)])
def test_equals_the_equation(draw: Draw, size: tuple[int, int]) -> None:
    """The coarse map may be of any size; it is resized to where the two are compared."""
    block = AttentionGate(4, 6, hidden_channels=3)
    draw(block)
    x, gating = torch.randn(2, 4, 6, 4, dtype=torch.float64), torch.randn(2, 6, *size, dtype=torch.float64)
    squares = x.unfold(2, 2, 2).unfold(3, 2, 2)
    compared = torch.einsum("bcijyx,hcyx->bhij", squares, block.query_proj.weight)
    assert block.gating_proj.bias is not None
    assert block.score_proj.bias is not None
    looked_for = torch.einsum("bcij,hc->bhij", gating, block.gating_proj.weight[:, :, 0, 0])
    looked_for = F.interpolate(looked_for + block.gating_proj.bias[:, None, None], size=(3, 2), mode="bilinear")
    hidden = (compared + looked_for).clamp(min=0)
    score = torch.einsum("bhij,h->bij", hidden, block.score_proj.weight.flatten()) + block.score_proj.bias
    gate = F.interpolate(1 / (1 + (-score).exp()).unsqueeze(1), size=(6, 4), mode="bilinear")
    torch.testing.assert_close(block(x, gating), x * gate)


def test_without_a_gating_map_the_map_gates_itself(draw: Draw) -> None:
    block, x = draw(AttentionGate(4)), torch.randn(2, 4, 6, 4, dtype=torch.float64)
    assert torch.equal(block(x), block(x, x))


def test_parameters_of_the_authors_code() -> None:
    """Of its gate: 2 x 2 without a bias for the map, 1 x 1 with one for what gates it and for the scores."""
    count = 64 * 32 * 4 + (128 * 32 + 32) + (32 + 1)
    assert sum(p.numel() for p in AttentionGate(64, 128).parameters()) == count


def test_odd_sides_are_let_through_whole() -> None:
    assert AttentionGate(4)(torch.randn(1, 4, 7, 5)).shape == (1, 4, 7, 5)


@pytest.mark.parametrize("name", ["gating_channels", "hidden_channels", "stride"])
def test_refuses_sizes_that_are_not_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got 0"):
        AttentionGate(4, **{name: 0})


def test_refuses_a_gating_map_of_other_channels() -> None:
    with pytest.raises(ValueError, match=r"gating must have shape \(B, C, H, W\) with C = 6, got \(1, 4, 2, 2\)"):
        AttentionGate(4, 6)(torch.randn(1, 4, 4, 4), torch.randn(1, 4, 2, 2))
