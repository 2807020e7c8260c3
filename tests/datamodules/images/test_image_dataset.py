from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import ImageDataset, ImageReader, ImageSource, ImageTransform, RandomFlip, TensorImages, load_image


@pytest.fixture
def source() -> TensorImages:
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorImages(images, torch.arange(10) % 3)


class Mixed(ImageSource):
    """Grey and colour, large and small."""

    images = (
        torch.zeros(1, 8, 8, dtype=torch.uint8),
        torch.full((3, 5, 9), 255, dtype=torch.uint8),
        torch.full((1, 30, 20), 51, dtype=torch.uint8),
    )

    def __init__(self) -> None:
        super().__init__(torch.tensor([2, 0, 1], dtype=torch.int32))

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        for index in indices.tolist():
            yield self.images[index].unsqueeze(0)


def test_a_batch_has_its_images_in_the_given_order(source: TensorImages) -> None:
    transform = ImageTransform(12, channels=1, crop=0.9)
    indices = torch.tensor([9, 2, 5, 7])
    dataset = ImageDataset(source, indices, transform)
    images, labels = dataset.__getitems__([3, 0, 0])
    expected = torch.stack([transform(source.images[index]) for index in (7, 9, 9)])
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == [7 % 3, 9 % 3, 9 % 3]
    assert len(dataset) == 4
    assert dataset.labels.tolist() == [index % 3 for index in indices.tolist()]


def test_one_item_is_an_image_and_its_label(source: TensorImages) -> None:
    image, label = ImageDataset(source, torch.arange(10), ImageTransform(8))[4]
    torch.testing.assert_close(image, ImageTransform(8)(source.images[4]))
    assert label.item() == 1


def test_images_of_different_sizes_in_a_batch() -> None:
    images, labels = ImageDataset(Mixed(), torch.arange(3), ImageTransform(6)).__getitems__([0, 1, 2])
    assert images.shape == (3, 3, 6, 6)
    torch.testing.assert_close(images.mean((1, 2, 3)), torch.tensor([-1.0, 1.0, -0.6]))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 0, 1]


def test_augmentation_comes_before_the_transform(source: TensorImages) -> None:
    transform = ImageTransform((5, 8))
    seen: list[tuple[torch.Size, torch.dtype]] = []

    def look(image: Tensor) -> Tensor:
        seen.append((image.shape, image.dtype))
        return image

    dataset = ImageDataset(source, torch.arange(10), transform, [RandomFlip(1.0), look])
    torch.testing.assert_close(dataset[3][0], transform(source.images[3].flip(2)))
    assert seen == [(torch.Size([3, 8, 8]), torch.uint8)]


def test_the_source_is_never_changed(source: TensorImages) -> None:
    before = source.images.clone()
    ImageDataset(source, torch.arange(10), ImageTransform(8), [RandomFlip()]).__getitems__(list(range(10)))
    assert torch.equal(source.images, before)


def test_worker_processes_give_the_same_batches(source: TensorImages) -> None:
    dataset = ImageDataset(source, torch.arange(10), ImageTransform(8))
    here = torch.cat([images for images, _ in DataLoader(dataset, batch_size=4, collate_fn=tuple)])
    there = torch.cat([images for images, _ in DataLoader(dataset, batch_size=4, collate_fn=tuple, num_workers=1)])
    assert torch.equal(here, there)


def test_contents_identify_images_however_they_are_read(source: TensorImages) -> None:
    contents = list(source.contents(torch.arange(10)))
    assert len(set(contents)) == 10
    assert list(source.contents(torch.tensor([7, 2]))) == [contents[7], contents[2]]
    wide, tall = (torch.zeros(1, 1, *shape, dtype=torch.uint8) for shape in ((2, 8), (8, 2)))
    one = torch.zeros(1)
    assert list(TensorImages(wide, one).contents(one.long())) != list(TensorImages(tall, one).contents(one.long()))


def test_every_image_needs_a_label_and_bytes() -> None:
    with pytest.raises(ValueError, match=r"labels must be \(2,\), .*got \(3,\)"):
        TensorImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3))
    with pytest.raises(ValueError, match="uint8"):
        TensorImages(torch.zeros(2, 1, 4, 4), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\)"):
        TensorImages(torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2))


def test_a_source_must_read(source: TensorImages) -> None:
    assert load_image(next(source.read(torch.tensor([1])))[0]).shape == (3, 8, 8)
    with pytest.raises(NotImplementedError, match="ImageReader must define read"):
        ImageReader().read(torch.tensor([0]))
    with pytest.raises(NotImplementedError, match="ImageSource must define read"):
        ImageSource(torch.zeros(1)).read(torch.tensor([0]))
