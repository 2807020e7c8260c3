"""The one contract of attention on feature maps: a map in, the same map out, reweighted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

Layout = Literal["authors", "timm", "timm_efficientnet"]


class FeatureMapAttention(nn.Module):
    """Base of every attention on feature maps; subclass it to bring your own to any network here.

    ::

        (B, C, H, W) ─┬─ gate ─┐
                      └─────── × ──▶ (B, C, H, W)

    A subclass writes :meth:`gate`, and :meth:`forward` too where it does more than multiply. It is built as
    ``Block(channels, **own_arguments)``, and keeps no state between calls.

    Args:
        channels: C, of the maps that come in.

    Attributes:
        channels: as given.
        layouts: by the name of a layout of weights, the layout's name of each submodule of this block.

    Raises:
        ValueError: ``channels`` is not positive.

    Example:
        A block of one's own, which keeps what is above the mean of its channel:

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
        """What multiplies the map, broadcastable to (B, C, H, W): for plots, and for :meth:`forward`.

        Args:
            x: (B, C, H, W).
        """
        raise NotImplementedError(f"{type(self).__name__} must define gate(x)")

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The gates that :meth:`gate` is made of, each by its name, for plots; of most blocks, the one.

        Args:
            x: (B, C, H, W).
        """
        return {"gate": self.gate(x)}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W).

        Raises:
            ValueError: ``x`` has another shape.
        """
        check_map(x, self.channels)
        return x * self.gate(x)

    def rearrange(self, key: str, weight: Tensor, layout: Layout) -> Tensor:
        """A weight of a layout, its numbers in the order they have here; for blocks where the orders differ.

        Args:
            key: its name in the state dict of this block.
            weight: in the layout's own shape.
            layout: a key of ``layouts``.
        """
        return weight

    def extra_repr(self) -> str:
        """Shown when a network is printed."""
        return f"channels={self.channels}"


def check_map(x: Tensor, channels: int, name: str = "x") -> None:
    """Refuses what is no feature map of so many channels.

    Raises:
        ValueError: the shape is not (B, channels, H, W).
    """
    if x.ndim != 4 or x.size(1) != channels:
        raise ValueError(f"{name} must have shape (B, C, H, W) with C = {channels}, got {tuple(x.shape)}")


def reduced(channels: int, reduction: int) -> int:
    """Channels of a bottleneck.

    Raises:
        ValueError: the reduction is not positive, does not divide the channels, or leaves none.
    """
    if reduction < 1 or channels % reduction:
        divisors = [str(n) for n in range(2, channels + 1) if channels % n == 0]
        raise ValueError(
            f"reduction must divide channels, got reduction={reduction} and channels={channels}; "
            f"choose one of {', '.join(divisors) or '1'}, or say hidden_channels, or a divisor to round to"
        )
    return channels // reduction


def hidden(channels: int, reduction: int, hidden_channels: int | None, divisor: int | None = None) -> int:
    """Channels of a bottleneck, as given, or reduced and rounded.

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
    """Refuses a kernel without a middle.

    Raises:
        ValueError: the size is even or not positive.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"{name} must be odd and positive, so that a place is its kernel's middle, got {kernel_size}")
