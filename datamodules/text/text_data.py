"""What every set of sentence pairs shares: its tokenizers, its numbers on disk, its loaders and its summary."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.files.disk_cache import DiskCache, content_key
from datamodules.splits import SPLITS, Split
from datamodules.summary_text import summary_text
from datamodules.text.text_batch import TextBatch, TextDataset, TokenRows
from datamodules.text.text_pairs import TextPair
from datamodules.text.token_batches import TokenBatchSampler, TokenBudget, resumable_loader
from datamodules.tokenizers.tokenizer import Tokenizer
from datamodules.tokenizers.tokenizer_trainers import BytePair, TokenizerTrainer


@dataclass(frozen=True)
class PairFilter:
    """Which pairs are not trained on; validation and test keep all of theirs.

    Args:
        max_length: tokens of a side at most, begin and end not counted; any number when left out.
        max_ratio: tokens of the longer side over those of the shorter at most; any when left out.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> PairFilter(max_length=3).left_out(torch.tensor([[2, 3], [4, 1]]))
        {'longer than 3 tokens': tensor([False,  True])}
    """

    max_length: int | None = None
    max_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be 1 or more, got {self.max_length}")
        if self.max_ratio is not None and self.max_ratio < 1.0:
            raise ValueError(f"max_ratio must be 1 or more, got {self.max_ratio}")

    def left_out(self, lengths: Tensor) -> dict[str, Tensor]:
        """Which pairs each reason speaks against.

        Args:
            lengths: (n, 2) int64, tokens of both sides.

        Returns:
            (n,) bool for each reason.
        """
        shorter, longer = lengths.amin(1).clamp(min=1), lengths.amax(1)
        reasons = {}
        if self.max_length is not None:
            reasons[f"longer than {self.max_length} tokens"] = longer > self.max_length
        if self.max_ratio is not None:
            reasons[f"of a length ratio above {self.max_ratio:g}"] = longer > self.max_ratio * shorter
        return reasons


ALL_PAIRS = PairFilter()


class TextDataModule(LightningDataModule):
    """Base of every set of sentence pairs; subclass it to bring your own to any system that maps text to text.

    A subclass gives :meth:`load`. Batches are :class:`TextBatch`, of pairs of like lengths, cut by a budget of tokens
    as :class:`TokenBatchSampler` says; the training batches are shuffled by seed and epoch, and a run that is cut
    inside an epoch goes on with the batches that it had not seen.

    Args:
        source_tokenizer: makes the tokenizer of the sources from the training texts.
        target_tokenizer: likewise of the targets; one tokenizer of both sides' texts serves both when left out.
        max_tokens: places of the larger side of a batch at most, padding counted, on each device.
        filters: which pairs are not trained on.
        cache_dir: folder where tokenizers and numbers are kept, named by what they were made from; none are when left
            out. It can be deleted at any time.
        num_workers: processes that make batches; 0, the training process itself, is fast enough unless a tokenizer
            has dropout.
        seed: decides the order of the training pairs.

    Attributes:
        notes: what the summary should say besides.

    Raises:
        ValueError: a number is out of its range.

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
        super().__init__()
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {max_tokens}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 (none) or more, got {num_workers}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.notes: list[str] = []
        self._source_trainer = source_tokenizer or BytePair()
        self._target_trainer = target_tokenizer
        self._max_tokens = max_tokens
        self._filters = filters
        self._cache = DiskCache(cache_dir)
        self._num_workers = num_workers
        self._seed = seed

    def load(self) -> Mapping[Split, Sequence[TextPair]]:
        """The pairs of each split, ``train`` among them; called once, when they are first needed."""
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def tokenizer_texts(self) -> tuple[Sequence[str], Sequence[str]]:
        """What the tokenizers of both sides are made from: the training pairs, unless a subclass has better."""
        pairs = self._pairs["train"]
        return [pair.source for pair in pairs], [pair.target for pair in pairs]

    @property
    def title(self) -> str:
        """What the summary calls the set."""
        return type(self).__name__

    @property
    def source_tokenizer(self) -> Tokenizer:
        """Turns sources into numbers; trained, or read from the cache, when first asked for."""
        return self._tokenizers[0]

    @property
    def target_tokenizer(self) -> Tokenizer:
        """Turns targets into numbers; the very same as of the sources where the vocabulary is shared."""
        return self._tokenizers[1]

    def prepare_data(self) -> None:
        """Fills the cache, if there is one, so that the other processes find everything there."""
        if self._cache.folder is not None:
            self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Reads the pairs and makes their numbers; says what was read when ``stage`` is ``fit``."""
        self._datasets  # noqa: B018 # made when first asked for
        if stage == "fit":
            rank_zero_info(self.summary())

    def dataset(self, split: Split) -> TextDataset:
        """The pairs of one split.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self._datasets:
            raise ValueError(f"{self.title} has no split {split!r}, only {list(self._datasets)}; give {split}")
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[TextBatch]:
        """Shuffled by seed and epoch; its place in the epoch is kept in checkpoints."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[TextBatch] | list[DataLoader[TextBatch]]:
        """In order of length, all of them; no loader at all where there is no such split."""
        return self._loader("val") if "val" in self._datasets else []

    def test_dataloader(self) -> DataLoader[TextBatch]:
        """In order of length, all of them."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[TextBatch]:
        """The test pairs."""
        return self._loader("test")

    def summary(self) -> str:
        """What was read, as a table: pairs, batches, unknown ones and padding of each split; and the notes."""
        names = ("batches", "source\ntokens", "target\ntokens", "unknown\nsource", "unknown\ntarget", "padding")
        table = Table("split", "pairs", *names)
        for column in table.columns[1:]:
            column.justify = "right"
        total = 0
        for split, dataset in self._datasets.items():
            sampler = TokenBatchSampler(dataset.lengths, self._budget(shuffle=split == "train"))
            sides = ((dataset.source_rows, self.source_tokenizer), (dataset.target_rows, self.target_tokenizer))
            unknown = [
                float((rows.flat == tokenizer.unk_id).sum()) / max(len(rows.flat), 1) for rows, tokenizer in sides
            ]
            table.add_row(
                split,
                f"{len(dataset):,}",
                f"{len(sampler):,}",
                *(f"{len(rows.flat):,}" for rows, _ in sides),
                *(f"{share:.2%}".replace("%", " %") for share in unknown),
                f"{sampler.padding_share():.1%}".replace("%", " %"),
            )
            total += len(dataset)
        source, target = self._tokenizers
        words = (
            f"one vocabulary of {len(source):,} tokens for both sides"
            if source == target
            else f"vocabularies of {len(source):,} and {len(target):,} tokens"
        )
        return summary_text(f"{self.title}: {total:,} pairs; {words}", table, self.notes)

    @cached_property
    def _pairs(self) -> dict[Split, Sequence[TextPair]]:
        pairs = self.load()
        return {split: pairs[split] for split in SPLITS if split in pairs}

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

    @cached_property
    def _datasets(self) -> dict[Split, TextDataset]:
        return {split: self._dataset(split, pairs) for split, pairs in self._pairs.items()}

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
        """Numbers of the training pairs that no filter speaks against."""
        out = torch.zeros(len(lengths), dtype=torch.bool)
        for reason, against in self._filters.left_out(lengths).items():
            count = int((against & ~out).sum())
            if count:
                self.notes.append(f"train: {count:,} of {len(lengths):,} pairs left out, {reason}")
            out |= against
        if out.all():
            raise ValueError(f"filters={self._filters} leave none of the {len(lengths):,} training pairs; widen them")
        return (~out).nonzero().squeeze(1)

    def _encoded(self, tokenizer: Tokenizer, texts: Sequence[str], *, begin: bool) -> TokenRows:
        kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
        name = f"numbers-{content_key([kind, tokenizer.definition, str(begin), *texts])}"
        return self._cache.get(name, lambda: TokenRows.encoded(tokenizer, texts, begin=begin), _dump_rows, _load_rows)

    def _budget(self, *, shuffle: bool) -> TokenBudget:
        return TokenBudget(self._max_tokens, shuffle, self._seed)

    def _loader(self, split: Split, *, shuffle: bool = False) -> DataLoader[TextBatch]:
        dataset = self.dataset(split)
        budget = self._budget(shuffle=shuffle)
        return resumable_loader(dataset, dataset.lengths, budget, self._num_workers, self.trainer)


def _dump_tokenizer(tokenizer: Tokenizer) -> bytes:
    kind = type(tokenizer)
    return json.dumps([kind.__module__, kind.__qualname__, tokenizer.definition]).encode("utf-8")


def _load_tokenizer(content: bytes) -> Tokenizer:
    module, name, definition = json.loads(content)
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Tokenizer)):
        raise ValueError(f"{module}.{name} is no Tokenizer")
    return kind(definition)


def _dump_rows(rows: TokenRows) -> bytes:
    content = io.BytesIO()
    torch.save((rows.flat, rows.lengths), content)
    return content.getvalue()


def _load_rows(content: bytes) -> TokenRows:
    return TokenRows(*torch.load(io.BytesIO(content), weights_only=True))
