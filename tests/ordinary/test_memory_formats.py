"""Checkpointing of activations, memory formats, dtypes, inference mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.ordinary.modules import Case, cast, every_block, every_case, in_both_modes, run, tensors


def gradients(module: nn.Module, outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of inputs and parameters, zeros where there is none."""
    leaves = [*inputs, *(p for p in module.parameters() if p.requires_grad)]
    total = torch.stack([output.square().sum() for output in outputs]).sum()
    if not total.requires_grad:
        return []
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


@every_case
@in_both_modes
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["new", "reentrant"])
def test_checkpointed_activations_give_the_same_gradients(case: Case, training: bool, use_reentrant: bool) -> None:
    module = case.module(training=training, dtype=torch.float64)
    inputs = [
        x.requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in cast(case.inputs(), torch.float64)
    ]
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    if not leaves:
        pytest.skip("no input has a gradient")

    def call(*inputs: Tensor | int) -> tuple[Tensor, ...]:
        return tuple(tensors(module(*inputs)))

    copied = copy.deepcopy(module.state_dict())
    torch.manual_seed(0)
    plain = list(call(*inputs))
    wanted = gradients(module, plain, leaves)
    module.load_state_dict(copied)  # batch norms have moved their statistics
    torch.manual_seed(0)
    outputs = list(checkpoint(call, *inputs, use_reentrant=use_reentrant))
    torch.testing.assert_close(outputs, plain)
    if use_reentrant:
        total = torch.stack([output.square().sum() for output in outputs]).sum()
        every = [*leaves, *(p for p in module.parameters() if p.requires_grad)]
        torch.autograd.backward(total)
        found = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in every]
    else:
        found = gradients(module, outputs, leaves)
    torch.testing.assert_close(found, wanted)


@every_case
@in_both_modes
def test_channels_last(case: Case, training: bool) -> None:
    inputs = case.inputs()
    if not any(isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point() for x in inputs):
        pytest.skip("no feature map")
    module = case.module(training=training)
    other = copy.deepcopy(module).to(memory_format=torch.channels_last)
    last = tuple(
        x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x for x in inputs
    )
    torch.testing.assert_close(run(other, last), run(module, inputs))


@every_case
@in_both_modes
def test_strided_inputs(case: Case, training: bool) -> None:
    """Inputs that are views with other strides, as transpositions and slices are."""
    module, inputs = case.module(training=training), case.inputs()
    other = copy.deepcopy(module)
    strided = tuple(torch.stack([x, x], dim=-1)[..., 0] if isinstance(x, Tensor) and x.ndim > 1 else x for x in inputs)
    torch.testing.assert_close(run(other, strided), run(module, inputs))


@every_block
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_in_training(case: Case, dtype: torch.dtype) -> None:
    module, inputs = case.module(training=True), cast(case.inputs(), dtype)
    outputs = run(module.to(dtype), inputs)
    assert all(output.isfinite().all() for output in outputs)
    for gradient in gradients(module, [output.float() for output in outputs], []):
        assert gradient.isfinite().all()


@every_case
def test_results_of_inference_mode_are_those_without(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    wanted, before = run(module, inputs), [x.clone() if isinstance(x, Tensor) else x for x in inputs]
    with torch.inference_mode():
        torch.testing.assert_close(run(module, inputs), wanted)
    for now, then in zip(inputs, before, strict=True):
        assert torch.equal(torch.as_tensor(now), torch.as_tensor(then)), "an input was overwritten"
    inner = [part.training for part in module.modules()]
    assert not any(inner)
