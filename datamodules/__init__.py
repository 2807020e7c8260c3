"""The data: image sets for classifiers, and the transform from a raw image to a network's input."""

from datamodules.augmentation import (
    Augmentation,
    BatchAugmentation,
    RandomErase,
    RandomFlip,
    RandomShift,
    RandomWarp,
    augment,
)
from datamodules.classification import ClassificationDataModule
from datamodules.digits import DigitsDataModule
from datamodules.image_dataset import ImageBatch, ImageDataset, ImageSource, TensorImages
from datamodules.image_folder import ImageFolderDataModule
from datamodules.image_transform import ImageTransform, RawImage, load_image, plain_image, read_image
from datamodules.torchvision_sets import TorchvisionDataModule

__all__ = [
    "Augmentation",
    "BatchAugmentation",
    "ClassificationDataModule",
    "DigitsDataModule",
    "ImageBatch",
    "ImageDataset",
    "ImageFolderDataModule",
    "ImageSource",
    "ImageTransform",
    "RandomErase",
    "RandomFlip",
    "RandomShift",
    "RandomWarp",
    "RawImage",
    "TensorImages",
    "TorchvisionDataModule",
    "augment",
    "load_image",
    "plain_image",
    "read_image",
]
