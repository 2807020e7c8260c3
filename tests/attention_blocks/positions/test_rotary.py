import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_blocks import MultiHeadAttention, RotaryPosition


def turned(x: Tensor, *, base: float = 10000.0, offset: int = 0) -> Tensor:
    """Equation 34 of the paper as a product of complex numbers, pairs taken from the two halves."""
    half = x.size(-1) // 2
    result = torch.zeros_like(x, dtype=torch.float64)
    for position in range(x.size(-2)):
        for i in range(half):
            pair = torch.complex(x[..., position, i].double(), x[..., position, i + half].double())
            angle = torch.tensor((position + offset) * base ** (-2 * i / x.size(-1)), dtype=torch.float64)
            pair = pair * torch.polar(torch.ones_like(angle), angle)
            result[..., position, i], result[..., position, i + half] = pair.real, pair.imag
    return result


@pytest.mark.parametrize(("base", "offset"), [(10000.0, 0), (500000.0, 5)])
def test_rotates_pairs_like_complex_numbers(base: float, offset: int) -> None:
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    rotary = RotaryPosition(8, base=base)
    torch.testing.assert_close(rotary(x, offset=offset), turned(x, base=base, offset=offset))


@settings(max_examples=25, deadline=None)
@given(query=st.integers(0, 200), key=st.integers(0, 200), shift=st.integers(0, 500))
def test_scores_depend_on_the_distance_alone(query: int, key: int, shift: int) -> None:
    rotary = RotaryPosition(16)
    generator = torch.Generator().manual_seed(query)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator, dtype=torch.float64)
    here = (rotary(q, offset=query) * rotary(k, offset=key)).sum()
    there = (rotary(q, offset=query + shift) * rotary(k, offset=key + shift)).sum()
    torch.testing.assert_close(here, there)


def test_scores_depend_on_the_distance() -> None:
    rotary = RotaryPosition(16)
    q, k = torch.randn(2, 1, 1, 1, 16)
    assert not torch.allclose((rotary(q) * rotary(k)).sum(), (rotary(q, offset=3) * rotary(k)).sum(), atol=1e-3)


def test_keeps_lengths() -> None:
    x = torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(RotaryPosition(8)(x).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_stay_exact_in_half_precision_and_under_autocast(dtype: torch.dtype) -> None:
    rotary = RotaryPosition(8).to(dtype)
    x = torch.randn(1, 1, 4, 8).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        y = rotary(x, offset=3001)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), turned(x, offset=3001), atol=0.02, rtol=0.01)


def test_attention_rotates_queries_and_keys_but_not_values() -> None:
    attention = MultiHeadAttention(16, num_heads=2, rotary=RotaryPosition).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)

    def heads(y: Tensor) -> Tensor:
        return y.view(2, 5, 2, 8).transpose(1, 2)

    scores = turned(heads(attention.query_proj(x))) @ turned(heads(attention.key_proj(x))).mT / 8**0.5
    context = scores.softmax(-1) @ heads(attention.value_proj(x))
    wanted = attention.out_proj(context.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, x).context, wanted)


def test_gradcheck() -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RotaryPosition(4), x)


def test_compiles_and_exports() -> None:
    x = torch.randn(2, 3, 5, 8)
    rotary = RotaryPosition(8)
    wanted = turned(x).float()
    torch.testing.assert_close(torch.compile(rotary, fullgraph=True, backend="eager")(x), wanted)
    torch.testing.assert_close(torch.export.export(rotary, (x,)).module()(x), wanted)


def test_refuses_unfit_sizes() -> None:
    with pytest.raises(ValueError, match=r"head_dim must be positive and even.*got 5"):
        RotaryPosition(5)
    with pytest.raises(ValueError, match="base must be positive, got 0"):
        RotaryPosition(4, base=0)
    with pytest.raises(ValueError, match=r"x must have shape \(B, N, T, 8\), got \(2, 3, 5, 6\)"):
        RotaryPosition(8)(torch.zeros(2, 3, 5, 6))
