"""Transform from raw images of any kind to the input of a network, and back for plots."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

Interpolation = Literal["bilinear", "bicubic"]
RawImage = Image.Image | npt.NDArray[np.generic] | Tensor | str | Path

_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_LARGEST_16_BIT = 65535


def plain_image(image: Image.Image) -> Image.Image:
    """Converts an image to upright 8-bit grey (mode ``L``) or 8-bit colour (mode ``RGB``).

    Transparent pixels become white, as in most viewers. 16-bit and 32-bit integer grey is scaled from 0 … 65535,
    floating-point grey from 0 … 1.

    Args:
        image: PIL image of any mode.

    Raises:
        ValueError: 32-bit values are outside these ranges, or Pillow cannot convert the mode to RGB.

    Example:
        >>> plain_image(Image.new("CMYK", (3, 2))).mode
        'RGB'
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        top = 1.0 if image.mode == "F" else _LARGEST_16_BIT
        # In this form NaN fails too.
        if not (values.min() >= 0 and values.max() <= top):
            raise ValueError(
                f"an image of mode {image.mode!r} must have values from 0 to {top}, got {values.min()} to "
                f"{values.max()}; scale it first"
            )
        return Image.fromarray((values * (255.0 / top)).round().astype(np.uint8))
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def read_image(file: str | Path | IO[bytes], name: str | None = None, *, thumbnail: bool = False) -> Image.Image:
    """Reads a whole image file and converts it with :func:`plain_image`.

    Args:
        file: path, or open binary file.
        name: name of the file in errors; defaults to the path.
        thumbnail: whether to decode a JPEG at an eighth of its size, a quick way to check it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, not an image, or larger than Pillow's safety limit.

    Example:
        >>> read_image("cat.jpg")
        Traceback (most recent call last):
        FileNotFoundError: 'cat.jpg': there is no such image file; check the path
    """
    name = repr(str(file) if name is None else name)
    try:
        with Image.open(file) as image:
            if thumbnail:
                image.draft(None, (1, 1))
            return plain_image(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: there is no such image file; check the path") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large ({error}); scale it down or remove it, or raise PIL.Image.MAX_IMAGE_PIXELS if you "
            "trust it"
        ) from error
    except Exception as error:  # decoders raise errors of many types on damaged files
        reason = re.sub(" <.*>", "", str(error))  # without the address of an open file
        raise ValueError(
            f"{name} cannot be read as an image ({reason}); it is damaged, truncated or not an image; replace or "
            "remove it"
        ) from error


def load_image(image: RawImage) -> Tensor:
    """Loads an image as a tensor of 1 or 3 channels, in its own size.

    Args:
        image: a path; a PIL image of any mode; an array, (H, W) or (H, W, C); or a tensor, (C, H, W). Arrays and
            tensors are uint8, or floats in 0 … 1.

    Returns:
        (C, H, W) uint8, or float32 in 0 … 1 for floating-point images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable image, or an array or tensor has another shape, type or range.
        TypeError: the image is of another type.

    Example:
        >>> load_image(Image.new("RGBA", (3, 2))).shape
        torch.Size([3, 2, 3])
    """
    if isinstance(image, (str, Path)):
        return _from_pil(read_image(image))
    if isinstance(image, Image.Image):
        return _from_pil(plain_image(image))
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _checked(image)
    raise TypeError(f"image must be a path, a PIL image, an array or a tensor, got {type(image).__name__}")


