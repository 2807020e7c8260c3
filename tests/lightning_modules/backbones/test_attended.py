"""Networks with attention inserted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from attention_blocks import CBAM, FeatureMapAttention, SimAM, inserted
from lightning_modules import SmallResNet
from lightning_modules.backbones.attended import Locations, NetworkFactory, attended

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
