"""A small residual network for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions with a residual connection.

    ::

        x ─┬─ conv 3x3 / stride ─ norm ─ ReLU ─ conv 3x3 ─ norm ─┐
           └───────── (1x1 / stride ─ norm, if sizes differ) ─── + ─ ReLU ─▶

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        stride: stride of the first convolution.

    References:
        He et al. 2016, "Deep Residual Learning for Image Recognition".

    Example:
        >>> import torch
        >>> ResidualBlock(8, 16, stride=2)(torch.randn(2, 8, 7, 7)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network whose stages, except the first, each halve height and width.

    ::

        images ─ conv 3x3 / stem_stride ─ norm ─ ReLU ─ stages of residual blocks ─ global mean ─ linear ─▶ logits

    Args:
        num_classes: size of the logits; 0 for no head, so that pooled features are returned.
        image_size: height and width of the training images; other sizes work as well.
        in_channels: C of the images.
        widths: channels of each stage.
        depth: residual blocks in each stage.
        stem_stride: stride of the first convolution.

    Attributes:
        attention_locations: names of the modules after which attention is inserted: the last norm of each residual
            branch, as in the papers.
        head: the linear head.

    Raises:
        ValueError: a size is not positive, or ``widths`` is empty.

    References:
        He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.

    Example:
        >>> import torch
        >>> SmallResNet(10, (28, 28), 1)(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    attention_locations = ("stages.*.*.norm2",)

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int] = (32, 32),
        in_channels: int = 3,
        *,
        widths: Sequence[int] = (16, 32, 64),
        depth: int = 2,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        sizes = {"widths": min(widths, default=0), "depth": depth, "stem_stride": stem_stride}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be positive, got {widths if name == 'widths' else size}")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, stride=stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    ResidualBlock(before, width, stride=1 if stage == 0 else 2),
                    *(ResidualBlock(width, width) for _ in range(depth - 1)),
                )
                for stage, (before, width) in enumerate(pairwise([widths[0], *widths]))
            )
        )
        self.head = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Feature map of the last stage, (B, D, rows, columns), of images, (B, C, H, W)."""
        return self.stages(self.stem(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of images, (B, C, H, W)."""
        return self.head(self.features(images).mean((2, 3)))
