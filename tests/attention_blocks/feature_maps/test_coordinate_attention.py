from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers.coord_attn import CoordAttn
from torch import nn

from attention_blocks import CoordinateAttention, load_weights

Draw = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize(("layout", "bias"), [("timm", False), ("authors", True)])
def test_equals_timm(draw: Draw, layout: str, bias: bool) -> None:
    """The authors' module has timm's names, and biases."""
    theirs = draw(CoordAttn(64, rd_channels=8, bias=bias))
    ours = CoordinateAttention(64, bias=bias).double().eval()
    load_weights(ours, theirs.state_dict(), layout)  # type: ignore[arg-type]
    x = torch.randn(2, 64, 9, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_equals_the_equation_location_by_location(draw: Draw) -> None:
    block, x = CoordinateAttention(4, hidden_channels=3), torch.randn(1, 4, 3, 2, dtype=torch.float64)
    draw(block)
    state = block.state_dict()
    mean, variance, scale, shift = (state[f"norm.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))

    def mapped(name: str, features: torch.Tensor) -> torch.Tensor:
        return state[f"{name}.weight"][..., 0, 0] @ features + state[f"{name}.bias"]

    def squeezed(features: torch.Tensor) -> torch.Tensor:
        y = (mapped("down_proj", features) - mean) / (variance + 1e-5).sqrt() * scale + shift
        return y * (y + 3).clamp(0, 6) / 6

    for row in range(3):
        for column in range(2):
            of_row = mapped("row_proj", squeezed(x[0, :, row].mean(1))).sigmoid()
            of_column = mapped("column_proj", squeezed(x[0, :, :, column].mean(1))).sigmoid()
            torch.testing.assert_close(block(x)[0, :, row, column], x[0, :, row, column] * of_row * of_column)


def test_parameters_of_the_authors_code() -> None:
    """Three convolutions of 1 x 1 with biases and a batch norm, 8 channels between for 64."""
    count = (64 * 8 + 8) + 2 * 8 + 2 * (8 * 64 + 64)
    assert sum(p.numel() for p in CoordinateAttention(64).parameters()) == count


def test_the_bottleneck_has_eight_channels_or_more() -> None:
    assert CoordinateAttention(64).down_proj.out_channels == 8
    assert CoordinateAttention(512).down_proj.out_channels == 16


@pytest.mark.parametrize("arguments", [{"reduction": 0}, {"hidden_channels": -1}])
def test_refuses_sizes_that_are_not_positive(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be a positive number"):
        CoordinateAttention(8, **arguments)  # type: ignore[arg-type]
