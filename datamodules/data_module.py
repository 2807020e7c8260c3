"""Base of all DataModules: lifecycle, splits, loaders, summary and the treatment of bad input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from io import StringIO
from typing import Any, Generic, Literal, TypeVar

from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from datamodules.splits import SPLITS, Split

BadInput = Literal["error", "skip"]
LoadedT = TypeVar("LoadedT")
DatasetT = TypeVar("DatasetT", bound="Dataset[Any]")
BatchT = TypeVar("BatchT")

_SHOWN = 10


class DataModule(LightningDataModule, Generic[LoadedT, DatasetT, BatchT]):
    """Base of :class:`ClassificationDataModule`, :class:`TextDataModule` and :class:`CaptionDataModule`.

    All DataModules here have the same lifecycle: the data are loaded once, when they are first needed or in
    :meth:`setup`. To bring your own data, subclass one of these three; to bring a new kind of data, subclass this one.

    Args:
        num_workers: worker processes of each loader; 0 loads in the main process.
        seed: seed of the order of the training data and of held-out splits.

    Attributes:
        notes: lines to append to the summary.
        num_workers: as given.
        seed: as given.

    Raises:
        ValueError: ``num_workers`` or ``seed`` is negative.

    Example:
        A base for a new kind of data:

        >>> from torch.utils.data import DataLoader, Subset
        >>> class NumberDataModule(DataModule):
        ...     def make_datasets(self):
        ...         return {split: Subset(numbers, range(len(numbers))) for split, numbers in self.loaded.items()}
        ...     def loader(self, split):
        ...         return DataLoader(self.dataset(split), batch_size=2, num_workers=self.num_workers)
        ...     def describe(self):
        ...         return f"{self.title}: {len(self.dataset('train'))} numbers", Table("split")
        >>> class Odd(NumberDataModule):
        ...     def load(self):
        ...         return {"train": [1, 3, 5]}
        >>> list(Odd().train_dataloader()), Odd().val_dataloader()
        ([tensor([1, 3]), tensor([5])], [])
    """

    def __init__(self, *, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        check_at_least(0, num_workers=num_workers, seed=seed)
        self.notes: list[str] = []
        self.num_workers = num_workers
        self.seed = seed

    def load(self) -> Mapping[Split, LoadedT]:
        """Reads the splits that the data set has, ``train`` among them; called once."""
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def make_datasets(self) -> Mapping[Split, DatasetT]:
        """Builds the data set of each split from :attr:`loaded`; called once."""
        raise NotImplementedError(f"{type(self).__name__} must define make_datasets()")

    def loader(self, split: Split) -> DataLoader[BatchT]:
        """Builds the loader of a split: shuffled for ``train``, in a fixed order for the others."""
        raise NotImplementedError(f"{type(self).__name__} must define loader(split)")

    def describe(self) -> tuple[str, Table]:
        """Headline and table of :meth:`summary`."""
        raise NotImplementedError(f"{type(self).__name__} must define describe()")

    @property
    def title(self) -> str:
        """Name of the data set in the summary and in errors."""
        return type(self).__name__

    @cached_property
    def loaded(self) -> dict[Split, LoadedT]:
        """Result of :meth:`load`, in the order train, val, test."""
        parts = self.load()
        return {split: parts[split] for split in SPLITS if split in parts}

    @cached_property
    def datasets(self) -> dict[Split, DatasetT]:
        """Data sets by split, in the order train, val, test; loaded on first use."""
        datasets = self.make_datasets()
        return {split: datasets[split] for split in SPLITS if split in datasets}

    def setup(self, stage: str | None = None) -> None:
        """Loads the data unless they are loaded already, and logs the summary if ``stage`` is ``"fit"``."""
        self.datasets  # noqa: B018 # loaded on first use
        if stage == "fit":
            rank_zero_info(self.summary())

    def dataset(self, split: Split) -> DatasetT:
        """Data set of one split.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self.datasets:
            raise ValueError(
                f"{self.title} has no split {split!r}, only {list(self.datasets)}; hold out a fraction for {split!r}, "
                "or load one"
            )
        return self.datasets[split]

    def train_dataloader(self) -> DataLoader[BatchT]:
        """Loader of the training split, shuffled."""
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[BatchT] | list[DataLoader[BatchT]]:
        """Loader of the validation split; an empty list if there is no such split."""
        return self.loader("val") if "val" in self.datasets else []

    def test_dataloader(self) -> DataLoader[BatchT]:
        """Loader of the test split."""
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[BatchT]:
        """Loader of the test split."""
        return self.loader("test")

    def summary(self) -> str:
        """Summary of the loaded data: a headline, a table and the notes."""
        headline, table = self.describe()
        text = StringIO()
        console = Console(file=text, width=100)
        console.print(headline, highlight=False, markup=False)
        console.print(table)
        return "\n".join([*(line.rstrip() for line in text.getvalue().splitlines()), *self.notes])


def check_at_least(least: int, **numbers: int | None) -> None:
    """Checks that arguments are not below a minimum; ``None`` passes.

    Args:
        least: the minimum.
        **numbers: value of each argument, by the argument's name.

    Raises:
        ValueError: a number is below the minimum.

    Example:
        >>> check_at_least(1, batch_size=0)
        Traceback (most recent call last):
        ValueError: batch_size must be 1 or more, got 0
    """
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ValueError(f"{name} must be {least} or more, got {number}")


def check_bad_input(bad_input: BadInput) -> BadInput:
    """Checks the argument ``bad_input`` and returns it.

    Raises:
        ValueError: it is neither ``"error"`` nor ``"skip"``.
    """
    if bad_input not in ("error", "skip"):
        raise ValueError(f"bad_input must be 'error' or 'skip', got {bad_input!r}")
    return bad_input


def skipped(problems: Sequence[str], what: str, source: str, bad_input: BadInput) -> list[str]:
    """Notes about input that is skipped, for the summary.

    Args:
        problems: a line for each unusable input.
        what: name of such inputs, in the plural.
        source: where they come from, for the error.
        bad_input: ``"skip"`` returns the notes, ``"error"`` raises.

    Raises:
        ValueError: there are problems and ``bad_input`` is ``"error"``.

    Example:
        >>> skipped(["7.jpg is damaged"], "unreadable images", "root='photos'", "skip")
        ['Skipped 1 unreadable images:', '  7.jpg is damaged']
    """
    if not problems:
        return []
    if bad_input == "error":
        raise ValueError(
            f"{source} has {len(problems):,} {what}; correct or remove them, or skip them with bad_input='skip':\n"
            + "\n".join(first_few(problems))
        )
    return [f"Skipped {len(problems):,} {what}:", *first_few(problems)]


def first_few(problems: Sequence[str]) -> list[str]:
    """The first ten problems, one per line, and the number of the others.

    Example:
        >>> first_few([f"{number}.jpg is damaged" for number in range(12)])[-2:]
        ['  9.jpg is damaged', '  … and 2 more']
    """
    more = [f"… and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
    return [f"  {line}" for line in (*problems[:_SHOWN], *more)]
