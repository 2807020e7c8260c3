"""Image files, checked before training and then read on demand or kept in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from datamodules.files.file_tree import FileTree
from datamodules.images.image_dataset import ImageSource, TensorImages
from datamodules.images.image_transform import ImageTransform, load_image, read_image


class FileImages(ImageSource):
    """Image files of any size, read on demand.

    Args:
        tree: folder or zip with the files.
        files: (n,), paths of the files inside it.
        labels: (n,), class of each image.
    """

    def __init__(self, tree: FileTree, files: Sequence[str], labels: Tensor) -> None:
        super().__init__(labels)
        self.tree = tree
        self.files = list(files)

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """See :meth:`ImageReader.read`; one image at a time, (1, C, H, W)."""
        for index in indices.tolist():
            yield load_image(_read(self.tree, self.files[index])).unsqueeze(0)

    def contents(self, indices: Tensor) -> Iterator[bytes]:
        """See :meth:`ImageReader.contents`; the bytes of the files, which needs no decoding."""
        for index in indices.tolist():
            yield self.tree.read(self.files[index])


def sound_images(
    tree: FileTree, files: Sequence[str], labels: Tensor, keep: ImageTransform | None = None
) -> tuple[ImageSource, dict[str, str]]:
    """Reads every file once to find out which are readable images.

    Args:
        tree: folder or zip with the files.
        files: (n,), paths of the files inside it.
        labels: (n,), class of each image.
        keep: transform that resizes the images to keep in memory; if omitted, images are read on demand.

    Returns:
        The readable images, in order, and the problem of each other file.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release the GIL
        results = list(pool.map(partial(_check, tree, keep), files))
    problems = {
        file: str(result) for file, result in zip(files, results, strict=True) if isinstance(result, ValueError)
    }
    sound = [index for index, file in enumerate(files) if file not in problems]
    images = [result for result in results if isinstance(result, Tensor)]
    if images:
        return TensorImages(torch.stack(images), labels[sound]), problems
    return FileImages(tree, [files[index] for index in sound], labels[sound]), problems


def _read(tree: FileTree, file: str, *, thumbnail: bool = False) -> Image.Image:
    return read_image(BytesIO(tree.read(file)), tree.name(file), thumbnail=thumbnail)


def _check(tree: FileTree, transform: ImageTransform | None, file: str) -> Tensor | ValueError | None:
    """Resized image of a file, ``None`` without a transform, or the error if the file is not a readable image."""
    try:
        image = _read(tree, file, thumbnail=transform is None)
    except ValueError as error:
        return error
    return None if transform is None else transform.resize_and_crop(load_image(image)).clone()
