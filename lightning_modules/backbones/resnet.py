"""A small residual network, for images of a few pixels and for lectures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions, and what went in added to what comes out.

    ::

        x ─┬─ conv 3x3 / stride ─ norm ─ ReLU ─ conv 3x3 ─ norm ─┐
           └───────── (1x1 / stride ─ norm, where sizes differ) ─ + ─ ReLU ─▶

    Args:
        in_channels: C that comes in.
        out_channels: C that goes out.
        stride: of the first convolution.

    References:
        He et al. 2016, "Deep Residual Learning for Image Recognition".

    Example:
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
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x), inplace=True)


class SmallResNet(nn.Module):
    """A residual network of three or so stages; each but the first halves the image.

    ::

        images ─ conv 3x3 / stem_stride ─ norm ─ ReLU ─ stages of residual blocks ─ mean over places ─ linear ─▶ logits

    Args:
        num_classes: size of the logits; 0 for no head, so that the pooled features come out.
        image_size: of the training images; any other is taken as well.
        in_channels: C of the images.
        widths: channels of each stage.
        depth: residual blocks in each stage.
        stem_stride: of the first convolution; 1 for images of a few pixels.

    Attributes:
        attention_locations: where the papers put a block: behind the last norm of each residual branch.
        head: the last linear map.

    Raises:
        ValueError: a size is not positive, or there is no stage.

    References:
        He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.

    Example:
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
            nn.ReLU(inplace=True),
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
        # Maps take the layout of the weights, and convolutions are faster where a place's channels lie side by side.
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """What the last stage makes of images, (B, C, H, W): a map, (B, D, rows, columns)."""
        return self.stages(self.stem(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of images, (B, C, H, W)."""
        return self.head(self.features(images).mean((2, 3)))
