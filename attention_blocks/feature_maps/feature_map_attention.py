"""Base class of attention on feature maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.weights import Layout as Layout


class FeatureMapAttention(nn.Module):
    """Base class of attention on feature maps; subclass it to use your own block in any network here.

    ::

        (B, C, H, W) ─┬─ gate ─┐
                      └─────── × ──▶ (B, C, H, W)

    A subclass defines :meth:`gate`, and :meth:`forward` if it does more than multiply by the gate. It is built as
    ``Block(channels, **own_arguments)`` and keeps no state between calls.

    Args:
        channels: C, of the input.

    Attributes:
        channels: C.
        layouts: for each layout of weights, its names for the submodules, or for the parameters, of this block; see
            :func:`load_weights`.

    Raises:
        ValueError: ``channels`` is not positive.

    Example:
        Your own block, which keeps the values above the mean of their channel:

        >>> import torch
        >>> from attention_blocks import FeatureMapAttention
        >>> class AboveMean(FeatureMapAttention):
        ...     def gate(self, x):
        ...         return (x > x.mean(dim=(2, 3), keepdim=True)).to(x.dtype)
        >>> AboveMean(channels=1)(torch.tensor([[[[1.0, 2.0, 6.0]]]]))
        tensor([[[[0., 0., 6.]]]])
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {}

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be a positive number, got {channels}")
        self.channels = channels

    def gate(self, x: Tensor) -> Tensor:
        """Gate that multiplies the feature map, for :meth:`forward` and for plots.

        Args:
            x: (B, C, H, W).

        Returns:
            A tensor that broadcasts to (B, C, H, W).
        """
        raise NotImplementedError(f"{type(self).__name__} must define gate(x)")

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Factors of :meth:`gate` by name, for plots; most blocks have one.

        Args:
            x: (B, C, H, W).
        """
        return {"gate": self.gate(x)}

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies the feature map by its gate.

        Args:
            x: (B, C, H, W).

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: ``x`` has another shape.
        """
        check_map(x, self.channels)
        return x * self.gate(x)

    def rearrange(self, key: str, weight: Tensor, layout: Layout) -> Tensor:
        """Reorders a weight of another layout for this block, where the order of its entries differs.

        Args:
            key: name in the state dict of this block.
            weight: in the shape of the layout.
            layout: a key of ``layouts``.

        Returns:
            The weight in the order of this block.
        """
        return weight

    def extra_repr(self) -> str:
        """Shows the channels in the printed module."""
        return f"channels={self.channels}"


@leaf
def check_map(x: Tensor, channels: int, name: str = "x") -> None:
    """Refuses a tensor that is not a feature map with the given channels.

    Args:
        x: the tensor.
        channels: C.
        name: name of the argument, for the message.

    Raises:
        ValueError: the shape is not (B, channels, H, W).
    """
    if x.ndim != 4 or x.size(1) != channels:
        raise ValueError(f"{name} must have shape (B, C, H, W) with C = {channels}, got {tuple(x.shape)}")


def reduced(channels: int, reduction: int) -> int:
    """Channels of a bottleneck, ``channels / reduction``.

    Args:
        channels: C.
        reduction: r.

    Raises:
        ValueError: the reduction is not positive or does not divide the channels.
    """
    if reduction < 1 or channels % reduction:
        divisors = [str(n) for n in range(2, channels + 1) if channels % n == 0]
        raise ValueError(
            f"reduction must divide channels, got reduction={reduction} and channels={channels}; "
            f"choose one of {', '.join(divisors) or '1'}, or pass hidden_channels, or a divisor to round to"
        )
    return channels // reduction


def hidden(channels: int, reduction: int, hidden_channels: int | None, divisor: int | None = None) -> int:
    """Channels of a bottleneck: as given, or reduced and rounded.

    Args:
        channels: C.
        reduction: r.
        hidden_channels: the result itself; overrides the others.
        divisor: round to a multiple of this, at least one; if omitted, the reduction must divide C.

    Raises:
        ValueError: see :func:`reduced`; or ``hidden_channels`` or ``divisor`` is not positive.
    """
    for name, size in (("hidden_channels", hidden_channels), ("divisor", divisor)):
        if size is not None and size < 1:
            raise ValueError(f"{name} must be a positive number, got {size}")
    if hidden_channels is not None:
        return hidden_channels
    if divisor is None:
        return reduced(channels, reduction)
    if reduction < 1:
        raise ValueError(f"reduction must be a positive number, got {reduction}")
    return max(1, math.floor(channels / reduction / divisor + 0.5)) * divisor


def check_kernel_size(kernel_size: int, name: str = "kernel_size") -> None:
    """Refuses a kernel that has no centre.

    Args:
        kernel_size: k.
        name: name of the argument, for the message.

    Raises:
        ValueError: the size is even or not positive.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"{name} must be odd and positive, so that the kernel has a centre, got {kernel_size}")
