"""Augmentation of whole batches, each image by chances of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# An image in, an image out. The returned type is left open since jsonargparse would take a class named there for the
# class to build from YAML.
Augmentation = Callable[[Tensor], Any]


class BatchAugmentation(nn.Module):
    """Base of what augments a batch in one go: (B, C, H, W) in, the same shape and type out.

    torchvision's transforms draw once and treat a whole batch alike; a subclass of this draws for each image.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Augments each of (B, C, H, W) by a draw of its own."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(images)")


def augment(images: Tensor, augmentation: Sequence[Augmentation]) -> Tensor:
    """Applies one augmentation after the other, each image getting its own chances.

    Args:
        images: (B, C, H, W), uint8.
        augmentation: a :class:`BatchAugmentation` takes the batch; anything else, such as the transforms of
            ``torchvision.transforms.v2``, takes one image after the other.

    Example:
        >>> from torchvision.transforms import v2
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> augment(images, [RandomFlip(), v2.RandomCrop(6)]).shape
        torch.Size([2, 3, 6, 6])
    """
    for step in augmentation:
        images = step(images) if isinstance(step, BatchAugmentation) else torch.stack([step(one) for one in images])
    return images


class RandomFlip(BatchAugmentation):
    """Mirrors left and right.

    Args:
        probability: of an image's being mirrored.

    Example:
        >>> RandomFlip(probability=1.0)(torch.tensor([[[[1, 2, 3]]]]))
        tensor([[[[3, 2, 1]]]])
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = _check_share("probability", probability)

    def forward(self, images: Tensor) -> Tensor:
        """Mirrors some of (B, C, H, W)."""
        chosen = torch.rand(images.size(0), 1, 1, 1) < self.probability
        return torch.where(chosen, images.flip(-1), images)


class RandomShift(BatchAugmentation):
    """Shifts by whole pixels, down or up and right or left: the crop from a padded image that CIFAR nets train with.

    Args:
        pixels: the furthest an image is shifted each way.
        padding: what comes in at the edge: ``zeros`` (black) or the image mirrored, ``reflect``.

    Raises:
        ValueError: ``pixels`` is negative; or, once images come, not less than their sides.

    Example:
        >>> RandomShift(pixels=4)(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, pixels: int = 4, padding: Literal["zeros", "reflect"] = "zeros") -> None:
        super().__init__()
        if pixels < 0:
            raise ValueError(f"pixels must be 0 or more, got {pixels}")
        if padding not in ("zeros", "reflect"):
            raise ValueError(f"padding must be 'zeros' or 'reflect', got {padding!r}")
        self.pixels = pixels
        self.padding = padding

    def forward(self, images: Tensor) -> Tensor:
        """Shifts each of (B, C, H, W)."""
        batch, channels, height, width = images.shape
        if self.pixels >= min(height, width):
            raise ValueError(f"pixels={self.pixels} shifts images of {height}x{width} out of sight; shift less")
        offset = torch.randint(-self.pixels, self.pixels + 1, (2, batch, 1))
        rows = offset[0] + torch.arange(height)
        columns = offset[1] + torch.arange(width)
        outside = _outside(rows, height).unsqueeze(2) | _outside(columns, width).unsqueeze(1)
        places = _mirrored(rows, height).unsqueeze(2) * width + _mirrored(columns, width).unsqueeze(1)
        places = places.reshape(batch, 1, -1).expand(-1, channels, -1)
        shifted = images.flatten(2).gather(2, places).reshape(images.shape)
        return shifted if self.padding == "reflect" else shifted.masked_fill(outside.unsqueeze(1), 0)


def _outside(places: Tensor, length: int) -> Tensor:
    return (places < 0) | (places >= length)


def _mirrored(places: Tensor, length: int) -> Tensor:
    """Places from -length + 1 to 2 · length - 2 thrown back into 0 … length - 1 at either end."""
    return length - 1 - (length - 1 - places.abs()).abs()


class RandomWarp(BatchAugmentation):
    """Turns, shifts and zooms, resampled bilinearly; what comes in at the edge is black.

    Args:
        degrees: the furthest an image is turned each way.
        shift: the furthest it is moved each way, as a share of its side.
        zoom: the most it grows or shrinks, as a share of its size.

    Example:
        >>> RandomWarp(degrees=10.0)(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, degrees: float = 0.0, shift: float = 0.0, zoom: float = 0.0) -> None:
        super().__init__()
        self.degrees = degrees
        self.shift = _check_share("shift", shift)
        self.zoom = _check_share("zoom", zoom)

    def forward(self, images: Tensor) -> Tensor:
        """Warps each of (B, C, H, W)."""
        turn, grow, right, down = torch.rand(4, images.size(0)) * 2 - 1
        angle = turn * math.radians(self.degrees)
        # Where a pixel of the new image is taken from: hence the division.
        cos, sin = angle.cos() / (1 + grow * self.zoom), angle.sin() / (1 + grow * self.zoom)
        aspect = images.size(2) / images.size(3)  # the grid runs from -1 to 1 on either side
        matrix = torch.stack(
            [
                torch.stack([cos, -sin * aspect, right * 2 * self.shift], dim=1),
                torch.stack([sin / aspect, cos, down * 2 * self.shift], dim=1),
            ],
            dim=1,
        )
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        warped = F.grid_sample(images.to(torch.float32), grid, align_corners=False)
        return warped.to(images.dtype) if images.is_floating_point() else warped.round_().to(images.dtype)


class RandomErase(BatchAugmentation):
    """Blackens a rectangle, so that no single part of an image is relied on.

    Args:
        probability: of an image's losing a rectangle.
        area: the smallest and the largest share of the image that is lost.

    References:
        Zhong et al. 2020, "Random Erasing Data Augmentation".

    Example:
        >>> RandomErase(probability=1.0, area=(0.25, 0.25))(torch.ones(1, 1, 8, 8)).mean() < 1
        tensor(True)
    """

    def __init__(self, probability: float = 0.5, area: tuple[float, float] = (0.02, 0.33)) -> None:
        super().__init__()
        self.probability = _check_share("probability", probability)
        if not 0.0 <= area[0] <= area[1] <= 1.0:
            raise ValueError(f"area must be the smallest and the largest share of an image, in [0, 1], got {area}")
        self.area = area

    def forward(self, images: Tensor) -> Tensor:
        """Blackens a rectangle in some of (B, C, H, W)."""
        batch, _, height, width = images.shape
        least, most = self.area
        area = least + (most - least) * torch.rand(batch)
        # As the paper: height over width from 0.3 to 1/0.3; drawn on the log scale, so that neither way is favoured.
        aspect = torch.exp((torch.rand(batch) * 2 - 1) * math.log(1 / 0.3))
        # Where a side is longer than the image's, all of it is lost, wherever the rectangle lies.
        tall = ((area * aspect).sqrt() * height).round()
        wide = ((area / aspect).sqrt() * width).round()
        top = (torch.rand(batch) * (height - tall + 1)).floor()
        left = (torch.rand(batch) * (width - wide + 1)).floor()
        rows = _between(torch.arange(height), top, top + tall)
        columns = _between(torch.arange(width), left, left + wide)
        chosen = torch.rand(batch, 1, 1) < self.probability
        lost = rows.unsqueeze(2) & columns.unsqueeze(1) & chosen
        return images.masked_fill(lost.unsqueeze(1), 0)


def _between(places: Tensor, first: Tensor, last: Tensor) -> Tensor:
    return (places >= first.unsqueeze(1)) & (places < last.unsqueeze(1))


def _check_share(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return value
