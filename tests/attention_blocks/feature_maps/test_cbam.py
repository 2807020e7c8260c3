from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from attention_blocks import CBAM, load_weights

Draw = Callable[[nn.Module], nn.Module]


def test_equals_timm(draw: Draw) -> None:
    theirs, ours = draw(CbamModule(64)), CBAM(64, bias=False).double().eval()
    load_weights(ours, theirs.state_dict(), "timm")
    x = torch.randn(2, 64, 9, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_takes_the_released_weights() -> None:
    """Names and shapes as in the networks that the authors released, for 64 channels; the result by the equations."""
    shapes = {
        "ChannelGate.mlp.1.weight": (4, 64),
        "ChannelGate.mlp.1.bias": (4,),
        "ChannelGate.mlp.3.weight": (64, 4),
        "ChannelGate.mlp.3.bias": (64,),
        "SpatialGate.spatial.conv.weight": (1, 2, 7, 7),
        "SpatialGate.spatial.bn.weight": (1,),
        "SpatialGate.spatial.bn.bias": (1,),
        "SpatialGate.spatial.bn.running_mean": (1,),
        "SpatialGate.spatial.bn.running_var": (1,),
    }
    state = {name: torch.rand(shape, dtype=torch.float64) - 0.3 for name, shape in shapes.items()}
    state["SpatialGate.spatial.bn.running_var"] = torch.tensor([1.7], dtype=torch.float64)
    block, given = CBAM(64).double().eval(), torch.randn(2, 64, 9, 5, dtype=torch.float64)
    load_weights(block, state, "authors")

    down, down_bias, up, up_bias, kernel, scale, shift, mean, variance = state.values()
    pools = (given.mean((2, 3)), given.amax((2, 3)))
    mean_logits, max_logits = ((pool @ down.T + down_bias).relu() @ up.T + up_bias for pool in pools)
    channels = (mean_logits + max_logits).sigmoid()
    x = given * channels[:, :, None, None]
    pooled = torch.stack([x.amax(1), x.mean(1)], dim=1)
    scores = (F.conv2d(pooled, kernel, padding=3) - mean) / (variance + 1e-5).sqrt() * scale + shift
    torch.testing.assert_close(block(given), x * scores.sigmoid())


def test_does_not_add_the_input(draw: Draw) -> None:
    """Other implementations add the input inside the block: a gate of zero must give zero."""
    block = CBAM(16)
    draw(block)
    nn.init.constant_(block.channel_attention.up_proj.bias, -1e3)
    assert not block(torch.randn(2, 16, 3, 3, dtype=torch.float64)).any()


def test_parameters_of_the_authors_code() -> None:
    assert sum(p.numel() for p in CBAM(256).parameters()) == (2 * 256 * 16 + 16 + 256) + (2 * 49 + 2)


def test_rounds_as_timm_does() -> None:
    for channels in (20, 24, 100):
        theirs, ours = CbamModule(channels), CBAM(channels, divisor=1, bias=False)
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_calls_both_children(mode: Callable[[], AbstractContextManager[None]], training: bool) -> None:
    block, x = CBAM(16).train(training), torch.randn(2, 16, 5, 4)
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    for child in block.children():
        child.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs[0], output)))
    with mode():
        found = block(x)
    assert [module for module, _, _ in seen] == [block.channel_attention, block.spatial_attention]
    assert seen[0][1] is x
    assert seen[1][1] is seen[0][2]
    assert found is seen[1][2]


@pytest.mark.parametrize("name", ["channel_attention", "spatial_attention"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_child_may_be_replaced_by_an_identity(name: str, mode: Callable[[], AbstractContextManager[None]]) -> None:
    block, x = CBAM(16).eval(), torch.randn(2, 16, 5, 4)
    setattr(block, name, nn.Identity())
    given = x.clone()
    with mode():
        found = block(x)
        [other] = [child for child in block.children() if not isinstance(child, nn.Identity)]
        torch.testing.assert_close(found, other(given))
    assert torch.equal(x, given)
    assert found.data_ptr() != x.data_ptr()
