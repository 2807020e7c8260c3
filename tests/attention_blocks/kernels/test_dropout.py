from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

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


def test_compiled_code_uses_torch() -> None:
    torch._dynamo.reset()
    found = torch.compile(Dropping(), backend="eager", fullgraph=True)(torch.ones(1000))
    assert set(found.tolist()) == {0.0, 2.0}


def test_the_default_device_does_not_matter() -> None:
    x = torch.ones(9)
    with torch.device("meta"):
        assert dropout(x, 0.5).device == x.device


def _views_under_vmap() -> bool:
    try:
        torch.vmap(lambda x: x.view(torch.int16))(torch.zeros(2, 2, dtype=torch.int64))
    except RuntimeError:
        return False
    return True


needs_views = pytest.mark.skipif(not _views_under_vmap(), reason="this torch has no views of another dtype in vmap")


@needs_views
@pytest.mark.parametrize("function", [Dropping(), nn.Dropout(0.5)], ids=["ours", "torch"])
def test_vmap_draws_the_same_mask_for_all_samples_or_different_ones(function: nn.Module) -> None:
    x = torch.ones(3, 5, 41)
    same = torch.func.vmap(function, randomness="same")(x)
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert set(same.unique().tolist()) == {0.0, 2.0}
    different = torch.func.vmap(function, randomness="different")(x)
    assert set(different.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(different[0], different[1])
    assert not torch.equal(different[1], different[2])
    assert not torch.equal(different, torch.func.vmap(function, randomness="different")(x))
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(function)(x)


@needs_views
def test_per_sample_gradients_pass_through_kept_entries() -> None:
    x = torch.randn(4, 30, dtype=torch.float64)

    def run(row: Tensor) -> tuple[Tensor, Tensor]:
        found = dropout(row, 0.4)
        return found.sum(), found

    of_rows = torch.func.vmap(torch.func.grad(run, has_aux=True), randomness="different")
    gradients, found = of_rows(x)
    torch.testing.assert_close(gradients * x, found)
    assert not torch.equal(gradients[0], gradients[1])


def test_tangents_are_dropped_as_the_values_are() -> None:
    x = torch.randn(50, 7, dtype=torch.float64) + 9
    found, tangent = torch.func.jvp(lambda y: dropout(y, 0.4), (x,), (3 * x,))  # type: ignore[misc]
    assert (found == 0).any()
    torch.testing.assert_close(tangent, 3 * found)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_traced_mask_is_drawn_at_each_call(mode: Literal["real", "fake", "symbolic"]) -> None:
    x = torch.ones(9, 111)
    traced = make_fx(lambda y: dropout(y, 0.5), tracing_mode=mode)(x)
    first, second = traced(x), traced(x)
    assert not torch.equal(first, second)
    for found in (first, second):
        assert found.shape == x.shape
        assert set(found.unique().tolist()) == {0.0, 2.0}


def test_compiled_network_with_gradients() -> None:
    torch._dynamo.reset()
    x = torch.ones(1000, requires_grad=True)
    found = torch.compile(Dropping(), backend="aot_eager", fullgraph=True)(x)
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, found)
