"""Base of the DataModules for sentence pairs: tokenizers, token ids cached on disk, loaders."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.data_module import DataModule, check_at_least
from datamodules.files.disk_cache import DiskCache, content_key
from datamodules.splits import Split
from datamodules.text.text_batch import TextBatch, TextDataset, TokenRows
from datamodules.text.text_pairs import TextPair
from datamodules.text.token_batches import TokenBatchSampler, TokenBudget, resumable_loader
from datamodules.tokenizers.tokenizer import Tokenizer
from datamodules.tokenizers.tokenizer_trainers import BytePair, TokenizerTrainer


@dataclass(frozen=True)
class PairFilter:
    """Filter of the training pairs by length; validation and test pairs are never filtered.

    Args:
        max_length: maximum number of tokens on either side, without the special ones; if omitted, any number.
        max_ratio: maximum ratio of the longer side's tokens to the shorter side's; if omitted, any ratio.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> PairFilter(max_length=3).removed(torch.tensor([[2, 3], [4, 1]]))
        {'longer than 3 tokens': tensor([False,  True])}
    """

    max_length: int | None = None
    max_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be 1 or more, got {self.max_length}")
        if self.max_ratio is not None and self.max_ratio < 1.0:
            raise ValueError(f"max_ratio must be 1 or more, got {self.max_ratio}")

    def removed(self, lengths: Tensor) -> dict[str, Tensor]:
        """Pairs that the filter removes, by reason.

        Args:
            lengths: (n, 2) int64, number of tokens of source and target.

        Returns:
            (n,) bool for each reason, True where a pair is removed.
        """
        shorter, longer = lengths.amin(1).clamp(min=1), lengths.amax(1)
        reasons = {}
        if self.max_length is not None:
            reasons[f"longer than {self.max_length} tokens"] = longer > self.max_length
        if self.max_ratio is not None:
            reasons[f"of a length ratio above {self.max_ratio:g}"] = longer > self.max_ratio * shorter
        return reasons


ALL_PAIRS = PairFilter()


class TextDataModule(DataModule[Sequence[TextPair], TextDataset, TextBatch]):
    """Base of all DataModules for sentence pairs; subclass it to bring your own pairs to any text-to-text system.

    A subclass defines :meth:`load`. Batches are :class:`TextBatch`: pairs of similar lengths within a budget of
    tokens, see :class:`TokenBatchSampler`. Training batches are shuffled by seed and epoch; a run that is resumed
    within an epoch continues with the batches that it has not seen.

    Args:
        source_tokenizer: trainer of the source tokenizer, on the training texts; if omitted, :class:`BytePair`.
        target_tokenizer: trainer of the target tokenizer; if omitted, one tokenizer, trained on the texts of both
            sides, serves both.
        max_tokens: maximum number of tokens on the larger side of a batch, padding included, per device.
        filters: filter of the training pairs.
        cache_dir: folder for trained tokenizers and token ids, in files named by a hash of their inputs; it can be
            deleted at any time. If omitted, nothing is cached.
        num_workers: worker processes of each loader; 0 loads in the main process, which is fast enough unless a
            tokenizer has dropout.
        seed: seed of the order of the training pairs.

    Attributes:
        notes: lines to append to the summary.

    Raises:
        ValueError: ``max_tokens``, ``num_workers`` or ``seed`` is out of range.

    Example:
        >>> from datamodules import Character
        >>> class Echo(TextDataModule):
        ...     def load(self):
        ...         return {"train": [TextPair(word, word, line) for line, word in enumerate(["so", "la", "ti"], 1)]}
        >>> echo = Echo(Character(), max_tokens=8)
        >>> print(echo.summary())
        Echo: 3 pairs; one vocabulary of 10 tokens for both sides
        ┏━━━━━━━┳━━━━━━━┳━━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┓
        ┃       ┃       ┃         ┃ source ┃ target ┃ unknown ┃ unknown ┃         ┃
        ┃ split ┃ pairs ┃ batches ┃ tokens ┃ tokens ┃  source ┃  target ┃ padding ┃
        ┡━━━━━━━╇━━━━━━━╇━━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━┩
        │ train │     3 │       2 │      9 │     12 │  0.00 % │  0.00 % │   0.0 % │
        └───────┴───────┴─────────┴────────┴────────┴─────────┴─────────┴─────────┘
        >>> sorted(text for batch in echo.train_dataloader() for text in batch.source_texts)
        ['la', 'so', 'ti']
    """

    def __init__(
        self,
        source_tokenizer: TokenizerTrainer | None = None,
        target_tokenizer: TokenizerTrainer | None = None,
        *,
        max_tokens: int = 4096,
        filters: PairFilter = ALL_PAIRS,
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_workers=num_workers, seed=seed)
        check_at_least(1, max_tokens=max_tokens)
        self._source_trainer = source_tokenizer or BytePair()
        self._target_trainer = target_tokenizer
        self._max_tokens = max_tokens
        self._filters = filters
        self._cache = DiskCache(cache_dir)

    def tokenizer_texts(self) -> tuple[Sequence[str], Sequence[str]]:
        """Source and target texts to train the tokenizers on: those of the training pairs."""
        pairs = self.loaded["train"]
        return [pair.source for pair in pairs], [pair.target for pair in pairs]

    @property
    def source_tokenizer(self) -> Tokenizer:
        """Source tokenizer; trained, or read from the cache, on first use."""
        return self._tokenizers[0]

    @property
    def target_tokenizer(self) -> Tokenizer:
        """Target tokenizer; the same object as the source tokenizer if both sides share one."""
        return self._tokenizers[1]

    def prepare_data(self) -> None:
        """Fills the cache, if there is one, so that other processes can read from it."""
        if self._cache.folder is not None:
            self.setup()

    def loader(self, split: Split) -> DataLoader[TextBatch]:
        """Loader of a split: training pairs shuffled by seed and epoch, others in order of length; can be resumed."""
        dataset = self.dataset(split)
        return resumable_loader(dataset, dataset.lengths, self._budget(split), self.num_workers, self.trainer)

    def describe(self) -> tuple[str, Table]:
        """Headline and a table of pairs, batches, tokens, unknown tokens and padding by split."""
        names = ("batches", "source\ntokens", "target\ntokens", "unknown\nsource", "unknown\ntarget", "padding")
        table = Table("split", "pairs", *names)
        for column in table.columns[1:]:
            column.justify = "right"
        for split, dataset in self.datasets.items():
            sampler = TokenBatchSampler(dataset.lengths, self._budget(split))
            sides = ((dataset.source_rows, self.source_tokenizer), (dataset.target_rows, self.target_tokenizer))
            counts = (len(dataset), len(sampler), *(len(rows.flat) for rows, _ in sides))
            unknown = [rows.fraction_of(tokenizer.unk_id) for rows, tokenizer in sides]
            fractions = (*(f"{fraction:.2%}" for fraction in unknown), f"{sampler.padding_fraction():.1%}")
            table.add_row(split, *(f"{count:,}" for count in counts), *(text.replace("%", " %") for text in fractions))
        total = sum(len(dataset) for dataset in self.datasets.values())
        source, target = self._tokenizers
        words = (
            f"one vocabulary of {len(source):,} tokens for both sides"
            if source == target
            else f"vocabularies of {len(source):,} and {len(target):,} tokens"
        )
        return f"{self.title}: {total:,} pairs; {words}", table

    def make_datasets(self) -> Mapping[Split, TextDataset]:
        """See :meth:`DataModule.make_datasets`; filters the training pairs."""
        return {split: self._dataset(split, pairs) for split, pairs in self.loaded.items()}

    @cached_property
    def _tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        sources, targets = self.tokenizer_texts()
        if self._target_trainer is None:
            shared = self._trained(self._source_trainer, [*sources, *targets])
            return shared, shared
        return self._trained(self._source_trainer, sources), self._trained(self._target_trainer, targets)

    def _trained(self, trainer: TokenizerTrainer, texts: Sequence[str]) -> Tokenizer:
        name = f"tokenizer-{content_key([trainer.recipe, *texts])}"
        return self._cache.get(name, lambda: trainer.train(texts), _dump_tokenizer, _load_tokenizer)

    def _dataset(self, split: Split, pairs: Sequence[TextPair]) -> TextDataset:
        sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
        rows = (
            self._encoded(self.source_tokenizer, sources, begin=False),
            self._encoded(self.target_tokenizer, targets, begin=True),
        )
        if split != "train":
            return TextDataset(sources, targets, *self._tokenizers, rows)
        kept = self._kept(torch.stack([rows[0].lengths - 1, rows[1].lengths - 2], dim=1))
        if len(kept) < len(pairs):
            sources, targets = [sources[index] for index in kept], [targets[index] for index in kept]
            rows = (rows[0].select(kept), rows[1].select(kept))
        return TextDataset(sources, targets, *self._tokenizers, rows, dropout=True)

    def _kept(self, lengths: Tensor) -> Tensor:
        """Indices of the training pairs that pass the filter."""
        removed = torch.zeros(len(lengths), dtype=torch.bool)
        for reason, pairs in self._filters.removed(lengths).items():
            count = int((pairs & ~removed).sum())
            if count:
                self.notes.append(f"train: {count:,} of {len(lengths):,} pairs removed, {reason}")
            removed |= pairs
        if removed.all():
            raise ValueError(f"filters={self._filters} remove all {len(lengths):,} training pairs; relax them")
        return (~removed).nonzero().squeeze(1)

    def _encoded(self, tokenizer: Tokenizer, texts: Sequence[str], *, begin: bool) -> TokenRows:
        kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
        name = f"numbers-{content_key([kind, tokenizer.definition, str(begin), *texts])}"
        return self._cache.get(name, lambda: TokenRows.encoded(tokenizer, texts, begin=begin), _dump_rows, _load_rows)

    def _budget(self, split: Split) -> TokenBudget:
        return TokenBudget(self._max_tokens, split == "train", self.seed)


def _dump_tokenizer(tokenizer: Tokenizer) -> bytes:
    kind = type(tokenizer)
    return json.dumps([kind.__module__, kind.__qualname__, tokenizer.definition]).encode("utf-8")


def _load_tokenizer(content: bytes) -> Tokenizer:
    module, name, definition = json.loads(content)
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Tokenizer)):
        raise ValueError(f"{module}.{name} is not a Tokenizer")
    return kind(definition)


def _dump_rows(rows: TokenRows) -> bytes:
    content = io.BytesIO()
    torch.save((rows.flat, rows.lengths), content)
    return content.getvalue()


def _load_rows(content: bytes) -> TokenRows:
    return TokenRows(*torch.load(io.BytesIO(content), weights_only=True))
