"""Pairs of handwritten digits in a grid, with captions of their positions: data that need no download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from datamodules.captions.caption_data import CaptionDataModule, CaptionedImages
from datamodules.data_module import check_at_least
from datamodules.images.augmentation import Augmentation, augment
from datamodules.images.digits import digit_images
from datamodules.images.image_dataset import ImageReader
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import HeldOut, Split, stratified_split
from datamodules.tokenizers.tokenizer_trainers import Word

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RELATIONS = ("left of", "above", "above and left of", "above and right of")

_WITH_ARTICLE = [f"{'an' if numeral == 'eight' else 'a'} {numeral}" for numeral in NUMERALS]
_DIGIT_SIZE = 8
_HELD_OUT = HeldOut(val=0.125, test=0.2)  # a tenth and a fifth of all


class DigitGridDataModule(CaptionDataModule):
    """Two handwritten digits on a black grid, and their relative position: "a three above and left of an eight".

    The captions name the digits in reading order, row by row, so each image has one correct caption. Both the digits of
    scikit-learn and the layouts, the pairs of cells that two digits occupy, are split in three: a fifth of each is used
    for the test and a tenth for validation only. So no handwriting and no layout of the test occurs in training. Images
    are composed when they are read.

    Args:
        rows: rows of the grid.
        columns: columns of the grid.
        cell_size: height and width of a cell in pixels; digits of 8x8 pixels are enlarged to it.
        train_size: number of training images.
        val_size: number of validation images.
        test_size: number of test images.
        batch_size: B, per device.
        num_workers: worker processes of each loader; 0 is fast enough.
        seed: seed of the splits, of the drawn images, and of their order in training.
        augmentation: augmentation of each digit of a training image within its cell, see :func:`augment`. Mirrored
            digits are not digits.
        transform: transform from a raw image to the network's input; if omitted, the grid's own size.

    Raises:
        ValueError: a number is out of range, or the grid has too few layouts to hold some out.

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
            raise ValueError(f"rows={rows} and columns={columns} give less than two cells; give a larger grid")
        if cell_size < _DIGIT_SIZE:
            raise ValueError(f"cell_size must be {_DIGIT_SIZE}, the size of a digit, or more, got {cell_size}")
        check_at_least(1, train_size=train_size)
        check_at_least(0, val_size=val_size, test_size=test_size, seed=seed)
        sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        self._layouts = _layouts(rows, columns, seed)
        for split, size in sizes.items():
            if size and not len(self._layouts[split]):
                raise ValueError(
                    f"rows={rows} and columns={columns} have too few layouts to hold some out for {split!r}; give a "
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
        """All words of the captions, drawn or not."""
        return ["a an", *NUMERALS, *RELATIONS]

    def cells(self, split: Split) -> Tensor:
        """Cells of the digits of each image.

        Args:
            split: the split; image number 12, from 0, of the split ``test`` has the name "test/12".

        Returns:
            (n, 2, 2) int64, row and column of the first digit and of the second.

        Raises:
            ValueError: there is no such split.
        """
        self.dataset(split)  # raises if there is none
        return self._grids[split].cells

    def load(self) -> Mapping[Split, CaptionedImages]:
        """Draws the digits and cells of each image, and writes its caption."""
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
        handwriting = _three_parts(labels, self.seed)
        grids: dict[Split, DigitGrids] = {}
        for number, (split, size) in enumerate(self._sizes.items()):
            if size:
                generator = torch.Generator().manual_seed(len(self._sizes) * self.seed + number)
                layouts, digits = self._layouts[split], handwriting[split]
                cells = layouts[torch.randint(len(layouts), (size,), generator=generator)]
                chosen = digits[torch.randint(len(digits), (size, 2), generator=generator)]
                augmentation = self._digit_augmentation if split == "train" else ()
                grids[split] = DigitGrids(enlarged, labels, chosen, cells, self._shape, augmentation)
        return grids


class DigitGrids(ImageReader):
    """Grids of two digits each, composed when they are read.

    Args:
        images: (m, 1, side, side) uint8, single digits.
        labels: (m,), values of these digits.
        chosen: (n, 2), indices of the two digits of each grid.
        cells: (n, 2, 2), row and column of the first digit and of the second, in reading order.
        shape: rows and columns of a grid.
        augmentation: augmentation of each digit, see :func:`augment`.

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
        """See :meth:`ImageReader.read`; all images in one piece.

        Raises:
            ValueError: the augmentation changes the size of the digits.
        """
        rows, columns = self.shape
        side = self.images.size(-1)
        digits = augment(self.images[self.chosen[indices].flatten()], self.augmentation)  # (2n, 1, side, side)
        if digits.shape[1:] != self.images.shape[1:]:
            raise ValueError(
                f"augmentation changes the size of digits from {tuple(self.images.shape[1:])} to "
                f"{tuple(digits.shape[1:])}; use transforms that keep the size"
            )
        digits = digits.reshape(-1, 2, side, side)  # (n, 2, side, side)
        grids = digits.new_zeros(len(indices), rows * columns, side, side)  # (n, cells, side, side)
        grids[torch.arange(len(indices)).unsqueeze(1), self.cells[indices] @ torch.tensor([columns, 1])] = digits
        lines = grids.reshape(-1, rows, columns, side, side).transpose(2, 3)  # (n, rows, side, columns, side)
        yield lines.reshape(-1, 1, rows * side, columns * side)

    def captions(self) -> list[str]:
        """Caption of each grid: its digits and their relative position."""
        return [
            f"{_WITH_ARTICLE[first]} {RELATIONS[relation]} {_WITH_ARTICLE[second]}"
            for (first, second), relation in zip(
                self.labels[self.chosen].tolist(), _relations(self.cells).tolist(), strict=True
            )
        ]


def _relations(cells: Tensor) -> Tensor:
    """Index in RELATIONS of the first of two cells, (n, 2, 2), relative to the second: (n,)."""
    (first_row, first_column), (second_row, second_column) = cells.permute(1, 2, 0)
    lower = torch.where(first_column < second_column, 2, 3)
    return torch.where(first_row == second_row, 0, torch.where(first_column == second_column, 1, lower))


def _layouts(rows: int, columns: int, seed: int) -> dict[Split, Tensor]:
    """All pairs of cells in reading order, (n, 2, 2), by split, stratified by relation."""
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (cells, 2)
    layouts = cells[torch.combinations(torch.arange(len(cells)))]  # (pairs, 2, 2)
    return {split: layouts[part] for split, part in _three_parts(_relations(layouts), seed).items()}


def _three_parts(labels: Tensor, seed: int) -> dict[Split, Tensor]:
    """Indices of labelled items, (n,), by split."""

    def cut(part: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        rest, held = stratified_split(labels[part], fraction, seed)
        return part[rest], part[held]

    return _HELD_OUT.fill({"train": torch.arange(len(labels))}, cut)
