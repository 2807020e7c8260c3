"""Sentence pairs as token ids, and padded batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.tokenizers.tokenizer import Tokenizer

# Sentences per call of the tokenizer: enough for all cores, few enough to hold in memory twice.
_PIECE = 10_000


class TextBatch(NamedTuple):
    """Batch of sentence pairs.

    Attributes:
        source: (B, T_k) int64, source token ids; each row ends with the end of sentence, then padding.
        source_lengths: (B,) int64, number of tokens in each row, end of sentence included.
        target: (B, T_q) int64, target token ids between beginning and end of sentence, then padding.
        target_lengths: (B,) int64, number of tokens in each row, beginning and end included.
        source_texts: B source texts.
        target_texts: B target texts.
        indices: B indices of the pairs in their data set.
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor
    target_lengths: Tensor
    source_texts: list[str]
    target_texts: list[str]
    indices: list[int]


class TokenRows:
    """Sequences of token ids in one flat tensor, so that a padded batch of them is a single gather.

    Args:
        flat: (total,), the token ids of all sequences, one after the other.
        lengths: (n,), the length of each sequence.

    Attributes:
        flat: as given.
        lengths: (n,) int64.

    Example:
        >>> rows = TokenRows.of([[7, 8], [], [9]])
        >>> rows.padded(torch.tensor([2, 0]), padding=0)
        tensor([[9, 0],
                [7, 8]])
    """

    def __init__(self, flat: Tensor, lengths: Tensor) -> None:
        self.flat = flat
        self.lengths = lengths.to(torch.int64)
        self._starts = self.lengths.cumsum(0) - self.lengths  # (n,)

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> TokenRows:
        """Builds the rows from a list of sequences."""
        flat = [number for sequence in sequences for number in sequence]
        lengths = [len(sequence) for sequence in sequences]
        return cls(torch.tensor(flat, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int64))

    @classmethod
    def encoded(cls, tokenizer: Tokenizer, texts: Sequence[str], *, begin: bool, dropout: bool = False) -> TokenRows:
        """Encodes texts, each followed by the end of sentence.

        Args:
            tokenizer: tokenizer of the texts.
            texts: n texts.
            begin: whether each sequence starts with the beginning of sentence.
            dropout: whether to encode with the tokenizer's dropout.
        """
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

    def fraction_of(self, token: int) -> float:
        """Fraction of all token ids that equal ``token``."""
        return float((self.flat == token).sum()) / max(len(self.flat), 1)

    def padded(self, rows: Tensor, padding: int) -> Tensor:
        """Some of the sequences as a padded batch, (B, T) int64.

        Args:
            rows: (B,) int64, indices of the sequences.
            padding: token id of the padding.
        """
        lengths = self.lengths[rows]  # (B,)
        steps = torch.arange(int(lengths.max()) if len(rows) else 0)  # (T,)
        inside = steps < lengths[:, None]  # (B, T)
        positions = torch.where(inside, self._starts[rows, None] + steps, 0)  # (B, T), into flat
        return torch.where(inside, self.flat[positions].to(torch.int64), padding)  # (B, T)

    def select(self, rows: Tensor) -> TokenRows:
        """Some of the sequences.

        Args:
            rows: (m,) int64, indices of the sequences.
        """
        lengths = self.lengths[rows]  # (m,)
        first = lengths.cumsum(0) - lengths  # (m,), where each starts among the selected ones
        within = torch.arange(int(lengths.sum())) - first.repeat_interleave(lengths)  # (total,)
        return TokenRows(self.flat[self._starts[rows].repeat_interleave(lengths) + within], lengths)


class TextDataset(Dataset[TextBatch]):
    """Data set of sentence pairs whose items are batches: ``dataset[[3, 1]]`` is the :class:`TextBatch` of two pairs.

    Args:
        source_texts: n source texts.
        target_texts: n target texts.
        source_tokenizer: tokenizer of the sources.
        target_tokenizer: tokenizer of the targets.
        rows: token ids of sources and targets; if omitted, the texts are encoded here.
        dropout: whether to encode the texts again for each batch if a tokenizer has dropout; for training. The lengths
            remain those without dropout, so such a batch may exceed the budget of tokens somewhat.

    Attributes:
        lengths: (n, 2) int64, number of tokens of source and target, special ones included.

    Raises:
        ValueError: there are not as many targets as sources.

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
        """Batch of the pairs with these indices, in this order; a single index gives a batch of one pair."""
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
            chosen,
        )
