from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers.cbam import SpatialAttn
from torch import nn

from attention_blocks import SpatialAttention, load_weights

Draw = Callable[[nn.Module], nn.Module]


def test_equals_the_equation_location_by_location(draw: Draw) -> None:
    block, x = SpatialAttention(6, kernel_size=3), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    draw(block)
    norm = block.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    pooled = F.pad(torch.stack([x.sort(1).values[:, -1], x.sum(1) / 6], dim=1), (1, 1, 1, 1))
    gate = torch.empty(2, 5, 4, dtype=torch.float64)
    for row in range(5):
        for column in range(4):
            square = pooled[:, :, row : row + 3, column : column + 3]
            score = (square * block.conv.weight[0]).sum((1, 2, 3))
            score = (score - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
            gate[:, row, column] = 1 / (1 + (-score).exp())
    torch.testing.assert_close(block(x), x * gate.unsqueeze(1))


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_equals_timm(draw: Draw, kernel_size: int) -> None:
    theirs, ours = draw(SpatialAttn(kernel_size)), SpatialAttention(8, kernel_size).double().eval()
    load_weights(ours, theirs.state_dict(), "timm")
    x = torch.randn(2, 8, 9, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_maxima_are_over_channels_and_count(draw: Draw) -> None:
    """Other implementations pool wrongly: locations with equal means but different maxima have different gates."""
    block = draw(SpatialAttention(4, kernel_size=1))
    x = torch.tensor([[1.0, 1, 1, 1], [4, 0, 0, 0]], dtype=torch.float64).T.reshape(1, 4, 1, 2)
    left, right = block.gate(x).flatten()  # type: ignore[operator]
    assert not torch.isclose(left, right)


def test_counts_and_momentum_are_the_authors() -> None:
    block = SpatialAttention(256)
    assert sum(p.numel() for p in block.parameters()) == 2 * 7 * 7 + 2
    assert block.norm.momentum == 0.01


@pytest.mark.parametrize("kernel_size", [0, 4, -1])
def test_refuses_a_kernel_without_a_centre(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"kernel_size must be odd and positive.*got {kernel_size}"):
        SpatialAttention(8, kernel_size)
