"""Labelled images, in memory or read as they are needed, and the batches that are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.augmentation import Augmentation, augment
from datamodules.images.image_transform import ImageTransform

ImageBatch = tuple[Tensor, Tensor]


class ImageReader:
    """Base of a set of images, raw as they are.

    Attributes:
        changes: whether an image looks another way each time it is read.
    """

    changes: bool = False

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """The images of these numbers, in order, in pieces of one size each: (b, C, H, W), uint8."""
        raise NotImplementedError(f"{type(self).__name__} must define read(indices)")

    def contents(self, indices: Tensor) -> Iterator[bytes]:
        """For each of these images bytes that no other image has, to name by them what is made from images."""
        for piece in self.read(indices):
            for image in piece:
                yield str(tuple(image.shape)).encode() + image.numpy().tobytes()


class ImageSource(ImageReader):
    """Base of a set of labelled images, raw as they are.

    Args:
        labels: (n,) whole numbers, the class of each image.

    Attributes:
        labels: (n,), int64.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels.to(torch.int64)


class TensorImages(ImageSource):
    """Images of one size held in memory, so that a batch of them is one gather.

    Args:
        images: (n, C, H, W), uint8.
        labels: (n,).

    Raises:
        ValueError: another shape or type, or as many labels as not images.

    Example:
        >>> source = TensorImages(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1]))
        >>> [piece.shape for piece in source.read(torch.tensor([2, 0]))]
        [torch.Size([2, 1, 8, 8])]
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(labels)
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 of (n, C, H, W), got {images.dtype} of {tuple(images.shape)}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be one an image, ({len(images)},), got {tuple(labels.shape)}")
        self.images = images

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """All of them in one piece."""
        yield self.images[indices]


class ImageDataset(Dataset[ImageBatch]):
    """Some images of a source, augmented and made a network's input, a whole batch at a time.

    Args:
        source: the images.
        indices: (n,), which of them.
        transform: makes the network's input.
        augmentation: applied before the transform, see :func:`augment`.

    Attributes:
        labels: (n,), the class of each image.

    Example:
        >>> source = TensorImages(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1]))
        >>> images, labels = ImageDataset(source, torch.tensor([0, 2]), ImageTransform(16)).__getitems__([1, 0])
        >>> images.shape, labels
        (torch.Size([2, 3, 16, 16]), tensor([1, 0]))
    """

    def __init__(
        self, source: ImageSource, indices: Tensor, transform: ImageTransform, augmentation: Sequence[Augmentation] = ()
    ) -> None:
        self.source = source
        self.indices = indices
        self.transform = transform
        self.augmentation = tuple(augmentation)

    @property
    def labels(self) -> Tensor:
        """(n,), the class of each image."""
        return self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> ImageBatch:
        """One image, (C, H, W), and its class."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> ImageBatch:
        """A batch, (B, C, H, W) and (B,), as a DataLoader asks for it; needs no collating."""
        chosen = self.indices[torch.as_tensor(indices)]
        pieces = [self.transform.fit(augment(piece, self.augmentation)) for piece in self.source.read(chosen)]
        return self.transform.normalize(torch.cat(pieces)), self.source.labels[chosen]