@dataclass(frozen=True)
class ImageTransform:
    """Transform from any raw image to the input of a network: resized with its aspect ratio, cropped, normalised.

    It consists of plain numbers and strings, so that checkpoints store it and YAML configures it::

        raw image ──load_image──▶ (C, H, W) ──resize_and_crop──▶ (channels, *image_size) ──normalize──▶ input

    Args:
        size: height and width of the input in pixels, or one number for a square.
        channels: 1 for grey, 3 for colour.
        mean: mean to subtract from pixels in 0 … 1; one number, or one per channel.
        std: standard deviation to divide by; one number, or one per channel.
        interpolation: interpolation of the resizing, always antialiased.
        crop: fraction of the resized image's side that is kept: the image is resized to cover ``size / crop``, then
            its centre is cropped. With 1, only what the aspect ratio requires is cropped.

    Raises:
        ValueError: a size is below 1, ``channels`` is neither 1 nor 3, ``mean`` or ``std`` has the wrong length, a
            standard deviation is not positive, the interpolation is unknown, or ``crop`` is outside (0, 1].

    Example:
        >>> transform = ImageTransform(size=(4, 6))
        >>> transform(Image.new("RGB", (300, 200), "white"))[:, 0, 0]
        tensor([1., 1., 1.])
        >>> transform.image_size
        (4, 6)
    """

    size: int | tuple[int, int] = 224
    channels: int = 3
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    interpolation: Interpolation = "bicubic"
    crop: float = 1.0

    def __post_init__(self) -> None:
        for field in ("size", "mean", "std"):
            value = getattr(self, field)
            if isinstance(value, list):  # checkpoints and YAML have lists for tuples
                object.__setattr__(self, field, tuple(value))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"size must be one positive number or (height, width), got {self.size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}")
        for field in ("mean", "std"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) not in (1, self.channels):
                raise ValueError(f"{field} must be one number or {self.channels}, one per channel, got {value}")
        if torch.tensor(self.std).min() <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be one of {get_args(Interpolation)}, got {self.interpolation!r}")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(
                f"crop is the fraction of the image's side to keep and must lie in (0, 1], got {self.crop}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, image: RawImage) -> Tensor:
        """Transforms one image to (channels, height, width) float32; see :func:`load_image`."""
        return self.normalize(self.resize_and_crop(load_image(image)))

    def batch(self, images: Sequence[RawImage] | Tensor) -> Tensor:
        """Transforms raw images to a batch, (B, channels, height, width); a transformed batch is returned unchanged.

        Args:
            images: PIL images, arrays (H, W[, C]), tensors (C, H, W) or paths, of any size; or one tensor,
                (B, C, H, W), of transformed images.

        Raises:
            ValueError: there is no image, or one cannot be read.
            TypeError: ``images`` is neither a list nor a tensor.
        """
        self.check(images)
        return images if isinstance(images, Tensor) else torch.stack([self(image) for image in images])

    def check(self, images: Sequence[RawImage] | Tensor) -> None:
        """Checks that images are a list or a batch of transformed images.

        Args:
            images: argument of :meth:`batch`.

        Raises:
            ValueError: there is no image, or a tensor has another shape or is not floating-point.
            TypeError: ``images`` is neither a list nor a tensor.
        """
        if isinstance(images, str) or not isinstance(images, (Sequence, Tensor)):
            raise TypeError(f"images must be a list of images, got one {type(images).__name__}; put it in a list")
        if not len(images):
            raise ValueError("images is empty; pass at least one")
        if isinstance(images, Tensor) and not (
            images.ndim == 4 and images.size(1) == self.channels and images.is_floating_point()
        ):
            raise ValueError(
                f"images: one tensor must hold transformed images, (B, {self.channels}, H, W) of floats, got "
                f"{tuple(images.shape)} of {images.dtype}; raw images go in a list"
            )

    def resize_and_crop(self, images: Tensor) -> Tensor:
        """Converts images to the channels and size of the input, without normalising them.

        Args:
            images: (..., C, H, W), uint8 in 0 … 255, or floats in 0 … 1.

        Returns:
            (..., channels, height, width), of the same type.
        """
        if images.size(-3) > self.channels:
            images = v2.functional.rgb_to_grayscale(images)
        if images.shape[-2:] != self.image_size or self.crop < 1.0:
            mode = InterpolationMode(self.interpolation)
            images = v2.functional.resize(images, self._cover(images), interpolation=mode, antialias=True)
            images = v2.functional.center_crop(images, list(self.image_size))
            if images.is_floating_point():
                images = images.clamp(0.0, 1.0)  # bicubic interpolation overshoots
        return images.expand(*images.shape[:-3], self.channels, -1, -1)

    def _cover(self, images: Tensor) -> list[int]:
        """Smallest size with the images' aspect ratio that covers ``size / crop``."""
        height, width = images.shape[-2:]
        least_height, least_width = (math.floor(side / self.crop) for side in self.image_size)
        if height * least_width >= width * least_height:
            return [max(least_height, height * least_width // width), least_width]
        return [least_height, max(least_width, width * least_height // height)]

    def normalize(self, images: Tensor) -> Tensor:
        """Subtracts the mean and divides by the standard deviation.

        Args:
            images: (..., C, H, W), uint8 in 0 … 255, or floats in 0 … 1.

        Returns:
            (..., C, H, W) float32.
        """
        values = images / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
        return (values - self._per_channel(self.mean, values)).div_(self._per_channel(self.std, values))

    def denormalize(self, images: Tensor) -> Tensor:
        """Inverts :meth:`normalize`: (..., C, H, W) in 0 … 1, for plots."""
        images = images.to(torch.float32)
        return (images * self._per_channel(self.std, images) + self._per_channel(self.mean, images)).clamp(0.0, 1.0)

    @staticmethod
    def _per_channel(numbers: float | tuple[float, ...], images: Tensor) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=images.device).reshape(-1, 1, 1)


def _from_pil(image: Image.Image) -> Tensor:
    values = torch.from_numpy(np.array(image))
    return values.unsqueeze(0) if values.ndim == 2 else values.permute(2, 0, 1)


def _from_array(image: npt.NDArray[np.generic]) -> Tensor:
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"image: an array must be (H, W) or (H, W, C) and not empty, got shape {image.shape}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if np.issubdtype(image.dtype, np.floating):
        values = torch.from_numpy(np.array(image))
        return _checked(values.unsqueeze(0) if image.ndim == 2 else values.permute(2, 0, 1))
    try:
        return _from_pil(plain_image(Image.fromarray(image)))
    except TypeError as error:
        raise ValueError(
            f"image: an array of shape {image.shape} and type {image.dtype} is not an image; give (H, W) or (H, W, C) "
            "with up to 4 channels last, of uint8 or of floats in 0 … 1"
        ) from error


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.size(0) not in (1, 3) or image.numel() == 0:
        raise ValueError(
            f"image: a tensor must be (C, H, W) with 1 or 3 channels, got shape {tuple(image.shape)}; call permute, or "
            "drop the alpha channel"
        )
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(f"image: give uint8 in 0 … 255 or floats in 0 … 1, got {image.dtype}")
    image = image.to(torch.float32)
    # In this form NaN fails too.
    if not (image.min() >= 0.0 and image.max() <= 1.0):
        raise ValueError(
            f"image: floats must lie in 0 … 1, got {image.min():.3g} to {image.max():.3g}; give the raw values "
            "divided by 255, not normalised ones"
        )
    return image
