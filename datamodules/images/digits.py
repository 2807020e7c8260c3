"""The handwritten digits that ship inside scikit-learn: data to train on without a download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from datamodules.images.augmentation import Augmentation
from datamodules.images.classification import ClassificationDataModule, choose_transform
from datamodules.images.image_dataset import ImageSource, TensorImages
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import Split


class DigitsDataModule(ClassificationDataModule):
    """1,797 grey images of 8x8 pixels, ten classes; a stratified fifth is the test set.

    Args:
        batch_size: images in a batch, on each device.
        image_size: height and width, or one number, to enlarge the images to; their own 8 when left out.
        augmentation: transforms of training images, see :func:`augment`; none when left out, since each of 64 pixels
            counts: shifts by one pixel or small turns cost a ViT four to five points of accuracy in 60 epochs.
        val_share: share of the training images that is kept for validation.
        split_seed: decides which images are kept for validation and test.
        num_workers: processes that make batches; the set is so small that 0 is fastest.
        transform: the whole way from an image to the network's input, in place of the set's own.

    References:
        Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository; its
        test part, as scikit-learn ships it.

    Example:
        >>> digits = DigitsDataModule(batch_size=32)
        >>> digits.setup()
        >>> images, labels = next(iter(digits.train_dataloader()))
        >>> images.shape, digits.num_classes, len(digits.dataset("test"))
        (torch.Size([32, 1, 8, 8]), 10, 359)
    """

    def __init__(
        self,
        batch_size: int = 64,
        image_size: int | tuple[int, int] | None = None,
        augmentation: Sequence[Augmentation] = (),
        val_share: float = 0.1,
        split_seed: int = 0,
        num_workers: int = 0,
        transform: ImageTransform | None = None,
    ) -> None:
        super().__init__(
            choose_transform(ImageTransform(8, channels=1, mean=0.305, std=0.376), image_size, transform),
            augmentation,
            batch_size=batch_size,
            num_workers=num_workers,
            val_share=val_share,
            split_seed=split_seed,
        )

    @property
    def class_names(self) -> list[str]:
        """The digits, "0" to "9"."""
        return [str(digit) for digit in range(10)]

    def load(self) -> Mapping[Split, ImageSource]:
        """All digits; the splits are cut by :meth:`setup`."""
        return {"train": TensorImages(*digit_images())}


def digit_images() -> tuple[Tensor, Tensor]:
    """All digits that ship inside scikit-learn, (1797, 1, 8, 8) uint8, and what they are, (1797,) int64.

    Example:
        >>> images, labels = digit_images()
        >>> images.shape, labels[:3]
        (torch.Size([1797, 1, 8, 8]), tensor([0, 1, 2]))
    """
    values, labels = load_digits(return_X_y=True)
    # Counts of ink from 0 to 16.
    images = (torch.from_numpy(values).reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    return images, torch.from_numpy(labels).to(torch.int64)
