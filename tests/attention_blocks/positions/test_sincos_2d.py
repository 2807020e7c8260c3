import math

import pytest
import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

from attention_blocks import SinCosPosition2d


def test_adds_the_waves_of_column_and_row() -> None:
    height, width, dim = 3, 5, 8
    wanted = torch.zeros(height, width, dim, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            for i in range(dim // 4):
                frequency = 10000.0 ** (-i / (dim // 4))
                wanted[row, column, i] = math.sin(column * frequency)
                wanted[row, column, 2 + i] = math.cos(column * frequency)
                wanted[row, column, 4 + i] = math.sin(row * frequency)
                wanted[row, column, 6 + i] = math.cos(row * frequency)
    x = torch.randn(2, height, width, dim, dtype=torch.float64)
    torch.testing.assert_close(SinCosPosition2d(dim)(x), x + wanted)


@pytest.mark.parametrize(("height", "width"), [(14, 14), (6, 9)])
def test_equals_timm(height: int, width: int) -> None:
    table = build_sincos2d_pos_embed([height, width], 32, reverse_coord=True, interleave_sin_cos=True)
    wanted = table.reshape(width, height, 32).transpose(0, 1)
    torch.testing.assert_close(SinCosPosition2d(32)(torch.zeros(1, height, width, 32))[0], wanted, atol=1e-5, rtol=0)


def test_has_no_state_and_keeps_the_dtype() -> None:
    position = SinCosPosition2d(8).to(torch.bfloat16)
    assert position.state_dict() == {}
    assert position(torch.zeros(1, 2, 2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_compiles_and_exports() -> None:
    x = torch.randn(2, 3, 4, 8)
    position = SinCosPosition2d(8)
    wanted = position(x)
    torch.testing.assert_close(torch.compile(position, fullgraph=True, backend="eager")(x), wanted)
    torch.testing.assert_close(torch.export.export(position, (x,)).module()(x), wanted)


def test_refuses_unfit_sizes() -> None:
    with pytest.raises(ValueError, match=r"dim must be a positive multiple of 4.*got 6"):
        SinCosPosition2d(6)
    with pytest.raises(ValueError, match="base must be positive, got -1"):
        SinCosPosition2d(8, base=-1)
    with pytest.raises(ValueError, match=r"x must have shape \(B, H, W, 8\).*got \(1, 8, 3, 3\)"):
        SinCosPosition2d(8)(torch.zeros(1, 8, 3, 3))
