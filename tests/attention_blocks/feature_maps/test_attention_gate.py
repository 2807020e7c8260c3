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
    """The gating map may have any size; it is resized."""
    block = AttentionGate(4, 6, hidden_channels=3)
    draw(block)
    x, gating = torch.randn(2, 4, 6, 4, dtype=torch.float64), torch.randn(2, 6, *size, dtype=torch.float64)
    squares = x.unfold(2, 2, 2).unfold(3, 2, 2)
    query = torch.einsum("bcijyx,hcyx->bhij", squares, block.query_proj.weight)
    assert block.gating_proj.bias is not None
    assert block.score_proj.bias is not None
    gated = torch.einsum("bcij,hc->bhij", gating, block.gating_proj.weight[:, :, 0, 0])
    gated = F.interpolate(gated + block.gating_proj.bias[:, None, None], size=(3, 2), mode="bilinear")
    hidden = (query + gated).clamp(min=0)
    score = torch.einsum("bhij,h->bij", hidden, block.score_proj.weight.flatten()) + block.score_proj.bias
    gate = F.interpolate(1 / (1 + (-score).exp()).unsqueeze(1), size=(6, 4), mode="bilinear")
    torch.testing.assert_close(block(x, gating), x * gate)


def test_the_gating_map_defaults_to_the_input(draw: Draw) -> None:
    block, x = draw(AttentionGate(4)), torch.randn(2, 4, 6, 4, dtype=torch.float64)
    assert torch.equal(block(x), block(x, x))


def test_parameters_of_the_authors_code() -> None:
    """Gate: 2 x 2 without bias for the input, 1 x 1 with bias for the gating map and for the scores."""
    count = 64 * 32 * 4 + (128 * 32 + 32) + (32 + 1)
    assert sum(p.numel() for p in AttentionGate(64, 128).parameters()) == count


def test_supports_odd_sizes() -> None:
    assert AttentionGate(4)(torch.randn(1, 4, 7, 5)).shape == (1, 4, 7, 5)


@pytest.mark.parametrize("name", ["gating_channels", "hidden_channels", "stride"])
def test_refuses_sizes_that_are_not_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got 0"):
        AttentionGate(4, **{name: 0})


def test_refuses_a_gating_map_of_other_channels() -> None:
    with pytest.raises(ValueError, match=r"gating must have shape \(B, C, H, W\) with C = 6, got \(1, 4, 2, 2\)"):
        AttentionGate(4, 6)(torch.randn(1, 4, 4, 4), torch.randn(1, 4, 2, 2))
