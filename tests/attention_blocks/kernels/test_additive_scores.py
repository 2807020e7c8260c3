from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_blocks.kernels import additive_scores


def inputs(*sizes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, keys, features = sizes
    shapes = (batch, queries, features), (batch, keys, features), (1, features)
    query, key, weight = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    return query, key, weight


def bahdanau(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("bqkh,h->bqk", torch.tanh(query[:, :, None] + key[:, None]), weight[0])


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(0, 3),
    queries=st.integers(0, 7),
    keys=st.integers(0, 5),
    features=st.integers(1, 4),
    chunk=st.integers(1, 80),
)
def test_scores_and_gradients_by_parts(batch: int, queries: int, keys: int, features: int, chunk: int) -> None:
    arguments = inputs(batch, queries, keys, features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["attention_blocks.kernels.additive_scores"], "CPU_CHUNK", chunk)
        found, wanted = additive_scores(*arguments), bahdanau(*arguments)
        torch.testing.assert_close(found, wanted)
        upstream = torch.randn_like(wanted)
        torch.testing.assert_close(
            torch.autograd.grad(found, arguments, upstream), torch.autograd.grad(wanted, arguments, upstream)
        )


@pytest.mark.parametrize("queries", [1, 3])
def test_gradients_of_gradients(queries: int) -> None:
    arguments = inputs(2, queries, 4, 3)
    assert torch.autograd.gradcheck(additive_scores, arguments)
    assert torch.autograd.gradgradcheck(additive_scores, arguments)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_inputs_get_no_gradient(frozen: int) -> None:
    arguments = inputs(2, 3, 4, 5)
    arguments[frozen].requires_grad_(False)
    others = [each for each in arguments if each.requires_grad]
    for create_graph in (False, True):
        grad = partial(torch.autograd.grad, inputs=others, create_graph=create_graph)
        torch.testing.assert_close(
            grad(additive_scores(*arguments).square().sum()), grad(bahdanau(*arguments).square().sum())
        )


def test_half_precision_is_summed_in_float32() -> None:
    rounded = inputs(4, 300, 6, 8, dtype=torch.bfloat16)
    upstream = torch.rand(4, 300, 6).bfloat16()
    wanted = torch.autograd.grad(bahdanau(*(each.double() for each in rounded)), rounded, upstream.double())
    found = torch.autograd.grad(additive_scores(*rounded), rounded, upstream)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - other).float().norm() < 0.01 * other.float().norm()


def test_the_hidden_layer_of_all_pairs_is_never_stored() -> None:
    query, key, weight = inputs(2, 400, 30, 16, dtype=torch.float32)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        additive_scores(query, key, weight)
    assert max(kept) == max(query.numel(), key.numel())
