from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attention_blocks import AdditiveAttention
from attention_blocks.kernels import Linear, is_shared, product, unrolled


class Loop(nn.Module):
    """A loop that attends to a memory and applies the same layers at every step."""

    def __init__(self, features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.step = Linear(features, features, bias=bias)
        self.attention = AdditiveAttention(features)
        self.own = Linear(features, features)

    def forward(self, state: Tensor, sequence: Tensor, steps: int, *, need_weights: bool = False) -> list[Tensor]:
        memory = self.attention.project(sequence)
        states = []
        for _ in range(steps):
            context, weights = self.attention.attend(state.unsqueeze(1), memory, need_weights=need_weights)
            state = torch.tanh(self.step(state) + self.own(context.squeeze(1)))
            states.append(state if weights is None else state + weights.square().sum(dim=-1))
        return states


def case(features: int = 3, rows: int = 2, positions: int = 4, *, bias: bool = True) -> tuple[Loop, Tensor, Tensor]:
    loop = Loop(features, bias=bias).double()
    state = torch.randn(rows, features, dtype=torch.float64, requires_grad=True)
    return loop, state, torch.randn(rows, positions, features, dtype=torch.float64, requires_grad=True)


def gradients(loss: Tensor, leaves: Sequence[Tensor], **how: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
    return torch.autograd.grad(loss, leaves, allow_unused=True, **how)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(1, 5),
    rows=st.integers(1, 3),
    features=st.integers(1, 4),
    positions=st.integers(1, 4),
    bias=st.booleans(),
    need_weights=st.booleans(),
)
def test_gradients_equal_torch(
    steps: int, rows: int, features: int, positions: int, bias: bool, need_weights: bool
) -> None:
    loop, state, sequence = case(features, rows, positions, bias=bias)
    leaves = [state, sequence, *loop.parameters()]
    contexts: list[AbstractContextManager[None]] = [nullcontext(), unrolled()]
    results = []
    for context in contexts:
        with context:
            states = torch.stack(loop(state, sequence, steps, need_weights=need_weights))
        results.append((states, gradients(states.square().sum(), leaves)))
    torch.testing.assert_close(results[1], results[0])


def test_each_weight_and_memory_gets_its_gradient_in_one_product() -> None:
    class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.made: Counter[tuple[int, ...]] = Counter()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
            result = func(*args, **(kwargs or {}))
            if "mm" in str(func):
                self.made[tuple(result.shape)] += 1
            return result

    state, sequence = torch.randn(2, 5, requires_grad=True), torch.randn(2, 7, 5, requires_grad=True)
    loop, steps = Loop(5), 6
    with unrolled():
        loss = torch.stack(loop(state, sequence, steps)).sum()
    with Products() as products:
        torch.autograd.backward(loss)
    # step, own, and of the attention query_proj and key_proj; the values attended to.
    assert products.made[5, 5] == 4
    assert products.made[2, 7, 5] == 1


def test_a_graph_may_be_backpropagated_again() -> None:
    loop, state, sequence = case()
    leaves = [state, sequence, *loop.parameters()]
    with unrolled():
        loss = torch.stack(loop(state, sequence, 3)).square().sum()
    first = gradients(loss, leaves, retain_graph=True)
    # Records of a pass to the state alone are not used by the next pass.
    gradients(loss, [state], retain_graph=True)
    torch.testing.assert_close(gradients(loss, leaves), first)


def test_losses_of_some_steps_only() -> None:
    loop, state, sequence = case()
    leaves = [state, sequence, *loop.parameters()]
    with unrolled():
        states = loop(state, sequence, 4)
    plain = loop(state, sequence, 4)
    for step in (0, 3, 1):
        torch.testing.assert_close(
            gradients(states[step].sum(), leaves, retain_graph=True),
            gradients(plain[step].sum(), leaves, retain_graph=True),
        )


def test_gradients_of_gradients() -> None:
    loop, state, sequence = case()
    leaves = [state, sequence, *loop.parameters()]

    def twice() -> tuple[Tensor, ...]:
        once = gradients(torch.stack(loop(state, sequence, 3)).square().sum(), leaves, create_graph=True)
        return gradients(sum((part.square().sum() for part in once), torch.zeros(())), leaves)

    wanted = twice()
    with unrolled():
        torch.testing.assert_close(twice(), wanted)


def test_half_precision_is_summed_at_least_as_accurately() -> None:
    loop, state, sequence = case(16, 8, 9)
    loop, state, sequence = loop.float(), state.float(), sequence.float()
    leaves = list(loop.parameters())
    wanted = gradients(torch.stack(loop(state, sequence, 6)).square().sum(), leaves)
    off = []
    contexts: list[AbstractContextManager[None]] = [nullcontext(), unrolled()]
    for context in contexts:
        with context, torch.autocast("cpu", torch.bfloat16):
            states = torch.stack(loop(state, sequence, 6))
        found = gradients(states.float().square().sum(), leaves)
        assert all(one.dtype == torch.float32 for one in found)
        off.append(sum(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)))
    assert off[1] < 1.2 * off[0]


@pytest.mark.parametrize("frozen", ["step", "attention", "own"])
def test_frozen_inputs_get_no_gradient(frozen: str) -> None:
    loop, state, sequence = case()
    loop.get_submodule(frozen).requires_grad_(False)
    leaves = [each for each in (state, *loop.parameters()) if each.requires_grad]
    wanted = gradients(torch.stack(loop(state, sequence, 3)).sum(), leaves)
    with unrolled():
        torch.testing.assert_close(gradients(torch.stack(loop(state, sequence, 3)).sum(), leaves), wanted)
        torch.autograd.backward(torch.stack(loop(state, sequence, 3)).sum())
    assert all(parameter.grad is None for parameter in loop.get_submodule(frozen).parameters())


def test_uses_torch_where_the_fast_path_does_not_apply() -> None:
    weight, x = nn.Parameter(torch.randn(3, 3)), torch.randn(2, 3)
    assert not is_shared(weight, x)
    with unrolled():
        assert is_shared(weight, x)
        assert not is_shared(weight.detach(), x)
        assert not is_shared(weight, x.double())
        with torch.no_grad():
            assert not is_shared(weight, x)
        assert not is_shared(weight.to("meta"), x.to("meta"))
        found = torch.func.vmap(lambda row: product(row, weight))(x[:, None])
        torch.testing.assert_close(found[:, 0], x @ weight)
        torch._dynamo.reset()
        assert torch.compile(Linear(3, 4), fullgraph=True, backend="eager")(x).shape == (2, 4)
    assert not is_shared(weight, x)


def test_tied_weights_in_both_orientations() -> None:
    weight, x = nn.Parameter(torch.randn(4, 3)), torch.randn(2, 3, requires_grad=True)
    layer = Linear(3, 4, bias=False)
    layer.weight = weight

    def loss() -> Tensor:
        hidden = x
        for _ in range(3):
            hidden = torch.tanh(product(layer(hidden), weight))
        return (hidden.sum() + F.embedding(torch.tensor([0, 2]), weight).sum()).square()

    wanted = gradients(loss(), [weight, x])
    with unrolled():
        torch.testing.assert_close(gradients(loss(), [weight, x]), wanted)
