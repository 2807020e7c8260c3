"""Training, validation and test: their names, and a stratified cut."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Split = Literal["train", "val", "test"]


SPLITS: tuple[Split, ...] = ("train", "val", "test")


# What splits are called by those who make data sets.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Cuts a share off, the same of each class; at least one image of each class that has two.

    Args:
        labels: (n,), the class of each image.
        share: of the images to hold out.
        seed: of a generator of its own; the global one is neither used nor moved.

    Returns:
        The indices of the rest and of those held out, each ascending.

    Example:
        >>> rest, held = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), share=0.25, seed=0)
        >>> len(rest), len(held)
        (6, 2)
    """
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().squeeze(1)
        count = max(round(share * len(members)), 1) if len(members) > 1 else 0
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)
