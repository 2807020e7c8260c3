"""Networks with attention inserted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from attention_blocks import BAM, CBAM, FeatureMapAttention, SimAM, insert_attention, inserted
from lightning_modules import SmallResNet
from lightning_modules.backbones.attended import Locations, NetworkFactory, WithoutAttention, attended

TINY = partial(SmallResNet, widths=(8, 16), depth=1)


def users_network(num_classes: int, image_size: tuple[int, int], channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def build(
    network: NetworkFactory, attention: Callable[[int], FeatureMapAttention] | None, where: Locations | None = None
) -> nn.Module:
    return attended(3, (12, 12), 1, network=network, attention=attention, where=where)


def test_locations_are_the_networks_own_or_given() -> None:
    assert list(inserted(build(TINY, SimAM))) == ["stages.0.0.norm2", "stages.1.0.norm2"]
    assert list(inserted(build(TINY, SimAM, [1, "stem.0"]))) == ["stem.0", "stages.0"]


def test_blocks_get_the_channels_at_their_location_and_the_network_its_sizes() -> None:
    network = build(TINY, partial(CBAM, reduction=4))
    assert [block.channels for block in inserted(network).values()] == [8, 16]
    assert network(torch.randn(2, 1, 12, 12)).shape == (2, 3)


def test_without_attention_it_is_the_plain_network() -> None:
    network = build(TINY, None)
    assert not inserted(network)
    assert network.state_dict().keys() == TINY(3, (12, 12), 1).state_dict().keys()


def test_a_network_without_attention_locations_needs_where() -> None:
    with pytest.raises(ValueError, match=r"where: Sequential .* attention_locations"):
        build(users_network, SimAM)
    assert list(inserted(build(users_network, SimAM, "0"))) == ["0"]


def test_a_name_in_place_of_a_network_is_refused() -> None:
    with pytest.raises(TypeError, match=r"partial\(TimmNetwork, name='resnet18'\).* got 'resnet18'"):
        build("resnet18", None)  # type: ignore[arg-type]


class Scaled(nn.Module):
    """A block of a CNN that has a parameter of its own, and dropout by its own mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.dropout(self.norm(x), training=self.training)


def test_attention_does_not_belong_to_the_layer_that_it_was_inserted_into() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), Scaled(), nn.ReLU())
    plain = {name: id(parameter) for name, parameter in network.named_parameters()}
    insert_attention(network, BAM, ["0", "1.norm", "1"])
    blocks = nn.ModuleList(inserted(network).values())
    layer = WithoutAttention(network)
    assert {id(parameter) for parameter in layer.parameters()} == set(plain.values())

    layer.requires_grad_(False)
    assert {id(p) for p in network.parameters() if p.requires_grad} == {id(p) for p in blocks.parameters()}
    layer.eval()
    assert all(part.training for part in blocks.modules())
    inside = {id(part) for part in blocks.modules()}
    assert not any(part.training for part in network[1].modules() if id(part) not in inside)
    layer.train()
    inserted(network)["1"].eval()
    layer.train()
    assert not inserted(network)["1"].training
    assert all(part.training for part in network[1].modules() if id(part) not in inside)


def test_a_layer_without_attention_is_an_ordinary_list() -> None:
    network = TINY(3, (12, 12), 1)
    layer = WithoutAttention([network.stem, network.stages])
    assert list(layer.named_parameters()) == list(nn.ModuleList(layer).named_parameters())
    layer.eval()
    assert not any(part.training for part in network.stages.modules())
    assert network.training
