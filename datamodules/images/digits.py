"""The handwritten digits of scikit-learn: images to train on without a download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from datamodules.images.augmentation import Augmentation
from datamodules.images.classification import TENTH_AND_FIFTH, ClassificationDataModule, choose_transform
from datamodules.images.image_dataset import ImageSource, TensorImages
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import HeldOut, Split


class DigitsDataModule(ClassificationDataModule):
    """1,797 grey images of 8x8 pixels in ten classes, from scikit-learn; a stratified fifth is the test split.

    Args:
        batch_size: B, per device.
        image_size: height and width to enlarge the images to, or one number for a square; defaults to 8.
        augmentation: augmentation of the training images, see :func:`augment`. By default none, since each of 64 pixels
            counts: shifts by one pixel or small rotations cost a ViT four to five points of accuracy in 60 epochs.
        held_out: fractions of the images to hold out for validation and test.
        seed: seed of the held-out splits.
        num_workers: worker processes of each loader; the data set is so small that 0 is fastest.
        transform: transform from a raw image to the network's input; replaces ``image_size``.

    References:
        Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository; its
        test part, as scikit-learn ships it.

    Example:
        >>> digits = DigitsDataModule(batch_size=32)
        >>> images, labels = next(iter(digits.train_dataloader()))
        >>> images.shape, digits.num_classes, len(digits.dataset("test"))
        (torch.Size([32, 1, 8, 8]), 10, 359)
    """

    def __init__(
        self,
        batch_size: int = 64,
        image_size: int | tuple[int, int] | None = None,
        augmentation: Sequence[Augmentation] = (),
        held_out: HeldOut = TENTH_AND_FIFTH,
        seed: int = 0,
        num_workers: int = 0,
        transform: ImageTransform | None = None,
    ) -> None:
        super().__init__(
            choose_transform(ImageTransform(8, channels=1, mean=0.305, std=0.376), image_size, transform),
            augmentation,
            batch_size=batch_size,
            num_workers=num_workers,
            held_out=held_out,
            seed=seed,
        )

    @property
    def class_names(self) -> list[str]:
        """The digits, "0" to "9"."""
        return [str(digit) for digit in range(10)]

    def load(self) -> Mapping[Split, ImageSource]:
        """All digits, as training images; validation and test are held out from them."""
        return {"train": TensorImages(*digit_images())}


def digit_images() -> tuple[Tensor, Tensor]:
    """All digits of scikit-learn: images, (1797, 1, 8, 8) uint8, and labels, (1797,) int64.

    Example:
        >>> images, labels = digit_images()
        >>> images.shape, labels[:3]
        (torch.Size([1797, 1, 8, 8]), tensor([0, 1, 2]))
    """
    values, labels = load_digits(return_X_y=True)
    # Pixels are counts from 0 to 16.
    images = (torch.from_numpy(values).reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    return images, torch.from_numpy(labels).to(torch.int64)
