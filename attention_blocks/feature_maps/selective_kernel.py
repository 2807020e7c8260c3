"""Selective kernels: attention over convolutions with several kernel sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import (
    FeatureMapAttention,
    Layout,
    check_kernel_size,
    check_map,
)
from attention_blocks.feature_maps.pooling import mean_of
from attention_blocks.normalised import Normalised, normalised


class SelectiveKernel(FeatureMapAttention):
    """Convolution whose kernel size is selected by attention, for each channel.

    ::

                       ┌─ 3 x 3 ─ norm ─ ReLU ─┐ U₁            ┌─ x a ─┐
        (B, C, H, W) ──┤                       ├── split, fuse ┤       + ──▶ (B, out, H / stride, W / stride)
                       └─ 5 x 5 ─ norm ─ ReLU ─┘ U₂            └─ x b ─┘

        z = relu(BN(W mean(U₁ + U₂)));   a, b = softmax over the paths of (A z, B z);   out = a U₁ + b U₂

    A 5 x 5 kernel is a 3 x 3 kernel with dilation 2. The block replaces a 3 x 3 convolution with its norm and ReLU.

    Args:
        channels: C.
        out_channels: defaults to ``channels``.
        kernel_sizes: of the paths; 3 and 5 in the authors' code.
        stride: of every path.
        groups: of every path, or one number per path; 32 in the authors' code, 1 by default in timm.
        reduction: from ``out_channels`` to z; 16 in the authors' code.
        min_hidden: smallest size of z; 32 in the authors' code.
        split_input: split the channels between the paths, as timm does by default.

    Raises:
        ValueError: groups or paths do not divide the channels; a kernel's size is even; a size is not positive.

    References:
        Li et al. 2019, "Selective Kernel Networks".

    Example:
        >>> import torch
        >>> block = SelectiveKernel(channels=64, stride=2)
        >>> block(torch.randn(2, 64, 8, 8)).shape, block.gate(torch.randn(2, 64, 8, 8)).shape
        (torch.Size([2, 64, 4, 4]), torch.Size([2, 2, 64, 1, 1]))
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        # The first author's network in PyTorch: kernel_sizes=(3, 3), groups=(1, 32), min_hidden=1.
        "authors": {
            "paths.0.0": "conv2",
            "paths.0.1": "bn2",
            "paths.1.0": "conv2g",
            "paths.1.1": "bn2g",
            "down_proj": "conv_fc1",
            "norm": "bn_fc1",
            "up_proj": "conv_fc2",
        },
        "timm": {
            **{f"paths.{path}.0": f"paths.{path}.conv" for path in range(8)},
            **{f"paths.{path}.1": f"paths.{path}.bn" for path in range(8)},
            "down_proj": "attn.fc_reduce",
            "norm": "attn.bn",
            "up_proj": "attn.fc_select",
        },
    }

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        kernel_sizes: Sequence[int] = (3, 5),
        stride: int = 1,
        groups: int | Sequence[int] = 32,
        reduction: int = 16,
        min_hidden: int = 32,
        split_input: bool = False,
    ) -> None:
        super().__init__(channels)
        out_channels = channels if out_channels is None else out_channels
        paths = len(kernel_sizes)
        groups = [groups] * paths if isinstance(groups, int) else list(groups)
        given = (("out_channels", out_channels), ("stride", stride), ("reduction", reduction))
        for name, size in (*given, ("min_hidden", min_hidden), ("kernel_sizes", paths)):
            if size < 1:
                raise ValueError(f"{name} must be positive, got {size}")
        if len(groups) != paths:
            raise ValueError(f"groups must be one number or one per path, got {groups} for kernel_sizes={kernel_sizes}")
        if split_input and channels % paths:
            raise ValueError(
                f"split_input splits the channels: the number of paths, {paths}, must divide channels={channels}"
            )
        path_channels = channels // paths if split_input else channels
        for kernel_size, number in zip(kernel_sizes, groups, strict=True):
            check_kernel_size(kernel_size, "kernel_sizes")
            if number < 1 or path_channels % number or out_channels % number:
                raise ValueError(
                    f"groups must divide the channels, got groups={number} for {path_channels} channels of each path "
                    f"and out_channels={out_channels}"
                )
        self.split_input = split_input
        self.paths = nn.ModuleList(
            _path(path_channels, out_channels, kernel_size, stride, number)
            for kernel_size, number in zip(kernel_sizes, groups, strict=True)
        )
        width = max(out_channels // reduction, min_hidden)
        self.down_proj = nn.Linear(out_channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.activation = nn.ReLU()
        self.up_proj = nn.Linear(width, paths * out_channels, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """(B, paths, out, 1, 1), weight of each path in each channel; the weights of a channel sum to 1."""
        return self._select(self._split(x))

    def forward(self, x: Tensor) -> Tensor:
        """Applies all paths and sums them, weighted by :meth:`gate`.

        Args:
            x: (B, C, H, W).

        Returns:
            (B, out, H / stride, W / stride), sizes rounded up.

        Raises:
            ValueError: ``x`` has another shape.
        """
        check_map(x, self.channels)
        paths = self._split(x)
        gate = self._select(paths)  # (B, paths, out, 1, 1)
        weighted = [path * gate[:, index] for index, path in enumerate(paths)]
        return sum(weighted[1:], weighted[0])

    def _split(self, x: Tensor) -> list[Tensor]:
        parts = x.chunk(len(self.paths), dim=1) if self.split_input else [x] * len(self.paths)
        return [path(parts[index]) for index, path in enumerate(self.paths)]

    def _select(self, paths: list[Tensor]) -> Tensor:
        # The mean of a sum is the sum of the means, which saves adding the feature maps.
        squeezed = sum((mean_of(path, (2, 3)) for path in paths[1:]), mean_of(paths[0], (2, 3))).flatten(1)  # (B, out)
        scores = self.up_proj(self.activation(normalised(self.norm, self.down_proj(squeezed))))  # (B, paths * out)
        return scores.unflatten(1, (len(paths), -1)).softmax(dim=1)[..., None, None].to(paths[0].dtype)


def _path(channels: int, out_channels: int, kernel_size: int, stride: int, groups: int) -> Normalised:
    dilation = max(1, (kernel_size - 1) // 2)
    size = min(kernel_size, 3)
    convolution = nn.Conv2d(
        channels,
        out_channels,
        size,
        stride=stride,
        padding=dilation if size == 3 else 0,
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    return Normalised(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())
