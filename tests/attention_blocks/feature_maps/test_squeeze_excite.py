from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import SEModule
from timm.models._efficientnet_blocks import SqueezeExcite as TimmMobile
from torch import nn

from attention_blocks import SqueezeExcite, load_weights

Draw = Callable[[nn.Module], nn.Module]


def test_equals_the_equation_of_the_paper(draw: Draw) -> None:
    block, x = SqueezeExcite(12, reduction=4), torch.randn(2, 12, 5, 3, dtype=torch.float64)
    draw(block)
    squeezed = x.sum((2, 3)) / 15
    hidden = (squeezed @ block.down_proj.weight.T + block.down_proj.bias).clamp(min=0)
    excited = 1 / (1 + (-(hidden @ block.up_proj.weight.T + block.up_proj.bias)).exp())
    torch.testing.assert_close(block(x), torch.einsum("bchw,bc->bchw", x, excited))


@pytest.mark.parametrize(("activation", "gate_activation"), [(nn.ReLU, nn.Sigmoid), (nn.SiLU, nn.Hardsigmoid)])
def test_equals_timm(draw: Draw, activation: type[nn.Module], gate_activation: type[nn.Module]) -> None:
    theirs = draw(SEModule(96, act_layer=activation, gate_layer=gate_activation))
    # timm rounds 96 / 16 up to a multiple of 8.
    ours = SqueezeExcite(96, divisor=8, activation=activation, gate_activation=gate_activation).double()
    load_weights(ours, theirs.state_dict(), "timm")
    x = torch.randn(2, 96, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [8, 24, 72, 200, 1000])
def test_rounds_as_timm_does(channels: int) -> None:
    [theirs, *_] = SEModule(channels).parameters()
    [ours, *_] = SqueezeExcite(channels, divisor=8).parameters()
    assert len(ours) == len(theirs)


def test_takes_the_weights_of_timms_mobile_networks(draw: Draw) -> None:
    theirs = draw(TimmMobile(24, rd_channels=6, act_layer=nn.SiLU))
    ours = SqueezeExcite(24, reduction=4, activation=nn.SiLU).double()
    load_weights(ours, theirs.state_dict(), "timm_efficientnet")
    x = torch.randn(2, 24, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_biases_are_there_and_count(draw: Draw) -> None:
    """Other implementations lack the biases that the authors' networks have."""
    block = SqueezeExcite(32)
    assert sum(p.numel() for p in block.parameters()) == 2 * 32 * 32 // 16 + 32 // 16 + 32
    draw(block)
    nn.init.zeros_(block.up_proj.weight)
    gate = block.gate(torch.randn(1, 32, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(gate.flatten(), block.up_proj.bias.sigmoid())
    assert sum(p.numel() for p in SqueezeExcite(32, bias=False).parameters()) == 2 * 32 * 32 // 16


def test_the_paper_counts_two_and_a_half_million_parameters_in_resnet_50() -> None:
    """Section 6.3: "SE-ResNet-50 introduces ~2.5 million additional parameters", biases not counted."""
    stages = {256: 3, 512: 4, 1024: 6, 2048: 3}
    with torch.device("meta"):
        blocks = [SqueezeExcite(width, bias=False) for width, number in stages.items() for _ in range(number)]
    assert sum(p.numel() for block in blocks for p in block.parameters()) == 2_514_944


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"reduction": 5},
            "reduction must divide channels, got reduction=5 and channels=12; choose one of 2, 3, 4, 6",
        ),
        ({"reduction": 16}, "reduction=16 and channels=12"),
        ({"reduction": 0}, "reduction=0"),
        ({"hidden_channels": 0}, "hidden_channels must be a positive number, got 0"),
        ({"divisor": 0}, "divisor must be a positive number, got 0"),
        ({"divisor": 8, "reduction": 0}, "reduction must be a positive number, got 0"),
    ],
)
def test_refuses_bottlenecks_that_do_not_fit(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SqueezeExcite(12, **arguments)  # type: ignore[arg-type]
