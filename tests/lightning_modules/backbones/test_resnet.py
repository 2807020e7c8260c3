"""The small ResNet against torchvision's blocks and the paper's number of parameters."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.resnet import BasicBlock

from lightning_modules import ResidualBlock, SmallResNet


@pytest.mark.parametrize(("widths", "stride"), [((8, 8), 1), ((8, 16), 2)])
def test_a_block_equals_torchvisions(widths: tuple[int, int], stride: int) -> None:
    ours = ResidualBlock(*widths, stride=stride).double()
    theirs = BasicBlock(*widths, stride, ours.shortcut).double()
    names = {"norm": "bn", "shortcut": "downsample"}
    state = ours.state_dict()
    for ours_name, theirs_name in names.items():
        state = {key.replace(ours_name, theirs_name): value for key, value in state.items()}
    theirs.load_state_dict(state)
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_parameters_of_the_papers_network_of_twenty_layers() -> None:
    """Table 6: ResNet-20 on CIFAR-10, 0.27 M, with 1 x 1 shortcuts where sizes differ."""
    assert sum(p.numel() for p in SmallResNet(10, depth=3).parameters()) == 272_474


@pytest.mark.parametrize(("size", "stem_stride"), [((28, 28), 1), ((33, 20), 2), ((4, 4), 1), ((1, 1), 1)])
def test_takes_images_of_any_size(size: tuple[int, int], stem_stride: int) -> None:
    network = SmallResNet(3, (28, 28), 1, stem_stride=stem_stride)
    assert network(torch.randn(2, 1, *size)).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, r"widths .*got \(\)"),
        ({"widths": (16, 0)}, r"widths .*got \(16, 0\)"),
        ({"depth": 0}, r"depth .*got 0"),
        ({"stem_stride": 0}, r"stem_stride .*got 0"),
    ],
)
def test_refuses_sizes_that_are_not_positive(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallResNet(10, **arguments)  # type: ignore[arg-type]
