"""Batches of about as many tokens each, cut from pairs of like lengths, and a loader that remembers its place."""

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
    """How large batches may be, for :class:`TokenBatchSampler`, and what decides about their order.

    Attributes:
        max_tokens: places of the larger side of a batch at most, padding counted: the number of pairs times the
            length of the longest sequence on either side.
        shuffle: draw anew each epoch which pairs of like lengths share a batch, and the order of the batches.
        seed: of the drawing.
        max_pairs: of a batch at most, whatever their lengths; any number when left out.
    """

    max_tokens: int = 4096
    shuffle: bool = False
    seed: int = 0
    max_pairs: int | None = None


class TokenBatchSampler(DistributedSampler[list[int]]):
    """Cuts pairs of like lengths into batches by a budget of tokens; each thing it gives is the list of a batch.

    Made for ``DataLoader(dataset, sampler=..., batch_size=None)`` over a dataset whose items are whole batches. As a
    ``DistributedSampler`` it is left alone by Lightning under DDP and told the epoch. Every pair comes exactly once
    an epoch, on one of the ranks; all ranks have the same number of batches, in every epoch, since batches are
    halved until they can be dealt out evenly. A pair that is above the budget by itself is its own batch; where all
    are, the shortest are put together for the sake of even dealing.

    Pairs are sorted by their longer side, which alone decides how many fit, then by the difference of both sides, so
    that neither side has much padding. Without shuffling the batches come in order of length.

    Args:
        lengths: (n, 2) whole numbers, tokens of both sides of each pair.
        budget: how large the batches are, and whether they are shuffled.
        num_replicas: processes that share the batches.
        rank: which of them this is.

    Attributes:
        start: batches of the epoch that the next pass leaves out, for a run that goes on inside an epoch.

    Raises:
        ValueError: a number is out of its range, the lengths have another shape, or there are fewer pairs than ranks.

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
                f"{len(lengths)} pairs cannot be shared by {num_replicas} processes; give more pairs or fewer devices"
            )
        # The lengths are the "dataset": all that the base asks of it is how many there are.
        super().__init__(lengths, num_replicas, rank, budget.shuffle, budget.seed)  # type: ignore[arg-type]
        self.lengths = lengths.to(torch.int64)
        self.budget = budget
        self.start = 0
        self._longer = self.lengths.amax(1)
        self._sizes = _sizes(self._longer.sort().values, budget, num_replicas)

    def __len__(self) -> int:
        return len(self._sizes) // self.num_replicas

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        order = torch.arange(len(batches))
        if self.budget.shuffle:
            order = torch.randperm(len(batches), generator=self._generator(1))
        mine = order[self.rank :: self.num_replicas].tolist()
        for place in mine[self.start :]:
            yield batches[place].tolist()

    def padding_share(self) -> float:
        """Share of padding among all places of the epoch's batches on all ranks, both sides together."""
        places = sum(len(batch) * int(self.lengths[batch].amax(0).sum()) for batch in self._batches())
        return 1.0 - int(self.lengths.sum()) / places

    def _batches(self) -> list[Tensor]:
        """The epoch's batches of all ranks, in order of length."""
        difference = (self.lengths[:, 0] - self.lengths[:, 1]).double()
        if self.budget.shuffle:
            # Less than one token of noise, so that only pairs of the very same lengths change places.
            difference += torch.rand(len(difference), generator=self._generator(0), dtype=torch.float64)
        # There and back, so that what follows one length's last pair is alike on both sides.
        difference = torch.where(self._longer % 2 == 0, difference, -difference)
        spread = 2.0 * (difference.abs().max() + 1.0)
        order = (self._longer * spread + difference).argsort(stable=True)
        return list(torch.split(order, self._sizes))

    def _generator(self, purpose: int) -> torch.Generator:
        # Far apart, or the first epoch of one seed would be the second of the seed before.
        return torch.Generator().manual_seed((self.budget.seed << 24) + 2 * self.epoch + purpose)


class ResumableLoader(DataLoader[Batch]):
    """A loader of whole batches that can say where in an epoch it is, and go on from there.

    Lightning stores what :meth:`state_dict` says in each checkpoint and gives it back when a run goes on, which then
    sees exactly those batches of the epoch that it had not trained on. The place is the number of batches handed out,
    however many the worker processes made ahead, and two plain numbers: torchdata's ``StatefulDataLoader`` would
    store what unpickling alone can read, and settles the epoch before Lightning has said which it is.

    The arguments are those of ``DataLoader``; ``sampler`` is a :class:`TokenBatchSampler` and ``batch_size`` ``None``.

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

    _place: tuple[int, int] = (0, 0)  # the epoch, and how many of its batches were handed out
    _resume_at: tuple[int, int] | None = None  # likewise, until the next pass begins

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # a generator does for torch's own iterator
        # As a generator this begins at the first batch, when Lightning has told the sampler the epoch.
        sampler = self.sampler
        if not isinstance(sampler, TokenBatchSampler):  # Lightning puts one of its own in to overfit some batches
            yield from super().__iter__()
            return
        epoch, done = self._resume_at or (0, 0)
        self._resume_at = None
        sampler.start = done if epoch == sampler.epoch and done < len(self) else 0
        self._place = (sampler.epoch, sampler.start)
        for batch in super().__iter__():
            self._place = (self._place[0], self._place[1] + 1)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and how many of its batches were handed out."""
        epoch, done = self._place
        return {"epoch": epoch, "batches": done, "of": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on behind what :meth:`state_dict` said, as soon as that epoch is asked for.

        Raises:
            ValueError: the place lies inside an epoch that was cut into another number of batches.
        """
        epoch, done, total = state_dict["epoch"], state_dict["batches"], state_dict["of"]
        if 0 < done < total and total != len(self):
            raise ValueError(
                f"the checkpoint was saved after {done} of {total} batches of an epoch, but here an epoch has "
                f"{len(self)}; go on with the same data, size of batches and number of devices, or from a checkpoint "
                "that was saved at the end of an epoch"
            )
        self._place = self._resume_at = (epoch, done)


def resumable_loader(
    dataset: Dataset[Batch], lengths: Tensor, budget: TokenBudget, num_workers: int, trainer: Trainer | None
) -> ResumableLoader[Batch]:
    """The loader of a process's share of the batches.

    Args:
        dataset: whose items are whole batches.
        lengths: (n, 2), see :class:`TokenBatchSampler`.
        budget: how large the batches are, and whether they are shuffled.
        num_workers: processes that make batches.
        trainer: whose strategy says which share is this process's; all of them where there is none.
    """
    share = (trainer.distributed_sampler_kwargs if trainer is not None else None) or {}
    if num_workers:
        # The threads of the tokenizers' library do not survive the fork of a worker; it complains unless this is said.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return ResumableLoader(
        dataset,
        sampler=TokenBatchSampler(lengths, budget, **share),
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=whole,
    )


def whole(batch: object) -> object:
    """For ``collate_fn``: an item is a batch already."""
    return batch


def _sizes(longer: Tensor, budget: TokenBudget, num_replicas: int) -> list[int]:
    """How many pairs each batch has when they come in order of length; as many batches as replicas, or a multiple."""
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
