import inspect
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import v2

from datamodules import DigitGridDataModule, ImageTransform, RandomShift, RandomWarp
from datamodules.captions.digit_grids import NUMERALS, DigitGrids
from datamodules.splits import SPLITS, Split


def small(**arguments: Any) -> DigitGridDataModule:  # noqa: ANN401
    return DigitGridDataModule(**{"train_size": 300, "val_size": 60, "test_size": 60, **arguments})


def grids(data: DigitGridDataModule, split: Split) -> DigitGrids:
    reader = data.dataset(split).reader
    assert isinstance(reader, DigitGrids)
    return reader


def pixels(data: DigitGridDataModule, split: Split) -> Tensor:
    return next(grids(data, split).read(torch.arange(len(data.dataset(split)))))


def crops(data: DigitGridDataModule, split: Split, size: int = 16) -> Tensor:
    """Pixels of the two cells that each caption describes: (n, 2, size, size)."""
    found = [
        [image[0, size * row : size * (row + 1), size * column : size * (column + 1)] for row, column in pair]
        for image, pair in zip(pixels(data, split), data.cells(split).tolist(), strict=True)
    ]
    return torch.stack([torch.stack(pair) for pair in found])


class TestImages:
    def test_two_digits_and_nothing_else(self) -> None:
        data = small()
        images = pixels(data, "train")
        assert images.shape == (300, 1, 64, 64)
        assert images.dtype == torch.uint8
        inside = crops(data, "train")
        assert (inside.flatten(2).amax(2) > 100).all()
        assert torch.equal(inside.sum((1, 2, 3)), images.sum((1, 2, 3))), "all other cells are black"

    def test_digits_are_those_of_scikit_learn(self) -> None:
        data = small(cell_size=8)
        values, labels = load_digits(return_X_y=True)
        known = {
            (values[index] * (255 / 16)).round().astype(np.uint8).tobytes(): NUMERALS[labels[index]]
            for index in range(len(labels))
        }
        for split in SPLITS:
            for [caption], pair in zip(data.dataset(split).captions, crops(data, split, 8), strict=True):
                words = caption.split()
                assert [words[1], words[-1]] == [known[digit.numpy().tobytes()] for digit in pair]

    def test_a_digit_fills_its_cell(self) -> None:
        large, own = crops(small(), "val"), crops(small(cell_size=8), "val", 8)
        means = torch.nn.functional.avg_pool2d(large.float(), 2)
        correlation = torch.corrcoef(torch.stack([means.flatten(), own.float().flatten()]))[0, 1]
        assert correlation > 0.97

    def test_values_are_standardised(self) -> None:
        images = torch.cat(list(small(train_size=2000).dataset("train").image_batches(500)))
        assert images.mean().abs() < 0.1
        assert abs(images.std() - 1) < 0.1

    def test_images_do_not_depend_on_their_batch(self) -> None:
        dataset = small().dataset("val")
        everything = torch.cat(list(dataset.image_batches(7)))
        assert torch.equal(dataset.images(torch.tensor([40, 3])), everything[[40, 3]])

    def test_another_transform(self) -> None:
        batch = small(transform=ImageTransform(32)).dataset("test")[[0]]
        assert batch.images is not None
        assert batch.images.shape == (1, 3, 32, 32)


class TestCaptions:
    def test_they_describe_the_cells(self) -> None:
        data = small()
        for split in SPLITS:
            for [caption], pair in zip(data.dataset(split).captions, data.cells(split).tolist(), strict=True):
                (upper, first), (lower, second) = pair
                if upper == lower:
                    assert first < second
                    relation = "left of"
                elif first == second:
                    relation = "above"
                else:
                    relation = f"above and {'left' if first < second else 'right'} of"
                assert f" {relation} a" in caption
                assert upper <= lower, "named in reading order"
                assert ("above and" in caption) == ("and" in relation)

    @given(st.integers(0, 9), st.integers(0, 9), st.permutations(range(12)))
    def test_one_image(self, first: int, second: int, numbers: list[int]) -> None:
        pair = sorted(numbers[:2])
        cells = torch.tensor([[divmod(number, 4) for number in pair]])
        images = torch.arange(1, 11, dtype=torch.uint8).view(10, 1, 1, 1)
        reader = DigitGrids(images, torch.arange(10), torch.tensor([[first, second]]), cells, (3, 4))
        expected = torch.zeros(12, dtype=torch.uint8)
        expected[pair] = torch.tensor([first + 1, second + 1], dtype=torch.uint8)
        assert torch.equal(next(reader.read(torch.tensor([0]))), expected.view(1, 1, 3, 4))
        [caption] = reader.captions()
        articles = ["an" if digit == 8 else "a" for digit in (first, second)]
        assert caption.startswith(f"{articles[0]} {NUMERALS[first]} ")
        assert caption.endswith(f" {articles[1]} {NUMERALS[second]}")

    def test_every_relation_in_every_split(self) -> None:
        data = small()
        for split in SPLITS:
            relations = {" ".join(caption.split()[2:-2]) for [caption] in data.dataset(split).captions}
            assert relations == {"left of", "above", "above and left of", "above and right of"}

    def test_all_words_are_known_beforehand(self) -> None:
        few, many = small(train_size=1, val_size=0, test_size=0), small(seed=3)
        assert few.target_tokenizer == many.target_tokenizer
        words = {*NUMERALS, "a", "an", "above", "and", "left", "of", "right"}
        made = few.target_tokenizer
        assert set(made.tokens(range(4, len(made)))) == words
        texts = [caption for [caption] in many.dataset("train").captions]
        assert made.decode(made.encode(texts)) == texts
        assert not (many.dataset("train").caption_rows.flat == made.unk_id).any()

    def test_batches_can_be_joined_with_their_cells(self) -> None:
        data = small()
        cells = data.cells("test")
        assert cells.shape == (60, 2, 2)
        for batch in data.test_dataloader():
            numbers = [int(name.removeprefix("test/")) for name in batch.names]
            assert batch.images is not None
            ink = (batch.images > 1.0).float()
            for image, pair in zip(ink, cells[numbers].tolist(), strict=True):
                assert all(image[0, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16].sum() > 0 for r, c in pair)


