from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules import attention_rollout
from lightning_modules.plots.rollout import mean_over_heads


def random_maps(layers: int, batch: int, heads: int | None, length: int) -> list[Tensor]:
    shape = (batch, length, length) if heads is None else (batch, heads, length, length)
    return [torch.randn(shape).mul(3).softmax(dim=-1) for _ in range(layers)]


def rollout_by_loops(maps: list[Tensor], residual: float) -> Tensor:
    """Abnar and Zuidema's equations, element by element in float64."""
    batch, length = maps[0].size(0), maps[0].size(-1)
    result = torch.zeros(batch, length, length, dtype=torch.float64)
    for row in range(batch):
        joined = torch.eye(length, dtype=torch.float64)
        for layer in maps:
            heads = [layer[row]] if layer.ndim == 3 else list(layer[row])
            new = torch.zeros_like(joined)
            for t in range(length):
                for middle in range(length):
                    weight = sum(float(head[t, middle]) for head in heads) / len(heads)
                    weight = (1 - residual) * weight + (residual if t == middle else 0.0)
                    for source in range(length):
                        new[t, source] += weight * joined[middle, source]
            joined = new
        result[row] = joined
    return result


@given(
    layers=st.integers(1, 4),
    batch=st.integers(1, 2),
    heads=st.none() | st.integers(1, 3),
    length=st.integers(1, 5),
    residual=st.floats(0, 1),
)
def test_it_is_the_papers_product(layers: int, batch: int, heads: int | None, length: int, residual: float) -> None:
    maps = random_maps(layers, batch, heads, length)
    rollout = attention_rollout(maps, residual)
    torch.testing.assert_close(rollout.double(), rollout_by_loops(maps, residual), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rollout.sum(dim=-1), torch.ones(batch, length))


def test_with_a_residual_of_one_each_token_attends_to_itself() -> None:
    rollout = attention_rollout(random_maps(3, 2, 2, 4), residual=1.0)
    assert torch.equal(rollout, torch.eye(4).expand(2, 4, 4))


def test_maps_with_and_without_heads_may_follow_each_other() -> None:
    maps = [*random_maps(1, 2, 3, 4), *random_maps(1, 2, None, 4)]
    torch.testing.assert_close(attention_rollout(maps).double(), rollout_by_loops(maps, 0.5), atol=1e-5, rtol=1e-5)


def test_no_maps() -> None:
    with pytest.raises(ValueError, match="maps is empty"):
        attention_rollout([])


@pytest.mark.parametrize("residual", [-0.1, 1.1])
def test_a_residual_out_of_range(residual: float) -> None:
    with pytest.raises(ValueError, match=rf"residual.*\[0, 1\], got {residual}"):
        attention_rollout(random_maps(1, 1, 1, 2), residual)


def test_attention_maps_of_heads_are_averaged() -> None:
    heads = torch.rand(2, 4, 3, 5)
    torch.testing.assert_close(mean_over_heads(heads), sum(heads.unbind(1)) / 4)
    assert mean_over_heads(heads[:, 0]) is not None
    assert torch.equal(heads[:, 0], mean_over_heads(heads[:, 0]))
    assert mean_over_heads(None) is None
