"""A network with attention inserted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from attention_blocks import insert_attention
from lightning_modules.classification.classifier import NetworkFactory

Places = int | str | Sequence[int | str]


def attended(
    num_classes: int,
    image_size: tuple[int, int],
    in_channels: int,
    *,
    backbone: NetworkFactory,
    attention: Callable[[int], nn.Module] | None,
    where: Places | None,
) -> nn.Module:
    """Makes a network and puts attention into it.

    Raises:
        ValueError: ``where`` is left out and the network names no ``attention_places``; see :func:`insert_attention`.
        TypeError: ``backbone`` makes no network.
    """
    if isinstance(backbone, str):
        raise TypeError(
            f"backbone must make a network, as functools.partial(TimmNetwork, name={backbone!r}) does, got {backbone!r}"
        )
    network = backbone(num_classes, image_size, in_channels)
    if attention is not None:
        where = getattr(network, "attention_places", None) if where is None else where
        if where is None:
            raise ValueError(
                f"where: {type(network).__name__} names no attention_places, so say where the attention goes: a name "
                "with * for any part, or how much smaller than the image the maps are"
            )
        insert_attention(network, attention, where, example=torch.zeros(1, in_channels, *image_size))
    return network
