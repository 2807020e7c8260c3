"""Sources of images, in memory or read on demand, and the data set of labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.augmentation import Augmentation, augment
from datamodules.images.image_transform import ImageTransform

ImageBatch = tuple[Tensor, Tensor]


class ImageReader:
    """Base of all sources of raw images.

    Attributes:
        changes: whether an image differs each time it is read.
    """

    changes: bool = False

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """Reads images, in order, in pieces of equal size: (b, C, H, W) uint8 each.

        Args:
            indices: (n,) int64, indices of the images.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read(indices)")

    def contents(self, indices: Tensor) -> Iterator[bytes]:
        """Bytes that identify each image, for keys of cached results.

        Args:
            indices: (n,) int64, indices of the images.
        """
        for piece in self.read(indices):
            for image in piece:
                yield str(tuple(image.shape)).encode() + image.numpy().tobytes()


class ImageSource(ImageReader):
    """Base of all sources of labelled raw images.

    Args:
        labels: (n,) integers, class of each image.

    Attributes:
        labels: (n,), int64.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels.to(torch.int64)


class TensorImages(ImageSource):
    """Images of equal size in memory, so that reading a batch is a single gather.

    Args:
        images: (n, C, H, W) uint8.
        labels: (n,) integers, class of each image.

    Raises:
        ValueError: the images have another shape or type, or there is not one label per image.

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
            raise ValueError(f"labels must be ({len(images)},), one per image, got {tuple(labels.shape)}")
        self.images = images

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """See :meth:`ImageReader.read`; all images in one piece."""
        yield self.images[indices]


class ImageDataset(Dataset[ImageBatch]):
    """Data set of labelled images, augmented and transformed a whole batch at a time.

    Args:
        source: the images.
        indices: (n,) int64, indices of the images of this data set in ``source``.
        transform: transform from a raw image to the network's input.
        augmentation: augmentation before the transform, see :func:`augment`.

    Attributes:
        labels: (n,) int64, class of each image.

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
        """(n,) int64, class of each image."""
        return self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> ImageBatch:
        """One image, (C, H, W) float32, and its class."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> ImageBatch:
        """Batch of images, (B, C, H, W) float32, and their classes, (B,); torch's ``DataLoader`` calls this."""
        chosen = self.indices[torch.as_tensor(indices)]
        pieces = [
            self.transform.resize_and_crop(augment(piece, self.augmentation)) for piece in self.source.read(chosen)
        ]
        return self.transform.normalize(torch.cat(pieces)), self.source.labels[chosen]
