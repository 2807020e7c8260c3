import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from sklearn.datasets import load_digits

from datamodules import ClassificationDataModule, DigitsDataModule, ImageTransform, RandomFlip, RandomWarp
from datamodules.splits import SPLITS


def test_every_digit_occurs_once_unchanged() -> None:
    data = DigitsDataModule(augmentation=[])
    data.setup()
    ink, labels = [], []
    for split in SPLITS:
        images, classes = data.dataset(split).__getitems__(range(len(data.dataset(split))))
        ink.append((data.transform.denormalize(images) * 16).round().flatten(1))
        labels.append(classes)
    found = torch.cat([torch.cat(labels).unsqueeze(1), torch.cat(ink)], dim=1).numpy()
    values, classes = load_digits(return_X_y=True)
    expected = np.concatenate([classes[:, None], values], axis=1)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_a_stratified_fifth_is_the_test() -> None:
    data = DigitsDataModule()
    data.setup()
    whole = np.bincount(load_digits(return_X_y=True)[1])
    np.testing.assert_allclose(data.dataset("test").labels.bincount(), whole / 5, atol=0.5)
    np.testing.assert_allclose(data.dataset("val").labels.bincount(), whole * 0.8 / 10, atol=0.6)


def test_the_seed_decides() -> None:
    first, again, other = DigitsDataModule(), DigitsDataModule(batch_size=7), DigitsDataModule(seed=1)
    for data in (first, again, other):
        data.setup()
    assert torch.equal(first.dataset("test").indices, again.dataset("test").indices)
    assert not torch.equal(first.dataset("test").indices, other.dataset("test").indices)


def test_it_is_known_before_it_is_loaded() -> None:
    data = DigitsDataModule()
    assert data.class_names == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    assert (data.num_classes, data.image_size, data.transform.channels) == (10, (8, 8), 1)


def test_its_values_are_standardised() -> None:
    values = load_digits(return_X_y=True)[0] / 16
    transform = DigitsDataModule().transform
    assert transform.mean == pytest.approx(values.mean(), abs=1e-3)
    assert transform.std == pytest.approx(values.std(), abs=1e-3)


@pytest.mark.parametrize("image_size", [16, (8, 12)])
def test_larger_images(image_size: int | tuple[int, int]) -> None:
    data = DigitsDataModule(batch_size=4, image_size=image_size)
    data.setup()
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (4, 1, *data.image_size)


def test_training_digits_are_augmented_on_request() -> None:
    plain, warped = DigitsDataModule(), DigitsDataModule(augmentation=[RandomWarp(degrees=10.0, shift=0.1, zoom=0.1)])
    plain.setup()
    warped.setup()
    expected = plain.dataset("train").__getitems__(range(50))[0]
    raw = next(plain.dataset("train").source.read(plain.dataset("train").indices[:50]))
    assert torch.equal(expected, plain.transform.normalize(raw))
    images = warped.dataset("train").__getitems__(range(50))[0]
    assert (images != expected).flatten(1).any(dim=1).all()
    similarity = torch.cosine_similarity((images - images.mean()).flatten(1), (expected - expected.mean()).flatten(1))
    assert similarity.mean() > 0.7  # still the same digits


def test_yaml_builds_it() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(ClassificationDataModule, "data")
    settings = {
        "class_path": "datamodules.DigitsDataModule",
        "init_args": {
            "batch_size": 16,
            "transform": {"size": [8, 10], "channels": 3, "mean": [0.1, 0.2, 0.3]},
            "augmentation": [
                "datamodules.RandomFlip",
                {"class_path": "torchvision.transforms.v2.RandomRotation", "init_args": {"degrees": 5}},
            ],
        },
    }
    data = parser.instantiate(parser.parse_object({"data": settings})).data
    assert isinstance(data, DigitsDataModule)
    assert data.transform == ImageTransform((8, 10), mean=(0.1, 0.2, 0.3))
    data.setup()
    assert isinstance(data.dataset("train").augmentation[0], RandomFlip)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (16, 3, 8, 10)
