"""A network with attention inserted, and its layers without that attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from attention_blocks import insert_attention, inserted

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


class WithoutAttention(nn.ModuleList):
    """Modules of a network as one layer, to which the attention inserted into them does not belong.

    Its parameters are those of the modules without the inserted blocks, so that ``requires_grad_`` and an optimiser's
    groups leave the blocks out, and ``train`` and ``eval`` do not change their mode.

    Args:
        modules: modules of a network; they stay parts of it.

    Example:
        >>> from attention_blocks import SqueezeExcite
        >>> network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
        >>> _ = insert_attention(network, SqueezeExcite, "1")
        >>> [name for name, _ in WithoutAttention(network).named_parameters()]
        ['0.weight', '0.bias', '1.host.weight', '1.host.bias']
    """

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by name, without those of inserted attention; arguments as in :class:`nn.Module`."""
        attention = {id(parameter) for block in inserted(self).values() for parameter in block.parameters()}
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if id(parameter) not in attention:
                yield name, parameter

    def train(self, mode: bool = True) -> WithoutAttention:
        """Sets the mode of the modules; inserted attention keeps its own."""
        modes = [(part, part.training) for block in inserted(self).values() for part in block.modules()]
        super().train(mode)
        for part, training in modes:
            part.training = training
        return self
