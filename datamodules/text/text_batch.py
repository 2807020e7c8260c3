"""Sentence pairs as numbers, and the padded batches that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.tokenizers.tokenizer import Tokenizer

# Sentences that are tokenized in one go: enough to keep every core busy, little enough to hold in memory twice.
_PIECE = 10_000


class TextBatch(NamedTuple):
    """What a system that maps text to text trains on.

    Attributes:
        source: (B, T_s) int64, each row its tokens, the end of sentence, then padding.
        source_lengths: (B,) int64, the end counted.
        target: (B, T_t) int64, each row the beginning of sentence, its tokens, the end, then padding.
        target_lengths: (B,) int64, beginning and end counted.
        source_texts: B texts, as they were read.
        target_texts: B texts, likewise.
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor
    target_lengths: Tensor
    source_texts: list[str]
    target_texts: list[str]


class TokenRows:
    """Many sequences of numbers in one flat tensor, so that a batch of them is one gather.

    Args:
        flat: all numbers, one sequence behind the other.
        lengths: (n,), how many belong to each.

    Example:
        >>> rows = TokenRows.of([[7, 8], [], [9]])
        >>> rows.padded(torch.tensor([2, 0]), padding=0)
        tensor([[9, 0],
                [7, 8]])
    """

    def __init__(self, flat: Tensor, lengths: Tensor) -> None:
        self.flat = flat
        self.lengths = lengths.to(torch.int64)
        self._starts = self.lengths.cumsum(0) - self.lengths

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> TokenRows:
        """Of sequences that lie apart."""
        flat = [number for sequence in sequences for number in sequence]
        lengths = [len(sequence) for sequence in sequences]
        return cls(torch.tensor(flat, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int64))

    @classmethod
    def encoded(cls, tokenizer: Tokenizer, texts: Sequence[str], *, begin: bool, dropout: bool = False) -> TokenRows:
        """Of texts, each with its end of sentence and, if ``begin``, with a beginning too."""
        start, end = [tokenizer.bos_id] if begin else [], [tokenizer.eos_id]
        rest, pieces = iter(texts), []
        while piece := list(islice(rest, _PIECE)):
            numbers = tokenizer.encode(piece, dropout=True) if dropout else tokenizer.encode(piece)
            pieces.append(cls.of([[*start, *sequence, *end] for sequence in numbers]))
        flat = torch.cat([piece.flat for piece in pieces]) if pieces else torch.zeros(0, dtype=torch.int32)
        lengths = torch.cat([piece.lengths for piece in pieces]) if pieces else torch.zeros(0, dtype=torch.int64)
        return cls(flat, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: Tensor, padding: int) -> Tensor:
        """Some of the sequences, (n, T) int64, as long as the longest of them.

        Args:
            rows: (n,) int64, which.
            padding: what stands behind the shorter ones.
        """
        lengths = self.lengths[rows]
        steps = torch.arange(int(lengths.max()) if len(rows) else 0)
        inside = steps < lengths[:, None]
        places = torch.where(inside, self._starts[rows, None] + steps, 0)
        return torch.where(inside, self.flat[places].to(torch.int64), padding)

    def select(self, rows: Tensor) -> TokenRows:
        """Some of the sequences, by their numbers."""
        lengths = self.lengths[rows]
        first = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum())) - first.repeat_interleave(lengths)
        return TokenRows(self.flat[self._starts[rows].repeat_interleave(lengths) + within], lengths)


class TextDataset(Dataset[TextBatch]):
    """Sentence pairs that come as batches: an item is the :class:`TextBatch` of a list of their numbers.

    Args:
        source_texts: n texts.
        target_texts: n texts.
        source_tokenizer: turns the sources into numbers.
        target_tokenizer: turns the targets into numbers.
        rows: the numbers of both sides where they are known already, else they are made here.
        dropout: cut the sentences anew for each batch where a tokenizer has dropout; for training. The lengths stay
            those without dropout, so a batch is somewhat above the budget that it was made for.

    Attributes:
        lengths: (n, 2) int64, numbers of source and target with their beginnings and ends.

    Raises:
        ValueError: not as many targets as sources.

    Example:
        >>> from datamodules import Character
        >>> digits = Character().train(["0123456789"])
        >>> dataset = TextDataset(["12", "7"], ["21", "7"], digits, digits)
        >>> batch = dataset[[1, 0]]
        >>> batch.source_texts, digits.decode(batch.target.tolist())
        (['7', '12'], ['7', '21'])
        >>> batch.source.shape, batch.target.shape, batch.target_lengths
        (torch.Size([2, 3]), torch.Size([2, 4]), tensor([3, 4]))
    """

    def __init__(
        self,
        source_texts: Sequence[str],
        target_texts: Sequence[str],
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        rows: tuple[TokenRows, TokenRows] | None = None,
        *,
        dropout: bool = False,
    ) -> None:
        if len(source_texts) != len(target_texts):
            raise ValueError(
                f"target_texts must be as many as the {len(source_texts)} source_texts, got {len(target_texts)}"
            )
        self.source_texts = source_texts
        self.target_texts = target_texts
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer
        self.source_rows, self.target_rows = rows or (
            TokenRows.encoded(source_tokenizer, source_texts, begin=False),
            TokenRows.encoded(target_tokenizer, target_texts, begin=True),
        )
        self.lengths = torch.stack([self.source_rows.lengths, self.target_rows.lengths], dim=1)
        self._drop_source = dropout and source_tokenizer.dropout > 0.0
        self._drop_target = dropout and target_tokenizer.dropout > 0.0

    def __len__(self) -> int:
        return len(self.source_texts)

    def __getitem__(self, indices: Sequence[int] | int) -> TextBatch:
        """The batch of these pairs, in this order; one number makes a batch of one."""
        chosen = [indices] if isinstance(indices, int) else list(indices)
        rows = torch.tensor(chosen, dtype=torch.int64)
        source_texts = [self.source_texts[index] for index in chosen]
        target_texts = [self.target_texts[index] for index in chosen]
        source, source_rows = self.source_rows, rows
        if self._drop_source:
            source = TokenRows.encoded(self.source_tokenizer, source_texts, begin=False, dropout=True)
            source_rows = torch.arange(len(chosen))
        target, target_rows = self.target_rows, rows
        if self._drop_target:
            target = TokenRows.encoded(self.target_tokenizer, target_texts, begin=True, dropout=True)
            target_rows = torch.arange(len(chosen))
        return TextBatch(
            source.padded(source_rows, self.source_tokenizer.pad_id),
            source.lengths[source_rows],
            target.padded(target_rows, self.target_tokenizer.pad_id),
            target.lengths[target_rows],
            source_texts,
            target_texts,
        )
