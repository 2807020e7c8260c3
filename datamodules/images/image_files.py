"""Image files: looked at once before training, then read as they are needed, or kept."""

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

_SHOWN = 10


class FileImages(ImageSource):
    """Image files of any size, each read when it is needed.

    Args:
        tree: where they are.
        files: (n,), their paths inside it.
        labels: (n,).
    """

    def __init__(self, tree: FileTree, files: Sequence[str], labels: Tensor) -> None:
        super().__init__(labels)
        self.tree = tree
        self.files = list(files)

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """One after the other, (1, C, H, W) each."""
        for index in indices.tolist():
            yield load_image(_read(self.tree, self.files[index])).unsqueeze(0)

    def contents(self, indices: Tensor) -> Iterator[bytes]:
        """The bytes of each file, which are read much faster than its image."""
        for index in indices.tolist():
            yield self.tree.read(self.files[index])


def sound_images(
    tree: FileTree, files: Sequence[str], labels: Tensor, keep: ImageTransform | None = None
) -> tuple[ImageSource, dict[str, str]]:
    """Looks at every file once.

    Args:
        tree: where they are.
        files: (n,), their paths inside it.
        labels: (n,).
        keep: hold all images in memory as this transform fits them; read them when they are needed when left out.

    Returns:
        The images that are sound, in order, and for each other file what is wrong with it.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders let go of Python's lock
        looked = list(pool.map(partial(_look_at, tree, keep), files))
    problems = {file: str(result) for file, result in zip(files, looked, strict=True) if isinstance(result, ValueError)}
    sound = [index for index, file in enumerate(files) if file not in problems]
    images = [result for result in looked if isinstance(result, Tensor)]
    if images:
        return TensorImages(torch.stack(images), labels[sound]), problems
    return FileImages(tree, [files[index] for index in sound], labels[sound]), problems


def first_few(problems: Sequence[str]) -> list[str]:
    """The first ten of some problems, one a line, and how many more there are.

    Example:
        >>> first_few([f"{number}.jpg is damaged" for number in range(12)])[-2:]
        ['  9.jpg is damaged', '  … and 2 more']
    """
    more = [f"… and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
    return [f"  {line}" for line in (*problems[:_SHOWN], *more)]


def _read(tree: FileTree, file: str, *, thumbnail: bool = False) -> Image.Image:
    return read_image(BytesIO(tree.read(file)), tree.name(file), thumbnail=thumbnail)


def _look_at(tree: FileTree, transform: ImageTransform | None, file: str) -> Tensor | ValueError | None:
    """A file's image as the transform fits it, or ``None`` without one; or what is wrong with the file."""
    try:
        image = _read(tree, file, thumbnail=transform is None)
    except ValueError as error:
        return error
    return None if transform is None else transform.fit(load_image(image)).clone()
