"""Batches with a budget of tokens, built from pairs of similar lengths, and a loader that can be resumed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

Batch = TypeVar("Batch", covariant=True)


class TokenBudget(NamedTuple):
    """Size and order of the batches of :class:`TokenBatchSampler`.

    Attributes:
        max_tokens: maximum number of tokens on the larger side of a batch, padding included: the number of pairs times
            the length of the longest sequence on either side.
        shuffle: whether to shuffle, in each epoch, pairs of similar lengths and the order of the batches.
        seed: seed of the shuffling.
        max_pairs: maximum number of pairs in a batch, whatever their lengths; if omitted, any number.
    """

    max_tokens: int = 4096
    shuffle: bool = False
    seed: int = 0
    max_pairs: int | None = None


class TokenBatchSampler(DistributedSampler[list[int]]):
    """Groups pairs of similar lengths into batches within a budget of tokens; yields the indices of one batch each.

    It is meant for ``DataLoader(dataset, sampler=..., batch_size=None)`` over a data set whose items are whole
    batches. As it is a ``DistributedSampler``, Lightning does not replace it under DDP, and sets its epoch. Each pair
    occurs exactly once per epoch, on one of the ranks. All ranks have the same number of batches in every epoch:
    batches are halved until their number is a multiple of the number of ranks. A pair that exceeds the budget is a
    batch by itself; if all batches are single pairs, the shortest ones are combined to reach a multiple.

    Pairs are sorted by their longer side, which determines how many fit into a batch, then by the difference between
    the sides, so that neither side has much padding. Without shuffling, batches come in order of length.

    Args:
        lengths: (n, 2) integers, number of tokens of source and target.
        budget: size and order of the batches.
        num_replicas: number of processes that the batches are distributed over.
        rank: rank of this process.

    Attributes:
        start: number of batches that the next pass skips, to resume within an epoch.

    Raises:
        ValueError: a number is out of range, the lengths have the wrong shape, or there are fewer pairs than ranks.

    Example:
        >>> lengths = torch.tensor([[3, 4], [9, 8], [4, 4], [2, 3]])
        >>> [batch for batch in TokenBatchSampler(lengths, TokenBudget(max_tokens=12))]
        [[3, 0, 2], [1]]
    """

    def __init__(self, lengths: Tensor, budget: TokenBudget, num_replicas: int = 1, rank: int = 0) -> None:
        if lengths.ndim != 2 or lengths.shape[1] != 2:
            raise ValueError(f"lengths must be (n, 2), source and target of each pair, got {tuple(lengths.shape)}")
        if budget.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {budget.max_tokens}")
        if budget.max_pairs is not None and budget.max_pairs < 1:
            raise ValueError(f"max_pairs must be 1 or more, got {budget.max_pairs}")
        if len(lengths) < num_replicas:
            raise ValueError(
                f"{len(lengths)} pairs are too few for {num_replicas} processes; give more pairs or fewer devices"
            )
        # The base class needs only the length of its "dataset".
        super().__init__(lengths, num_replicas, rank, budget.shuffle, budget.seed)  # type: ignore[arg-type]
        self.lengths = lengths.to(torch.int64)
        self.budget = budget
        self.start = 0
        self._longer = self.lengths.amax(1)  # (n,)
        self._sizes = _sizes(self._longer.sort().values, budget, num_replicas)

    def __len__(self) -> int:
        return len(self._sizes) // self.num_replicas

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        order = torch.arange(len(batches))
        if self.budget.shuffle:
            order = torch.randperm(len(batches), generator=self._generator(1))
        mine = order[self.rank :: self.num_replicas].tolist()
        for number in mine[self.start :]:
            yield batches[number].tolist()

    def padding_fraction(self) -> float:
        """Fraction of padding in the epoch's batches of all ranks, both sides together."""
        padded = sum(len(batch) * int(self.lengths[batch].amax(0).sum()) for batch in self._batches())
        return 1.0 - int(self.lengths.sum()) / padded

    def _batches(self) -> list[Tensor]:
        """The epoch's batches of all ranks, in order of length."""
        difference = (self.lengths[:, 0] - self.lengths[:, 1]).double()  # (n,)
        if self.budget.shuffle:
            # Less than one token of noise, so that only pairs of equal lengths are exchanged.
            difference += torch.rand(len(difference), generator=self._generator(0), dtype=torch.float64)
        # Ascending and descending in turn, so that the last pairs of one length and the first of the next are similar.
        difference = torch.where(self._longer % 2 == 0, difference, -difference)  # (n,)
        spread = 2.0 * (difference.abs().max() + 1.0)
        order = (self._longer * spread + difference).argsort(stable=True)  # (n,)
        return list(torch.split(order, self._sizes))

    def _generator(self, purpose: int) -> torch.Generator:
        # Far apart; otherwise an epoch of one seed would equal another epoch of the next seed.
        return torch.Generator().manual_seed((self.budget.seed << 24) + 2 * self.epoch + purpose)


