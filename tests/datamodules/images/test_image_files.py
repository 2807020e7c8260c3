from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules import ImageTransform, TensorImages
from datamodules.files.file_tree import FileTree
from datamodules.images.image_files import FileImages, sound_images

FILES = ["a.png", "deep/b.png", "c.png"]


@pytest.fixture
def tree(tmp_path: Path) -> FileTree:
    (tmp_path / "deep").mkdir()
    for file, shade in zip(FILES, (10, 20, 30), strict=True):
        Image.new("L", (6, shade), shade).save(tmp_path / file)
    (tmp_path / "bad.png").write_text("no image")
    return FileTree(tmp_path)


@pytest.mark.parametrize("keep", [None, ImageTransform(4)])
def test_readable_images_come_in_order_with_their_labels(tree: FileTree, keep: ImageTransform | None) -> None:
    source, problems = sound_images(tree, [FILES[2], "bad.png", *FILES[:2]], torch.tensor([7, 8, 9, 5]), keep)
    assert source.labels.tolist() == [7, 9, 5]
    assert isinstance(source, FileImages if keep is None else TensorImages)
    read = [int(image.float().mean()) for piece in source.read(torch.tensor([2, 0, 1])) for image in piece]
    assert read == [20, 30, 10]
    assert list(problems) == ["bad.png"]
    assert "bad.png' cannot be read as an image" in problems["bad.png"]


def test_files_are_read_in_their_own_size(tree: FileTree) -> None:
    source = FileImages(tree, FILES, torch.arange(3))
    assert [piece.shape for piece in source.read(torch.tensor([1, 0]))] == [(1, 1, 20, 6), (1, 1, 10, 6)]


def test_contents_are_the_files(tree: FileTree) -> None:
    source = FileImages(tree, FILES, torch.arange(3))
    assert list(source.contents(torch.tensor([2, 1]))) == [tree.read("c.png"), tree.read("deep/b.png")]
