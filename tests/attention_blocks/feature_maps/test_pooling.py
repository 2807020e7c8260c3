from __future__ import annotations

import pytest
import torch

from attention_blocks.feature_maps.pooling import mean_of


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