class ResumableLoader(DataLoader[Batch]):
    """Loader of whole batches that saves its position within an epoch and can be resumed there.

    Lightning stores :meth:`state_dict` in each checkpoint and restores it when a run is resumed, which then sees
    exactly those batches of the epoch that it has not trained on. The position is the number of batches handed out,
    however many the worker processes have prefetched. It consists of plain numbers, whereas the state of torchdata's
    ``StatefulDataLoader`` needs pickle and fixes the epoch before Lightning has set it.

    The arguments are those of ``DataLoader``; ``sampler`` must be a :class:`TokenBatchSampler` and ``batch_size``
    ``None``.

    Example:
        >>> from datamodules import Character, TextDataset
        >>> digits = Character().train(["0123456789"])
        >>> dataset = TextDataset(["1", "2", "33"], ["1", "2", "33"], digits, digits)
        >>> def loader():
        ...     sampler = TokenBatchSampler(dataset.lengths, TokenBudget(max_tokens=4))
        ...     return ResumableLoader(dataset, sampler=sampler, batch_size=None, collate_fn=whole)
        >>> first, second = loader(), loader()
        >>> next(iter(first)).source_texts, first.state_dict()
        (['1'], {'epoch': 0, 'batches': 1, 'of': 3})
        >>> second.load_state_dict(first.state_dict())
        >>> [batch.source_texts for batch in second]
        [['2'], ['33']]
    """

    _position: tuple[int, int] = (0, 0)  # the epoch, and the number of its batches that were handed out
    _resume_at: tuple[int, int] | None = None  # likewise, until the next pass begins

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # a generator does for torch's own iterator
        # The body of a generator runs at the first batch, when Lightning has set the sampler's epoch.
        sampler = self.sampler
        if not isinstance(sampler, TokenBatchSampler):  # Lightning replaces it for overfit_batches
            yield from super().__iter__()
            return
        epoch, done = self._resume_at or (0, 0)
        self._resume_at = None
        sampler.start = done if epoch == sampler.epoch and done < len(self) else 0
        self._position = (sampler.epoch, sampler.start)
        for batch in super().__iter__():
            self._position = (self._position[0], self._position[1] + 1)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the number of its batches that were handed out, and the number of all its batches."""
        epoch, done = self._position
        return {"epoch": epoch, "batches": done, "of": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes after the position of ``state_dict``, once that epoch is iterated.

        Raises:
            ValueError: the position lies within an epoch that has another number of batches here.
        """
        epoch, done, total = state_dict["epoch"], state_dict["batches"], state_dict["of"]
        if 0 < done < total and total != len(self):
            raise ValueError(
                f"the checkpoint was saved after {done} of {total} batches of an epoch, but here an epoch has "
                f"{len(self)}; resume with the same data, batch size and number of devices, or from a checkpoint that "
                "was saved at the end of an epoch"
            )
        self._position = self._resume_at = (epoch, done)


def resumable_loader(
    dataset: Dataset[Batch], lengths: Tensor, budget: TokenBudget, num_workers: int, trainer: Trainer | None
) -> ResumableLoader[Batch]:
    """Builds the loader of this process's batches.

    Args:
        dataset: data set whose items are whole batches.
        lengths: (n, 2), see :class:`TokenBatchSampler`.
        budget: size and order of the batches.
        num_workers: worker processes of the loader.
        trainer: trainer that knows the ranks; with ``None``, this process gets all batches.
    """
    ranks = (trainer.distributed_sampler_kwargs if trainer is not None else None) or {}
    if num_workers:
        # The threads of the tokenizers library do not survive a fork; it warns unless this is set.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return ResumableLoader(
        dataset,
        sampler=TokenBatchSampler(lengths, budget, **ranks),
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=whole,
    )


def whole(batch: object) -> object:
    """Collate function for items that are batches already."""
    return batch


def _sizes(longer: Tensor, budget: TokenBudget, num_replicas: int) -> list[int]:
    """Number of pairs in each batch, in order of length; the number of batches is a multiple of the replicas."""
    sizes: list[int] = []
    count = 0
    for length in longer.tolist():
        if count == budget.max_pairs or (count and (count + 1) * length > budget.max_tokens):
            sizes.append(count)
            count = 0
        count += 1
    if count:
        sizes.append(count)
    while len(sizes) % num_replicas:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        half = sizes[largest] // 2
        if half == 0:
            left_over = len(sizes) % num_replicas
            return [2] * left_over + [1] * (len(sizes) - 2 * left_over)
        sizes[largest : largest + 1] = [half, sizes[largest] - half]
    return sizes
