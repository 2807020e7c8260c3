import math

import pytest
import torch
from torch import Tensor

from attention_blocks import SinusoidalPosition


def paper_encoding(length: int, dim: int, base: float = 10000.0) -> Tensor:
    table = torch.zeros(length, dim, dtype=torch.float64)
    for position in range(length):
        for i in range(dim // 2):
            table[position, 2 * i] = math.sin(position / base ** (2 * i / dim))
            table[position, 2 * i + 1] = math.cos(position / base ** (2 * i / dim))
    return table


@pytest.mark.parametrize("base", [10000.0, 100.0])
def test_adds_the_waves_of_the_paper(base: float) -> None:
    x = torch.randn(2, 50, 16, dtype=torch.float64)
    torch.testing.assert_close(SinusoidalPosition(16, base)(x), x + paper_encoding(50, 16, base))


def test_sines_before_cosines_are_the_same_waves_in_another_order() -> None:
    x = torch.zeros(1, 50, 16, dtype=torch.float64)
    paper = paper_encoding(50, 16)
    found = SinusoidalPosition(16, interleaved=False)(x)[0]
    torch.testing.assert_close(found, torch.cat([paper[:, 0::2], paper[:, 1::2]], dim=1))


def test_float32_is_accurate_at_distant_positions() -> None:
    encoded = SinusoidalPosition(16)(torch.zeros(1, 1000, 16))
    torch.testing.assert_close(encoded[0].double(), paper_encoding(1000, 16), atol=1e-4, rtol=0)


def test_pieces_with_offsets_equal_the_whole() -> None:
    x = torch.randn(2, 7, 8)
    position = SinusoidalPosition(8)
    pieces = [position(x[:, :3]), position(x[:, 3:4], offset=3), position(x[:, 4:], offset=4)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), position(x))


def test_half_precision_model_keeps_dtype_and_exact_angles() -> None:
    position = SinusoidalPosition(8).to(torch.bfloat16)
    encoded = position(torch.zeros(1, 3000, 8, dtype=torch.bfloat16))
    assert encoded.dtype == torch.bfloat16
    torch.testing.assert_close(encoded[0].double(), paper_encoding(3000, 8), atol=5e-3, rtol=0)


def test_has_no_state() -> None:
    assert SinusoidalPosition(8).state_dict() == {}


def test_compiles_and_exports() -> None:
    x = torch.randn(2, 5, 8)
    position = SinusoidalPosition(8)
    wanted = x + paper_encoding(5, 8).float()
    compiled = torch.compile(position, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), wanted)
    torch.testing.assert_close(torch.export.export(position, (x,)).module()(x), wanted)


def test_refuses_unfit_sizes() -> None:
    with pytest.raises(ValueError, match=r"dim must be a positive even feature size.*got 7"):
        SinusoidalPosition(7)
    with pytest.raises(ValueError, match="base must be positive, got 0"):
        SinusoidalPosition(8, base=0)
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, 8\).*got \(2, 5, 1\)"):
        SinusoidalPosition(8)(torch.zeros(2, 5, 1))
