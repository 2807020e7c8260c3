from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SelectiveKernel as TimmSelectiveKernel
from torch import Tensor, nn

from attention_blocks import SelectiveKernel, load_weights

Draw = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("split_input", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_sizes", [(3, 5), (3, 5, 7)])
def test_equals_timm(draw: Draw, split_input: bool, stride: int, kernel_sizes: tuple[int, ...]) -> None:
    theirs = TimmSelectiveKernel(
        24, 48, kernel_size=list(kernel_sizes), stride=stride, split_input=split_input, rd_channels=8
    )
    draw(theirs)
    ours = SelectiveKernel(
        24,
        48,
        kernel_sizes=kernel_sizes,
        stride=stride,
        groups=1,
        split_input=split_input,
        reduction=6,
        min_hidden=8,
    )
    ours = ours.double().eval()
    load_weights(ours, theirs.state_dict(), "timm")
    x = torch.randn(2, 24, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_takes_the_authors_weights_and_equals_the_equations() -> None:
    """Names and shapes of the first author's bottleneck in PyTorch, for 64 channels: one path is whole, one grouped."""
    norms = {"bn2": 64, "bn2g": 64, "bn_fc1": 4}
    shapes: dict[str, tuple[int, ...]] = {
        "conv2.weight": (64, 64, 3, 3),
        "conv2g.weight": (64, 2, 3, 3),
        "conv_fc1.weight": (4, 64, 1, 1),
        "conv_fc2.weight": (128, 4, 1, 1),
        **{f"{n}.{part}": (w,) for n, w in norms.items() for part in ("weight", "bias", "running_mean", "running_var")},
    }
    state = {name: 0.4 * torch.rand(shape, dtype=torch.float64) + 0.01 for name, shape in shapes.items()}
    state["conv2.weight"] -= 0.2
    state["conv_fc2.weight"] -= 0.2
    block = SelectiveKernel(64, kernel_sizes=(3, 3), groups=(1, 32), min_hidden=1).double().eval()
    load_weights(block, state, "authors")

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, variance, scale, shift))

    x = torch.randn(2, 64, 5, 4, dtype=torch.float64)
    first = norm(F.conv2d(x, state["conv2.weight"], padding=1), "bn2")
    second = norm(F.conv2d(x, state["conv2g.weight"], padding=1, groups=32), "bn2g")
    squeezed = (first + second).mean((2, 3))
    z = norm(squeezed @ state["conv_fc1.weight"].squeeze().T, "bn_fc1")
    a, b = (z @ state["conv_fc2.weight"].squeeze().T).view(2, 2, 64).unbind(1)
    share = (a.exp() / (a.exp() + b.exp()))[:, :, None, None]
    torch.testing.assert_close(block(x), share * first + (1 - share) * second)


def test_the_softmax_is_over_the_paths(draw: Draw) -> None:
    """A known fault of collections: over the batch. Each channel of each row shares 1 out among the paths."""
    block = SelectiveKernel(32, kernel_sizes=(1, 3, 5))
    draw(block)
    gate = block.gate(torch.randn(4, 32, 5, 5, dtype=torch.float64))
    assert gate.shape == (4, 3, 32, 1, 1)
    torch.testing.assert_close(gate.sum(1), torch.ones(4, 32, 1, 1, dtype=torch.float64))
    assert gate.std() > 0.01


def test_the_paper_counts_twenty_seven_and_a_half_million_parameters_in_sknet_50() -> None:
    """Table 1: SKNet-50 with SK[M=2, G=32, r=16], 27.5 M, built here around the block on no memory."""
    total, inside = 0, 64
    with torch.device("meta"):
        modules: list[nn.Module] = [nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64), nn.Linear(2048, 1000)]
        for width, number in ((128, 3), (256, 4), (512, 6), (1024, 3)):
            outside = 2 * width
            for layer in range(number):
                modules += [nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), SelectiveKernel(width)]
                modules += [nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside)]
                if layer == 0:
                    modules += [nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside)]
                inside = outside
    total = sum(p.numel() for module in modules for p in module.parameters())
    assert round(total / 1e6, 1) == 27.5


def test_hooks_see_what_each_layer_returned() -> None:
    """No layer overwrites the output of the one before it."""
    block, seen = SelectiveKernel(32), []
    for layer in block.modules():
        assert not getattr(layer, "inplace", False)
        if not list(layer.children()):
            layer.register_forward_hook(lambda module, inputs, output: seen.append((output, output.detach().clone())))
    block(torch.randn(2, 32, 5, 4))
    assert len(seen) == 2 * 3 + 4
    assert all(torch.equal(output, then) for output, then in seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 5}, "groups must divide the channels, got groups=5 for 32 channels of each path"),
        ({"groups": (1, 2, 3)}, "groups must be one number or one per path"),
        ({"kernel_sizes": (3, 4)}, "kernel_sizes must be odd and positive.*got 4"),
        ({"kernel_sizes": ()}, "kernel_sizes must be positive, got 0"),
        ({"kernel_sizes": (1, 3, 5), "split_input": True}, "paths, 3, must divide channels=32"),
        ({"stride": 0}, "stride must be positive, got 0"),
        ({"out_channels": 48}, "groups=32 for 32 channels of each path and out_channels=48"),
    ],
)
def test_refuses_sizes_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectiveKernel(32, **arguments)  # type: ignore[arg-type]
