from __future__ import annotations

import pytest
import torch

from attention_blocks.feature_maps.pooling import mean_of, multiplied


@pytest.mark.parametrize("dim", [1, 3, (2, 3)])
def test_is_the_mean(dim: int | tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    found, wanted = mean_of(x, dim), x.mean(dim, keepdim=True)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((mean * weights).sum(), x)[0] for mean in (found, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_beyond_half_precision(dtype: torch.dtype) -> None:
    x = torch.full((1, 2, 300, 300), 5.0, dtype=dtype)
    assert x.sum((2, 3)).isinf().all() or dtype == torch.bfloat16
    torch.testing.assert_close(mean_of(x, (2, 3)), torch.full((1, 2, 1, 1), 5.0, dtype=dtype))


def test_the_gradient_is_expanded() -> None:
    """One value per channel, expanded to every location."""
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(mean_of(x, (2, 3)).sum(), x)
    assert gradient.untyped_storage().nbytes() <= 2 * 3 * 4


def test_multiplies_by_every_gate_and_overwrites_no_input() -> None:
    x, gates = torch.randn(2, 3, 4, 5), (torch.rand(2, 3, 1, 1), torch.rand(2, 1, 4, 5), torch.rand(1))
    given = x.clone()
    with torch.no_grad():
        found = multiplied(x, *gates)
        assert torch.equal(x, given)
        torch.testing.assert_close(found, x * gates[0] * gates[1] * gates[2])
        assert multiplied(x, gates[0], overwrite=True).data_ptr() == x.data_ptr()
    leaf = given.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(multiplied(leaf, *gates, overwrite=True).sum(), leaf)
    torch.testing.assert_close(gradient, (gates[0] * gates[1] * gates[2]).expand_as(x))
    assert multiplied(given.bfloat16(), gates[0], overwrite=True).dtype == torch.float32
