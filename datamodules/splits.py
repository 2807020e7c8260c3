"""Training, validation and test splits: their names, held-out fractions and a stratified split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

Split = Literal["train", "val", "test"]
Part = TypeVar("Part")

SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Common names of the splits in folders and files.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class HeldOut:
    """Fractions of the training data to hold out for splits that a data set does not have.

    A split that the data set has is always used as it is.

    Args:
        val: fraction of the training data that is left once the test split is cut off; 0 for no validation split.
        test: fraction of the training data; 0 for no test split.

    Raises:
        ValueError: a fraction is outside [0, 1).

    Example:
        >>> HeldOut(val=0.1)
        HeldOut(val=0.1, test=0.0)
        >>> HeldOut(test=1.0)
        Traceback (most recent call last):
        ValueError: test must lie in [0, 1), got 1.0
    """

    val: float = 0.0
    test: float = 0.0

    def __post_init__(self) -> None:
        for name, fraction in (("val", self.val), ("test", self.test)):
            if not 0.0 <= fraction < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {fraction}")

    def fill(self, parts: Mapping[Split, Part], cut: Callable[[Part, float], tuple[Part, Part]]) -> dict[Split, Part]:
        """Cuts the missing splits from the training data, the test split first.

        Args:
            parts: the splits that the data set has.
            cut: divides training data into the rest and the given fraction.

        Returns:
            All splits, in the order train, val, test.

        Example:
            >>> def cut(numbers, fraction):
            ...     count = round(fraction * len(numbers))
            ...     return numbers[count:], numbers[:count]
            >>> HeldOut(val=0.5, test=0.2).fill({"train": list(range(10))}, cut)
            {'train': [6, 7, 8, 9], 'val': [2, 3, 4, 5], 'test': [0, 1]}
        """
        filled = dict(parts)
        fractions: dict[Split, float] = {"test": self.test, "val": self.val}
        for split, fraction in fractions.items():
            if split not in filled and "train" in filled and fraction > 0.0:
                filled["train"], filled[split] = cut(filled["train"], fraction)
        return {split: filled[split] for split in SPLITS if split in filled}


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Holds out the same fraction of each class, and at least one item of each class that has two.

    Args:
        labels: (n,), the class of each item.
        fraction: fraction of the items to hold out.
        seed: seed of the split; the global random state is neither used nor changed.

    Returns:
        The indices of the rest and of the held-out items, each in ascending order.

    Example:
        >>> rest, held = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), fraction=0.25, seed=0)
        >>> len(rest), len(held)
        (6, 2)
    """
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().squeeze(1)
        count = max(round(fraction * len(members)), 1) if len(members) > 1 else 0
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)
