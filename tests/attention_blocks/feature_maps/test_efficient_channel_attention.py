from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import EcaModule
from torch import nn

from attention_blocks import EfficientChannelAttention, load_weights

Draw = Callable[[nn.Module], nn.Module]


def test_equals_the_equation_channel_by_channel(draw: Draw) -> None:
    block, x = EfficientChannelAttention(6, kernel_size=3), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    draw(block)
    left, middle, right = block.conv.weight.flatten()
    means = [torch.zeros(2, dtype=torch.float64), *(x.sum((2, 3)) / 20).unbind(1), torch.zeros(2, dtype=torch.float64)]
    for channel in range(6):
        before, here, after = means[channel : channel + 3]
        gate = 1 / (1 + (-(left * before + middle * here + right * after)).exp())
        torch.testing.assert_close(block(x)[:, channel], x[:, channel] * gate[:, None, None])


@pytest.mark.parametrize("channels", [16, 64, 256, 2048])
@pytest.mark.parametrize("layout", ["timm", "authors"])
def test_equals_timm(draw: Draw, channels: int, layout: str) -> None:
    """The authors' own module has the same single weight by the same name."""
    theirs, ours = draw(EcaModule(channels)), EfficientChannelAttention(channels).double()
    load_weights(ours, theirs.state_dict(), layout)  # type: ignore[arg-type]
    x = torch.randn(2, channels, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "kernel_size"), [(32, 3), (64, 3), (128, 5), (256, 5), (1024, 5), (2048, 7)])
def test_the_kernel_grows_with_the_channels(channels: int, kernel_size: int) -> None:
    """k = |(log2 C + 1) / 2|, the odd one; a network of 50 layers gains about 80 weights in the paper's table."""
    block = EfficientChannelAttention(channels)
    assert block.conv.kernel_size == (kernel_size,)
    assert sum(p.numel() for p in block.parameters()) == kernel_size


def test_refuses_a_kernel_without_a_centre() -> None:
    with pytest.raises(ValueError, match=r"kernel_size must be odd and positive.*got 4"):
        EfficientChannelAttention(8, 4)