class TestSplits:
    def test_sizes(self) -> None:
        data = small()
        assert [len(data.dataset(split)) for split in SPLITS] == [300, 60, 60]
        with pytest.raises(ValueError, match="no split 'val'"):
            small(val_size=0).cells("val")

    def test_test_digits_and_layouts_do_not_occur_in_training(self) -> None:
        data = small(train_size=5000, val_size=2000, test_size=2000)
        layouts = [{tuple(map(tuple, pair)) for pair in data.cells(split).tolist()} for split in SPLITS]
        digits = [set(grids(data, split).chosen.flatten().tolist()) for split in SPLITS]
        for parts, total in ((layouts, 120), (digits, 1797)):
            assert not parts[0] & parts[1]
            assert not parts[0] & parts[2]
            assert not parts[1] & parts[2]
            assert sum(map(len, parts)) > 0.99 * total, "every layout is used"
        assert [len(part) for part in layouts] == [84, 12, 24]

    def test_every_digit_in_every_split(self) -> None:
        data = small()
        for split in SPLITS:
            assert {word for [caption] in data.dataset(split).captions for word in caption.split()} >= set(NUMERALS)

    def test_seed_decides(self) -> None:
        drawn = [small(seed=seed).dataset("test").captions for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert torch.equal(pixels(small(), "test"), pixels(small(), "test"))
        before = torch.get_rng_state()
        small().setup()
        assert torch.equal(torch.get_rng_state(), before)

    def test_one_size_does_not_change_the_other_splits(self) -> None:
        first, other = small(), small(train_size=10)
        assert first.dataset("test").captions == other.dataset("test").captions
        assert first.dataset("val").captions == other.dataset("val").captions

    @pytest.mark.parametrize(("rows", "columns"), [(1, 4), (4, 1), (2, 3), (3, 7)])
    def test_other_grids(self, rows: int, columns: int) -> None:
        data = small(rows=rows, columns=columns, cell_size=9)
        assert data.image_size == (9 * rows, 9 * columns)
        assert torch.equal(crops(data, "train", 9).sum((1, 2, 3)), pixels(data, "train").sum((1, 2, 3)))


def test_defaults_are_ready_to_train_on() -> None:
    data = DigitGridDataModule()
    assert data.summary().startswith("DigitGridDataModule: 22,000 images as 1x64x64; a vocabulary of 21 tokens")
    assert sum(1 for _ in data.dataset("train").caption_rows.lengths) == 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows=0 and columns=4 .* give a larger grid"),
        ({"rows": 1, "columns": 1}, "rows=1 and columns=1 .* give a larger grid"),
        ({"rows": 1, "columns": 2}, "rows=1 and columns=2 .* for 'val'.* or val_size=0"),
        ({"cell_size": 7}, "cell_size must be 8, the size of a digit, or more, got 7"),
        ({"train_size": 0}, "train_size must be 1 or more, got 0"),
        ({"test_size": -1}, "test_size must be 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_at_most_twelve_arguments() -> None:
    assert len(inspect.signature(DigitGridDataModule).parameters) <= 12


def test_yaml_builds_it() -> None:
    recipe = """
    class_path: DigitGridDataModule
    init_args: {rows: 3, columns: 5, cell_size: 8, train_size: 50, val_size: 5, test_size: 5, batch_size: 10}
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    data = parser.instantiate(parser.parse_object({"data": yaml.safe_load(recipe)})).data
    assert isinstance(data, DigitGridDataModule)
    assert data.image_size == (24, 40)
    assert len(data.train_dataloader()) == 5


def test_digits_of_training_images_alone_are_augmented() -> None:
    sizes: dict[str, Any] = {"cell_size": 8, "train_size": 4, "val_size": 4, "test_size": 4}
    plain, moved = DigitGridDataModule(**sizes), DigitGridDataModule(**sizes, augmentation=[RandomShift(3)])
    for split in SPLITS:
        assert torch.equal(pixels(plain, split), pixels(moved, split)) is (split != "train")


def test_an_augmented_digit_stays_in_its_cell() -> None:
    data = small(augmentation=[RandomWarp(degrees=40, shift=0.4, zoom=0.3)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = pixels(data, "train")
        torch.manual_seed(0)
        inside = crops(data, "train")
    assert torch.equal(inside.sum((1, 2, 3)), images.sum((1, 2, 3)))
    untouched = crops(small(), "train")
    assert not (inside.flatten(2) == untouched.flatten(2)).all(2).any(), "both digits of every image are moved"


def test_an_augmentation_that_changes_the_size_is_an_error() -> None:
    data = small(augmentation=[v2.CenterCrop(12)])
    with pytest.raises(ValueError, match=r"augmentation changes .* from \(1, 16, 16\) to \(1, 12, 12\)"):
        pixels(data, "train")
