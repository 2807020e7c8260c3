"""Transforms of torch.func: grad, vmap, jvp and their compositions, over inputs and over weights, with masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap

from attention_blocks import (
    AdditiveAttention,
    Attention,
    DotProductAttention,
    LuongAttention,
    MaskedSelfAttention,
    MultiHeadAttention,
    SelfAttention,
    causal_mask,
    fast_paths,
    padding_mask,
)
from tests.ordinary.modules import Case, cast, every_block, run, tensors

# Reading a batch norm's statistics or choosing by values has no rule in vmap; torch's own layers share that.
WITH_MASKS: dict[str, Callable[[], Attention]] = {
    "additive": lambda: AdditiveAttention(8),
    "dot product": lambda: DotProductAttention(8),
    "luong": lambda: LuongAttention(8, score="concat"),
    "multi-head": lambda: MultiHeadAttention(8, num_heads=2),
    "self": lambda: SelfAttention(8, num_heads=2),
    "masked": lambda: MaskedSelfAttention(8, num_heads=2),
    "window": lambda: MaskedSelfAttention(8, num_heads=2, window=3),
}


def floats(inputs: tuple[Tensor | int, ...]) -> tuple[Tensor, ...]:
    """The inputs, if all are tensors of floating-point numbers."""
    found = tuple(x for x in inputs if isinstance(x, Tensor) and x.is_floating_point())
    if len(found) < len(inputs):
        pytest.skip("an input is not a tensor of floating-point numbers")
    return found


def total(module: nn.Module, *inputs: Tensor) -> Tensor:
    """A scalar that depends on every output."""
    outputs = [output.square().sum() for output in tensors(module(*inputs))]
    return torch.stack(outputs).sum()


@every_block
def test_grad_equals_autograd(case: Case) -> None:
    module = case.module(dtype=torch.float64)
    inputs = floats(cast(case.inputs(), torch.float64))
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    if not parameters:
        pytest.skip("no parameters")

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return total(_Bound(module, parameters), *inputs)

    found = grad(loss)(parameters)
    wanted = torch.autograd.grad(total(module, *inputs), list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(found[name], torch.zeros_like(found[name]) if gradient is None else gradient)


class _Bound(nn.Module):
    def __init__(self, module: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.call = lambda *inputs: functional_call(module, parameters, inputs)

    def forward(self, *inputs: Tensor) -> object:
        return self.call(*inputs)  # type: ignore[no-untyped-call, unused-ignore]


@every_block
def test_vmap_over_the_batch_equals_the_batch(case: Case) -> None:
    module = case.module(dtype=torch.float64)
    inputs = floats(cast(case.inputs(), torch.float64))
    rows = vmap(lambda *row: tuple(tensors(module(*(x[None] for x in row)))))(*inputs)
    for found, wanted in zip(rows, run(module, inputs), strict=True):
        torch.testing.assert_close(found.squeeze(1), wanted)


@every_block
def test_gradients_for_each_sample(case: Case) -> None:
    module = case.module(dtype=torch.float64)
    inputs = floats(cast(case.inputs(), torch.float64))
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    if not parameters:
        pytest.skip("no parameters")

    def loss(parameters: dict[str, Tensor], *row: Tensor) -> Tensor:
        return total(_Bound(module, parameters), *(x[None] for x in row))

    found = vmap(grad(loss), in_dims=(None, *[0] * len(inputs)))(parameters, *inputs)
    for index in range(len(inputs[0])):
        scalar = total(module, *(x[index : index + 1] for x in inputs))
        wanted = torch.autograd.grad(scalar, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, wanted, strict=True):
            row = found[name][index]
            torch.testing.assert_close(row, torch.zeros_like(row) if gradient is None else gradient)


@every_block
def test_an_ensemble_by_vmap_over_weights(case: Case) -> None:
    members = [case.module(dtype=torch.float64) for _ in range(3)]
    inputs = floats(cast(case.inputs(), torch.float64))
    parameters, buffers = stack_module_state(members)
    if not parameters:
        pytest.skip("no parameters")

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(tensors(functional_call(members[0], (parameters, buffers), inputs)))

    found = vmap(call)(parameters, buffers)
    for index, member in enumerate(members):
        torch.testing.assert_close([output[index] for output in found], run(member, inputs))


@every_block
def test_forward_mode_equals_reverse_mode(case: Case) -> None:
    module = case.module(dtype=torch.float64)
    inputs = floats(cast(case.inputs(), torch.float64))
    tangents = tuple(torch.randn_like(x) for x in inputs)
    # Torch's fused attention has no forward mode.
    with fast_paths(False):
        found = jvp(lambda *x: total(module, *x), inputs, tangents)[1]
        leaves = [x.clone().requires_grad_() for x in inputs]
        gradients = torch.autograd.grad(total(module, *leaves), leaves, allow_unused=True)
    wanted = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True) if g is not None)
    torch.testing.assert_close(found, torch.as_tensor(wanted))


@every_block
def test_second_derivatives(case: Case) -> None:
    module = case.module(dtype=torch.float64)
    inputs = floats(cast(case.inputs(), torch.float64))
    leaves = [x[:1].clone().requires_grad_() for x in inputs]
    with fast_paths(False):
        assert torch.autograd.gradgradcheck(lambda *x: total(module, *x), leaves, fast_mode=True)


@pytest.mark.parametrize("name", WITH_MASKS)
@pytest.mark.parametrize("need_weights", [False, True], ids=["fused", "explicit"])
def test_vmap_with_causal_and_padding_masks(name: str, need_weights: bool) -> None:
    block = WITH_MASKS[name]().double()
    x, lengths = torch.randn(4, 3, 6, 8, dtype=torch.float64), torch.randint(1, 7, (4, 3))

    def call(x: Tensor, lengths: Tensor) -> Tensor:
        mask = causal_mask(6) & padding_mask(lengths, 6)
        return block(x, x, mask=mask, need_weights=need_weights).context

    found = vmap(call)(x, lengths)
    torch.testing.assert_close(found, torch.stack([call(a, b) for a, b in zip(x, lengths, strict=True)]))


@pytest.mark.parametrize("name", WITH_MASKS)
def test_a_hessian_with_masks(name: str) -> None:
    block = WITH_MASKS[name]().double()
    x, mask = torch.randn(1, 3, 8, dtype=torch.float64), causal_mask(3)

    def loss(x: Tensor) -> Tensor:
        return block(x, x, mask=mask).context.square().sum()

    with fast_paths(False):
        found = jacrev(grad(loss))(x).reshape(24, 24)
        wanted = torch.autograd.functional.hessian(loss, x).reshape(24, 24)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found, found.T)
