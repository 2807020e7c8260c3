from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import attention_blocks
from attention_blocks import CBAM, EaseIn, FeatureMapAttention, SqueezeExcite


def _blocks() -> dict[str, Callable[[int], nn.Module]]:
    public = (getattr(attention_blocks, name) for name in attention_blocks.__all__)
    blocks = [c for c in public if inspect.isclass(c) and issubclass(c, FeatureMapAttention)]
    plain = {c.__name__: c for c in blocks if c not in (FeatureMapAttention, EaseIn)}
    return {**plain, "EaseIn": partial(EaseIn, block=CBAM)}


BLOCKS = _blocks()
every_block = pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
every_mode = pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])


def _drawn(make: Callable[[int], nn.Module], training: bool) -> nn.Module:
    block = make(32).train(training)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.3)
    return block


@every_block
@every_mode
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_never_writes_to_a_tensor_that_it_was_given(
    make: Callable[[int], nn.Module],
    mode: Callable[[], AbstractContextManager[None]],
    training: bool,
    layout: torch.memory_format,
) -> None:
    block, x = _drawn(make, training), torch.randn(2, 32, 6, 4).contiguous(memory_format=layout)
    given = x.clone()
    # Neither to the input, nor to what a child was given or returned.
    seen: list[tuple[Tensor, Tensor]] = []
    for part in block.modules():
        part.register_forward_hook(
            lambda module, inputs, output: seen.extend(
                (tensor, tensor.detach().clone()) for tensor in (*inputs, output) if isinstance(tensor, Tensor)
            )
        )
    with mode():
        found = block(x)
        if isinstance(block, FeatureMapAttention):
            block.gate(x)
    assert torch.equal(x, given)
    assert found.data_ptr() != x.data_ptr()
    assert all(torch.equal(tensor, then) for tensor, then in seen)


@every_block
def test_every_child_with_parameters_is_called_with_the_whole_batch(make: Callable[[int], nn.Module]) -> None:
    for training in (True, False):
        block = _drawn(make, training)
        own = {name for name, part in block.named_modules() if list(part.parameters(recurse=False))} - {""}
        sizes: dict[str, list[int]] = {name: [] for name in own}
        for name in own:
            block.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, calls=sizes[name]: calls.append(inputs[0].size(0))
            )
        with torch.set_grad_enabled(training):
            block(torch.randn(3, 32, 6, 4))
        assert all(calls in ([3], [3, 3]) for calls in sizes.values()), sizes


def test_a_block_must_define_its_gate() -> None:
    class Nothing(FeatureMapAttention):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing must define gate\(x\)"):
        Nothing(3)(torch.randn(1, 3, 2, 2))


def test_prints_its_channels() -> None:
    assert "channels=32" in repr(SqueezeExcite(32))
