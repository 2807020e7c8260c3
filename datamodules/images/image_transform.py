"""From a raw image, whatever it is, to the tensor that a network takes, and back for plots."""

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
    """Turns an image upright and makes it 8-bit grey (mode ``L``) or 8-bit colour (mode ``RGB``).

    Transparent places become white, as most viewers show them. Grey of 16 bits and of 32-bit integers is scaled from
    0 … 65535, grey of floats from 0 … 1.

    Args:
        image: of any mode.

    Raises:
        ValueError: 32-bit values out of these ranges, or a mode that Pillow cannot convert to RGB.

    Example:
        >>> plain_image(Image.new("CMYK", (3, 2))).mode
        'RGB'
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        top = 1.0 if image.mode == "F" else _LARGEST_16_BIT
        # Written so that NaN fails too.
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
    """Reads an image file to its last byte, upright and 8-bit, as :func:`plain_image` makes it.

    Args:
        file: its path, or the open file.
        name: what to call it in an error; the path when left out.
        thumbnail: decode a JPEG at an eighth of its size; the quick way to see that it is sound.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, no image, or larger than Pillow holds to be safe.

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
            f"{name} is too large ({error}); scale it down or leave it out, or raise PIL.Image.MAX_IMAGE_PIXELS if you "
            "trust it"
        ) from error
    except Exception as error:  # decoders raise whatever the broken bytes lead them to
        reason = re.sub(" <.*>", "", str(error))  # an open file has an address, and nobody wants to know it
        raise ValueError(
            f"{name} cannot be read as an image ({reason}); it is damaged, cut short, or no image: replace it or leave "
            "it out"
        ) from error


def load_image(image: RawImage) -> Tensor:
    """The values of an image in its own size and 1 or 3 channels, (C, H, W).

    Args:
        image: a path; a PIL image of any mode; an array, (H, W) or (H, W, C); or a tensor, (C, H, W). Arrays and
            tensors hold uint8, or floats in 0 … 1.

    Returns:
        uint8, or float32 in 0 … 1 for an image of floats.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no sound image, or an array or tensor has another shape or range.
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
    """Makes any image a network's input: upright, resized with its aspect kept, cropped, normalised.

    Plain numbers and words only, so that a checkpoint carries it and YAML spells it::

        raw image ──load_image──▶ (C, H, W) ──fit──▶ (channels, *image_size) ──normalize──▶ input

    Args:
        size: height and width of the input in pixels, or one number for a square.
        channels: 1 for grey, 3 for colour.
        mean: taken off the values, which are then in 0 … 1; one number, or one a channel.
        std: the values are then divided by it; one number, or one a channel.
        interpolation: how pixels are resampled, always antialiased.
        crop: the image is scaled to cover ``size / crop``, and the middle of it taken; 1 crops no more than the
            aspect asks for.

    Raises:
        ValueError: a size below 1, channels other than 1 and 3, as many means or deviations as neither 1 nor the
            channels, a deviation of 0, an unknown interpolation, or a crop outside (0, 1].

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
            if isinstance(value, list):  # a checkpoint or YAML knows no tuples
                object.__setattr__(self, field, tuple(value))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"size must be one positive number or (height, width), got {self.size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}")
        for field in ("mean", "std"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) not in (1, self.channels):
                raise ValueError(f"{field} must be one number or {self.channels}, one a channel, got {value}")
        if torch.tensor(self.std).min() <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be one of {get_args(Interpolation)}, got {self.interpolation!r}")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"crop is the share of the image that is kept and must lie in (0, 1], got {self.crop}")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, image: RawImage) -> Tensor:
        """The network's input for one image, (channels, height, width), float32; see :func:`load_image`."""
        return self.normalize(self.fit(load_image(image)))

    def batch(self, images: Sequence[RawImage] | Tensor) -> Tensor:
        """Raw images as one batch, (B, channels, height, width); a batch of transformed ones stays what it is.

        Args:
            images: PIL images, arrays (H, W[, C]), tensors (C, H, W) or paths, of any size; or one tensor,
                (B, C, H, W), of transformed images.

        Raises:
            ValueError: there is no image, or one cannot be read.
            TypeError: the images are not in a list.
        """
        self.check(images)
        return images if isinstance(images, Tensor) else torch.stack([self(image) for image in images])

    def check(self, images: Sequence[RawImage] | Tensor) -> None:
        """Refuses what is neither images in a list nor a batch of transformed ones.

        Args:
            images: as :meth:`batch` takes them.

        Raises:
            ValueError: there is no image; or a tensor has another shape, or whole numbers.
            TypeError: the images are not in a list.
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

    def fit(self, images: Tensor) -> Tensor:
        """Gives images these channels and this size, the values staying as they are.

        Args:
            images: (..., C, H, W), whole numbers in 0 … 255 as uint8, or floats in 0 … 1.

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
                images = images.clamp(0.0, 1.0)  # the bicubic kernel overshoots
        return images.expand(*images.shape[:-3], self.channels, -1, -1)

    def _cover(self, images: Tensor) -> list[int]:
        """The smallest size of the images' own aspect that covers ``size / crop``."""
        height, width = images.shape[-2:]
        least_height, least_width = (math.floor(side / self.crop) for side in self.image_size)
        if height * least_width >= width * least_height:
            return [max(least_height, height * least_width // width), least_width]
        return [least_height, max(least_width, width * least_height // height)]

    def normalize(self, images: Tensor) -> Tensor:
        """(..., C, H, W) in 0 … 255 as uint8, or floats in 0 … 1, as float32 with mean and deviation taken out."""
        values = images / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
        return (values - self._per_channel(self.mean, values)).div_(self._per_channel(self.std, values))

    def denormalize(self, images: Tensor) -> Tensor:
        """Takes back :meth:`normalize`: (..., C, H, W) in 0 … 1, for plots."""
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
            f"image: an array of shape {image.shape} and type {image.dtype} is no image; give (H, W) or (H, W, C) with "
            "up to 4 channels last, of uint8 or of floats in 0 … 1"
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
    # Written so that NaN fails too.
    if not (image.min() >= 0.0 and image.max() <= 1.0):
        raise ValueError(
            f"image: floats must lie in 0 … 1, got {image.min():.3g} to {image.max():.3g}; give the raw values "
            "divided by 255, not normalised ones"
        )
    return image
