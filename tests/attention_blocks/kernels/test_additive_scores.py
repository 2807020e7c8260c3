from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from attention_blocks.kernels import additive_scores, fast_paths

BATCHED_AXES: list[tuple[int | None, ...]] = [(0, 0, 0), (1, None, None), (None, 2, 0), (None, None, 0), (0, 1, None)]


def inputs(*sizes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, keys, features = sizes
    shapes = (batch, queries, features), (batch, keys, features), (features,)
    query, key, weight = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    return query, key, weight


def bahdanau(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("bqkh,h->bqk", torch.tanh(query[:, :, None] + key[:, None]), weight)


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
        torch.testing.assert_close(additive_scores(*arguments, in_parts=False), wanted)
        upstream = torch.randn_like(wanted)
        torch.testing.assert_close(
            torch.autograd.grad(found, arguments, upstream), torch.autograd.grad(wanted, arguments, upstream)
        )


@pytest.mark.parametrize("in_parts", [True, False])
@pytest.mark.parametrize("queries", [1, 3])
def test_gradients_of_gradients(queries: int, in_parts: bool) -> None:
    arguments, scores = inputs(2, queries, 4, 3), partial(additive_scores, in_parts=in_parts)
    assert torch.autograd.gradcheck(scores, arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(scores, arguments, check_fwd_over_rev=True)


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


@pytest.mark.parametrize("axes", BATCHED_AXES, ids=str)
def test_vmap(axes: tuple[int | None, ...]) -> None:
    arguments = [x.detach() for x in inputs(2, 3, 4, 5)]
    batched = [
        x if axis is None else torch.stack([x, x.flip(0), x + 1], dim=axis)
        for x, axis in zip(arguments, axes, strict=True)
    ]
    found = torch.func.vmap(additive_scores, axes)(*batched)
    for sample in range(3):
        alone = [x if axis is None else x.select(axis, sample) for x, axis in zip(batched, axes, strict=True)]
        torch.testing.assert_close(found[sample], bahdanau(*alone))


def test_transforms_equal_those_of_the_formula() -> None:
    query, key, weight = (x.detach() for x in inputs(2, 3, 4, 5))

    def transformed(scores: Callable[..., Tensor]) -> list[object]:
        def loss(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
            return scores(query[None], key[None], weight).square().sum()

        per_sample = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), (0, 0, None))
        tangents = (query.flip(0), key.flip(1), weight.flip(0))
        return [
            per_sample(query, key, weight),
            torch.func.jvp(scores, (query, key, weight), tangents),
            torch.func.jacrev(scores, argnums=(0, 1, 2))(query, key, weight),
            torch.func.jacfwd(scores, argnums=(0, 1, 2))(query, key, weight),
            torch.func.hessian(loss, argnums=2)(query[0], key[0], weight),
            torch.autograd.functional.jacobian(lambda w: scores(query, key, w), weight),  # type: ignore[no-untyped-call]
        ]

    torch.testing.assert_close(transformed(additive_scores), transformed(bahdanau))


def test_batched_gradients() -> None:
    """As of ``torch.autograd.functional.jacobian(vectorize=True)``, which has no rule for custom functions."""
    arguments, upstream = inputs(2, 3, 4, 5), torch.randn(6, 2, 3, 4, dtype=torch.float64)
    with fast_paths(False):
        found, wanted = (
            torch.autograd.grad(scores(*arguments), arguments, upstream, is_grads_batched=True)
            for scores in (additive_scores, bahdanau)
        )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_traced_by_make_fx(mode: Literal["real", "fake", "symbolic"]) -> None:
    arguments = inputs(2, 3, 4, 5)
    traced = make_fx(lambda *x: additive_scores(*x), tracing_mode=mode)(*arguments)
    with torch.no_grad():
        torch.testing.assert_close(traced(*arguments), bahdanau(*arguments))
    with fast_paths(False):  # for a graph that is trained
        traced = make_fx(lambda *x: additive_scores(*x), tracing_mode=mode)(*arguments)
    torch.testing.assert_close(traced(*arguments), bahdanau(*arguments))


def test_all_paths_give_a_parameter_its_gradient() -> None:
    query, key, weight = inputs(2, 3, 4, 5)
    parameter = nn.Parameter(weight.detach())
    for in_parts in (True, False):
        scores = additive_scores(query, key, parameter, in_parts=in_parts)
        [found] = torch.autograd.grad(scores.square().sum(), parameter)
        [wanted] = torch.autograd.grad(bahdanau(query, key, weight).square().sum(), weight)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_near_the_formula(dtype: torch.dtype) -> None:
    rounded = inputs(2, 3, 4, 8, dtype=dtype)
    wanted = bahdanau(*(each.double() for each in rounded))
    for in_parts in (True, False):
        found = additive_scores(*rounded, in_parts=in_parts)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=16 * torch.finfo(dtype).eps)
        gradients = torch.autograd.grad(found.square().sum(), rounded)
        assert [gradient.dtype for gradient in gradients] == [dtype] * 3
