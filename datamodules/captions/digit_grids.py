"""Handwritten digits laid out in a grid, and what stands where: captions to train on without a download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from datamodules.captions.caption_data import CaptionedImages, CaptionedImagesDataModule
from datamodules.images.augmentation import Augmentation, augment
from datamodules.images.digits import digit_images
from datamodules.images.image_dataset import ImageReader
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import Split, stratified_split
from datamodules.tokenizers.tokenizer_trainers import Word

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RELATIONS = ("left of", "above", "above and left of", "above and right of")

_WITH_ARTICLE = [f"{'an' if numeral == 'eight' else 'a'} {numeral}" for numeral in NUMERALS]
_DIGIT_SIZE = 8
_TEST_SHARE = 0.2
_VAL_SHARE = 0.125  # of what the test leaves: a tenth of all


class DigitGridDataModule(CaptionedImagesDataModule):
    """Two handwritten digits on a black grid, and where the first stands: "a three above and left of an eight".

    The digits are told in reading order, row by row, so each image has one right caption. The handwriting of
    scikit-learn's digits and the layouts, the pairs of cells that two digits can stand in, are both cut in three: a
    fifth of each is for the test and a tenth for validation, so nothing that is tested on was trained on, neither how
    a digit is written nor the two places together. Images are put together when they are asked for.

    Args:
        rows: of the grid.
        columns: of the grid.
        cell_size: height and width of a cell in pixels; a digit of 8x8 is enlarged to fill it.
        train_size: how many images are trained on.
        val_size: how many are kept for validation.
        test_size: how many are kept for the test.
        batch_size: images in a batch, on each device.
        num_workers: processes that make batches; 0 is fast enough.
        seed: decides what is kept from training, what is drawn, and the order in training.
        augmentation: transforms of each digit of a training image, see :func:`augment`; none when left out. They move
            the digit in its cell and never out of it. Mirrored digits are none.
        transform: the whole way from an image to the network's input, in place of the set's own.

    Raises:
        ValueError: a number is out of its range, or the grid has too few layouts to keep some from training.

    Example:
        >>> data = DigitGridDataModule(train_size=100, val_size=10, test_size=10)
        >>> batch = data.dataset("test")[[0, 1]]
        >>> batch.images.shape, batch.names[0]
        (torch.Size([2, 1, 64, 64]), 'test/0')
        >>> batch.references[0], data.cells("test")[0].tolist()
        (['an eight above and left of a five'], [[0, 0], [2, 2]])
    """

    def __init__(
        self,
        rows: int = 4,
        columns: int = 4,
        cell_size: int = 16,
        train_size: int = 20_000,
        val_size: int = 1_000,
        test_size: int = 1_000,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        augmentation: Sequence[Augmentation] = (),
        transform: ImageTransform | None = None,
    ) -> None:
        if min(rows, columns) < 1 or rows * columns < 2:
            raise ValueError(f"rows={rows} and columns={columns} leave no two cells; give a larger grid")
        if cell_size < _DIGIT_SIZE:
            raise ValueError(f"cell_size must be {_DIGIT_SIZE}, the size of a digit, or more, got {cell_size}")
        sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        self._layouts = _layouts(rows, columns, seed)
        for split, size in sizes.items():
            if size < (split == "train"):
                raise ValueError(f"{split}_size must be {int(split == 'train')} or more, got {size}")
            if size and not len(self._layouts[split]):
                raise ValueError(
                    f"rows={rows} and columns={columns} leave no two cells for {split!r} that training has not; give a "
                    f"larger grid, or {split}_size=0"
                )
        super().__init__(
            transform or ImageTransform((rows * cell_size, columns * cell_size), channels=1, mean=0.04, std=0.16),
            tokenizer=Word(),
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self._shape = (rows, columns)
        self._cell_size = cell_size
        self._sizes = sizes
        self._digit_augmentation = tuple(augmentation)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self._shape

    def tokenizer_texts(self) -> Sequence[str]:
        """All words there are, whether or not they were drawn."""
        return ["a an", *NUMERALS, *RELATIONS]

    def cells(self, split: Split) -> Tensor:
        """Where the digits of each image stand: (n, 2, 2), row and column of the first, and of the second.

        The image called "test/12" is number 12, counted from 0, of the split ``test``.

        Raises:
            ValueError: there is no such split.
        """
        self.dataset(split)  # or says that there is none
        return self._grids[split].cells

    def load(self) -> Mapping[Split, CaptionedImages]:
        """Draws the digits of each image and their cells, and tells them."""
        return {
            split: CaptionedImages(
                grids,
                [f"{split}/{number}" for number in range(len(grids.cells))],
                [[text] for text in grids.captions()],
            )
            for split, grids in self._grids.items()
        }

    @cached_property
    def _grids(self) -> dict[Split, DigitGrids]:
        images, labels = digit_images()
        enlarged = v2.functional.resize(images, [self._cell_size] * 2, InterpolationMode.BICUBIC, antialias=True)
        handwriting = _three_parts(labels, self._seed)
        grids: dict[Split, DigitGrids] = {}
        for number, (split, size) in enumerate(self._sizes.items()):
            if size:
                generator = torch.Generator().manual_seed(len(self._sizes) * self._seed + number)
                layouts, digits = self._layouts[split], handwriting[split]
                cells = layouts[torch.randint(len(layouts), (size,), generator=generator)]
                chosen = digits[torch.randint(len(digits), (size, 2), generator=generator)]
                augmentation = self._digit_augmentation if split == "train" else ()
                grids[split] = DigitGrids(enlarged, labels, chosen, cells, self._shape, augmentation)
        return grids


class DigitGrids(ImageReader):
    """Grids of two digits each, put together when they are asked for.

    Args:
        images: (m, 1, side, side) uint8, of single digits.
        labels: (m,), what they are.
        chosen: (n, 2), which two digits each grid has.
        cells: (n, 2, 2), row and column of the first and of the second, the first before the second in reading order.
        shape: rows and columns of a grid.
        augmentation: of each digit before it is laid in its cell, see :func:`augment`.

    Attributes:
        chosen: as given.
        cells: as given.

    Example:
        >>> ink, labels = torch.full((2, 1, 1, 1), 255, dtype=torch.uint8), torch.tensor([3, 8])
        >>> grids = DigitGrids(ink, labels, torch.tensor([[0, 1]]), torch.tensor([[[0, 1], [1, 0]]]), (2, 2))
        >>> grids.captions(), next(grids.read(torch.tensor([0]))).tolist()
        (['a three above and right of an eight'], [[[[0, 255], [255, 0]]]])
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        chosen: Tensor,
        cells: Tensor,
        shape: tuple[int, int],
        augmentation: Sequence[Augmentation] = (),
    ) -> None:
        self.images = images
        self.labels = labels
        self.chosen = chosen
        self.cells = cells
        self.shape = shape
        self.augmentation = tuple(augmentation)
        self.changes = bool(self.augmentation)

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """All of them in one piece.

        Raises:
            ValueError: an augmentation changes the size of digits.
        """
        rows, columns = self.shape
        side = self.images.size(-1)
        digits = augment(self.images[self.chosen[indices].flatten()], self.augmentation)
        if digits.shape[1:] != self.images.shape[1:]:
            raise ValueError(
                f"augmentation makes digits of {tuple(digits.shape[1:])} from {tuple(self.images.shape[1:])}, which "
                "fit no cell; take transforms that keep the size"
            )
        digits = digits.reshape(-1, 2, side, side)
        grids = digits.new_zeros(len(indices), rows * columns, side, side)
        grids[torch.arange(len(indices)).unsqueeze(1), self.cells[indices] @ torch.tensor([columns, 1])] = digits
        # Of a row of cells all the first lines of pixels come before the second ones.
        lines = grids.reshape(-1, rows, columns, side, side).transpose(2, 3)
        yield lines.reshape(-1, 1, rows * side, columns * side)

    def captions(self) -> list[str]:
        """What stands where in each grid."""
        return [
            f"{_WITH_ARTICLE[first]} {RELATIONS[relation]} {_WITH_ARTICLE[second]}"
            for (first, second), relation in zip(
                self.labels[self.chosen].tolist(), _relations(self.cells).tolist(), strict=True
            )
        ]


def _relations(cells: Tensor) -> Tensor:
    """The number of the words for how the first of two cells, (n, 2, 2), lies to the second: (n,)."""
    (first_row, first_column), (second_row, second_column) = cells.permute(1, 2, 0)
    lower = torch.where(first_column < second_column, 2, 3)
    return torch.where(first_row == second_row, 0, torch.where(first_column == second_column, 1, lower))


def _layouts(rows: int, columns: int, seed: int) -> dict[Split, Tensor]:
    """All pairs of cells in reading order, (n, 2, 2), cut in three, each part with its share of every relation."""
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    layouts = cells[torch.combinations(torch.arange(len(cells)))]
    return {split: layouts[part] for split, part in _three_parts(_relations(layouts), seed).items()}


def _three_parts(labels: Tensor, seed: int) -> dict[Split, Tensor]:
    rest, test = stratified_split(labels, _TEST_SHARE, seed)
    train, val = stratified_split(labels[rest], _VAL_SHARE, seed)
    return {"train": rest[train], "val": rest[val], "test": test}
