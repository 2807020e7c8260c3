from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attention_blocks.kernels import dropout


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, 0.5, self.training)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_drops_the_fraction_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(1000, 1003, dtype=dtype), p)
    assert found.dtype == dtype
    dropped = (found == 0).double().mean().item()
    assert abs(dropped - p) < 5 * (p * (1 - p) / found.numel()) ** 0.5
    # All kept entries are 1 / (1 - p), up to the rounding of p.
    torch.testing.assert_close(torch.unique(found[found != 0]).double().item(), 1 / (1 - p), rtol=1e-2, atol=0)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(torch.unique(found[found != 0]).item(), 1 / (1 - p), rtol=2e-5 / (1 - p), atol=0)


def test_entries_are_dropped_independently_of_their_neighbours() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(2**20), 0.5) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8, 64):
        correlation = (kept[:-lag] * kept[lag:]).mean().item() / 0.25
        assert abs(correlation) < 5 / 2**10


@given(shape=st.lists(st.integers(0, 5), max_size=4), p=st.floats(0, 0.999))
def test_every_entry_is_kept_scaled_or_dropped(shape: list[int], p: float) -> None:
    x = torch.rand(shape) + 1.0
    found = dropout(x, p)
    assert found.shape == x.shape
    ratios = found / x
    assert ((ratios == 0) | torch.isclose(ratios, torch.full_like(x, 1 / (1 - p)), rtol=2e-5 / (1 - p))).all()


def test_gradients_pass_through_kept_entries_only() -> None:
    x = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    found = dropout(x, 0.4)
    (grad,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(grad * x, found)


def test_keeps_the_memory_layout() -> None:
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert dropout(x, 0.5).is_contiguous(memory_format=torch.channels_last)


def test_is_reproducible_by_the_seed_and_differs_between_calls() -> None:
    torch.manual_seed(3)
    first, second = dropout(torch.ones(100), 0.5), dropout(torch.ones(100), 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(torch.ones(100), 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_returns_the_input_when_nothing_is_dropped(p: float, training: bool) -> None:
    x = torch.ones(3)
    assert dropout(x, p, training) is x


def test_compiled_and_transformed_code_uses_torch() -> None:
    torch._dynamo.reset()
    found = torch.compile(Dropping(), backend="eager", fullgraph=True)(torch.ones(1000))
    assert set(found.tolist()) == {0.0, 2.0}
    rows = torch.func.vmap(Dropping(), randomness="different")(torch.ones(2, 100))
    assert not torch.equal(rows[0], rows[1])


def test_the_default_device_does_not_matter() -> None:
    x = torch.ones(9)
    with torch.device("meta"):
        assert dropout(x, 0.5).device == x.device
