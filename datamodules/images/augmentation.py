"""Augmentation of whole batches, with independent random parameters for each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# From image to image. The return type is Any since jsonargparse would instantiate a class that is named there.
Augmentation = Callable[[Tensor], Any]


class BatchAugmentation(nn.Module):
    """Base of augmentations of whole batches, from (B, C, H, W) to the same shape and type.

    torchvision's transforms draw their parameters once per batch; subclasses of this draw them for each image.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Augments images, (B, C, H, W), independently of each other."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(images)")


def augment(images: Tensor, augmentation: Sequence[Augmentation]) -> Tensor:
    """Applies augmentations in order, with independent random parameters for each image.

    Args:
        images: (B, C, H, W) uint8.
        augmentation: the augmentations. A :class:`BatchAugmentation` is applied to the batch, anything else, such as a
            transform of ``torchvision.transforms.v2``, to one image at a time.

    Returns:
        (B, C, H', W') uint8.

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
    """Mirrors images horizontally.

    Args:
        probability: probability of mirroring an image.

    Raises:
        ValueError: ``probability`` is outside [0, 1].

    Example:
        >>> RandomFlip(probability=1.0)(torch.tensor([[[[1, 2, 3]]]]))
        tensor([[[[3, 2, 1]]]])
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = _check_fraction("probability", probability)

    def forward(self, images: Tensor) -> Tensor:
        """Mirrors some of the images, (B, C, H, W)."""
        chosen = torch.rand(images.size(0), 1, 1, 1) < self.probability
        return torch.where(chosen, images.flip(-1), images)


class RandomShift(BatchAugmentation):
    """Shifts images by whole pixels, vertically and horizontally; equals random crops from padded images.

    Args:
        pixels: maximum shift each way, in pixels.
        padding: padding of the edges: black with ``zeros``, the mirrored image with ``reflect``.

    Raises:
        ValueError: ``pixels`` is negative, or ``padding`` is unknown; or, when applied, ``pixels`` is not less than the
            sides of the images.

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
        """Shifts each of the images, (B, C, H, W)."""
        batch, channels, height, width = images.shape
        if self.pixels >= min(height, width):
            raise ValueError(f"pixels={self.pixels} must be less than the sides of the images, {height}x{width}")
        offset = torch.randint(-self.pixels, self.pixels + 1, (2, batch, 1))
        rows = offset[0] + torch.arange(height)  # (B, H)
        columns = offset[1] + torch.arange(width)  # (B, W)
        outside = _outside(rows, height).unsqueeze(2) | _outside(columns, width).unsqueeze(1)  # (B, H, W)
        pixels = _mirrored(rows, height).unsqueeze(2) * width + _mirrored(columns, width).unsqueeze(1)  # (B, H, W)
        pixels = pixels.reshape(batch, 1, -1).expand(-1, channels, -1)  # (B, C, H · W)
        shifted = images.flatten(2).gather(2, pixels).reshape(images.shape)
        return shifted if self.padding == "reflect" else shifted.masked_fill(outside.unsqueeze(1), 0)


def _outside(indices: Tensor, length: int) -> Tensor:
    return (indices < 0) | (indices >= length)


def _mirrored(indices: Tensor, length: int) -> Tensor:
    """Indices from -length + 1 to 2 · length - 2 reflected into 0 … length - 1."""
    return length - 1 - (length - 1 - indices.abs()).abs()


class RandomWarp(BatchAugmentation):
    """Rotates, shifts and zooms images with bilinear interpolation; edges are padded with black.

    Args:
        degrees: maximum rotation each way, in degrees.
        shift: maximum shift each way, as a fraction of the image's side.
        zoom: maximum enlargement or reduction, as a fraction of the image's size.

    Raises:
        ValueError: ``shift`` or ``zoom`` is outside [0, 1].

    Example:
        >>> RandomWarp(degrees=10.0)(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, degrees: float = 0.0, shift: float = 0.0, zoom: float = 0.0) -> None:
        super().__init__()
        self.degrees = degrees
        self.shift = _check_fraction("shift", shift)
        self.zoom = _check_fraction("zoom", zoom)

    def forward(self, images: Tensor) -> Tensor:
        """Warps each of the images, (B, C, H, W)."""
        turn, grow, right, down = torch.rand(4, images.size(0)) * 2 - 1  # (B,) each
        angle = turn * math.radians(self.degrees)
        # The matrix maps pixels of the new image to the old one, so it divides by the zoom.
        cos, sin = angle.cos() / (1 + grow * self.zoom), angle.sin() / (1 + grow * self.zoom)
        aspect = images.size(2) / images.size(3)  # the grid runs from -1 to 1 on either side
        matrix = torch.stack(
            [
                torch.stack([cos, -sin * aspect, right * 2 * self.shift], dim=1),
                torch.stack([sin / aspect, cos, down * 2 * self.shift], dim=1),
            ],
            dim=1,
        )  # (B, 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)  # (B, H, W, 2)
        warped = F.grid_sample(images.to(torch.float32), grid, align_corners=False)
        return warped.to(images.dtype) if images.is_floating_point() else warped.round_().to(images.dtype)


class RandomErase(BatchAugmentation):
    """Blackens a random rectangle of images, so that a network does not rely on a single part.

    Args:
        probability: probability of erasing a rectangle of an image.
        area: minimum and maximum area of the rectangle, as a fraction of the image.

    Raises:
        ValueError: ``probability`` or ``area`` is outside [0, 1].

    References:
        Zhong et al. 2020, "Random Erasing Data Augmentation".

    Example:
        >>> RandomErase(probability=1.0, area=(0.25, 0.25))(torch.ones(1, 1, 8, 8)).mean() < 1
        tensor(True)
    """

    def __init__(self, probability: float = 0.5, area: tuple[float, float] = (0.02, 0.33)) -> None:
        super().__init__()
        self.probability = _check_fraction("probability", probability)
        if not 0.0 <= area[0] <= area[1] <= 1.0:
            raise ValueError(f"area must be (minimum, maximum), fractions of the image in [0, 1], got {area}")
        self.area = area

    def forward(self, images: Tensor) -> Tensor:
        """Blackens a rectangle in some of the images, (B, C, H, W)."""
        batch, _, height, width = images.shape
        least, most = self.area
        area = least + (most - least) * torch.rand(batch)  # (B,)
        # Height over width from 0.3 to 1/0.3, as in the paper; on a log scale, so that neither is favoured.
        aspect = torch.exp((torch.rand(batch) * 2 - 1) * math.log(1 / 0.3))  # (B,)
        # A side may exceed the image's; the rectangle then covers all of it.
        tall = ((area * aspect).sqrt() * height).round()
        wide = ((area / aspect).sqrt() * width).round()
        top = (torch.rand(batch) * (height - tall + 1)).floor()
        left = (torch.rand(batch) * (width - wide + 1)).floor()
        rows = _between(torch.arange(height), top, top + tall)  # (B, H)
        columns = _between(torch.arange(width), left, left + wide)  # (B, W)
        chosen = torch.rand(batch, 1, 1) < self.probability
        erased = rows.unsqueeze(2) & columns.unsqueeze(1) & chosen  # (B, H, W)
        return images.masked_fill(erased.unsqueeze(1), 0)


def _between(indices: Tensor, first: Tensor, last: Tensor) -> Tensor:
    return (indices >= first.unsqueeze(1)) & (indices < last.unsqueeze(1))


def _check_fraction(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return value
