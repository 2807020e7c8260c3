"""A network with attention inserted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from attention_blocks import insert_attention

NetworkFactory = Callable[[int, tuple[int, int], int], nn.Module]
# Module names with * for any part, or strides: the image's size over the feature map's.
Locations = int | str | Sequence[int | str]


def attended(
    num_classes: int,
    image_size: tuple[int, int],
    in_channels: int,
    *,
    network: NetworkFactory,
    attention: Callable[[int], nn.Module] | None,
    where: Locations | None,
) -> nn.Module:
    """Creates a network and inserts attention into it.

    Args:
        num_classes: K.
        image_size: (height, width) in pixels.
        in_channels: C of the images.
        network: creates the network as ``network(num_classes, image_size, in_channels)``.
        attention: creates a block as ``attention(channels)``; ``None`` for the plain network.
        where: see :func:`insert_attention`; defaults to the network's ``attention_locations``.

    Raises:
        ValueError: ``where`` is omitted and the network has no ``attention_locations``; see :func:`insert_attention`.
        TypeError: ``network`` does not create a network.
    """
    if isinstance(network, str):
        raise TypeError(
            f"network must create a network, as functools.partial(TimmNetwork, name={network!r}) does, got {network!r}"
        )
    built = network(num_classes, image_size, in_channels)
    if attention is not None:
        where = getattr(built, "attention_locations", None) if where is None else where
        if where is None:
            raise ValueError(
                f"where: {type(built).__name__} has no attention_locations, so say where the attention goes: a module "
                "name with * for any part, or the image's size over the feature map's"
            )
        insert_attention(built, attention, where, example=torch.zeros(1, in_channels, *image_size))
    return built
