"""Parallel text of one's own: aligned files, tables, or data sets in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from datamodules.splits import Split
from datamodules.text.text_data import ALL_PAIRS, PairFilter, TextDataModule
from datamodules.text.text_pairs import TextPair, TextPairs
from datamodules.tokenizers.tokenizer_trainers import TokenizerTrainer

ROOT_VARIABLE = "ATTENTION_BLOCKS_DATA"


class ParallelTextDataModule(TextDataModule):
    """Sentences and their translations, from files or from memory.

    What is not given is cut from the training pairs by sentence: pairs that share a source or a target stay on one
    side, so nothing that is validated or tested on was trained on.

    Args:
        train: where the training pairs come from.
        source_tokenizer: makes the tokenizer of the sources from the training texts; :class:`BytePair` of 8,000
            tokens when left out.
        target_tokenizer: likewise of the targets; one tokenizer of both sides' texts serves both when left out.
        val: where the validation pairs come from, or the share of the training pairs to keep for it; 0 for none.
        test: likewise for the test, cut before ``val``.
        root: folder that relative paths start from; when left out, what the environment variable
            ATTENTION_BLOCKS_DATA names, else the working directory.
        max_tokens: places of the larger side of a batch at most, padding counted, on each device: the number of pairs
            times the length of the longest sequence. A pair above that by itself is its own batch.
        filters: which pairs are not trained on.
        bad_lines: what to do about an empty line, bad UTF-8 or a missing value: ``error`` says file and line;
            ``skip`` leaves the pair out, and the summary says how many were.
        cache_dir: folder where tokenizers and numbers are kept, named by what they were made from; none when left out.
        num_workers: processes that make batches; 0 is fast enough unless a tokenizer has dropout.
        seed: decides the order of the training pairs, and which are kept for validation and test.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> from datamodules import Character, DatasetPairs
        >>> rows = [{"de": f"Satz {number}", "en": f"sentence {number}"} for number in range(40)]
        >>> data = ParallelTextDataModule(DatasetPairs(rows, "de", "en"), Character(), val=0.1, test=0.25)
        >>> [len(data.dataset(split)) for split in ("train", "val", "test")]
        [27, 3, 10]
        >>> data.source_tokenizer is data.target_tokenizer
        True
    """

    def __init__(
        self,
        train: TextPairs,
        source_tokenizer: TokenizerTrainer | None = None,
        target_tokenizer: TokenizerTrainer | None = None,
        val: TextPairs | float = 0.05,
        test: TextPairs | float = 0.05,
        root: str | Path | None = None,
        max_tokens: int = 4096,
        filters: PairFilter = ALL_PAIRS,
        bad_lines: Literal["error", "skip"] = "error",
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source_tokenizer,
            target_tokenizer,
            max_tokens=max_tokens,
            filters=filters,
            cache_dir=cache_dir,
            num_workers=num_workers,
            seed=seed,
        )
        for name, part in (("val", val), ("test", test)):
            if not isinstance(part, TextPairs) and not 0.0 <= part < 1.0:
                raise ValueError(f"{name} must be pairs, or a share of the training pairs in [0, 1), got {part}")
        if bad_lines not in ("error", "skip"):
            raise ValueError(f"bad_lines must be 'error' or 'skip', got {bad_lines!r}")
        self._train, self._val, self._test = train, val, test
        self._root = Path(root if root is not None else os.environ.get(ROOT_VARIABLE, "."))
        self._bad_lines = bad_lines

    def load(self) -> Mapping[Split, Sequence[TextPair]]:
        """Reads what is given and cuts the rest from the training pairs.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be used, or a line where ``bad_lines`` is ``error``.
        """
        pairs: dict[Split, Sequence[TextPair]] = {"train": self._read("train", self._train)}
        parts: tuple[tuple[Split, TextPairs | float], ...] = (("test", self._test), ("val", self._val))
        for split, part in parts:
            if isinstance(part, TextPairs):
                pairs[split] = self._read(split, part)
            elif part > 0.0:
                pairs["train"], pairs[split] = split_by_sentence(pairs["train"], part, self._seed)
        return pairs

    def _read(self, split: Split, pairs: TextPairs) -> list[TextPair]:
        if self._bad_lines == "error":
            return pairs.read(self._root)
        problems: list[str] = []
        keep: Callable[[str], None] = problems.append
        read = pairs.read(self._root, keep)
        if problems:
            self.notes.append(f"{split}: {len(problems):,} bad lines skipped, the first: {problems[0]}")
        return read


def split_by_sentence(pairs: Sequence[TextPair], share: float, seed: int) -> tuple[list[TextPair], list[TextPair]]:
    """Cuts a share off so that no sentence stands on both sides, be it a source or a target.

    Args:
        pairs: all of them.
        share: of the pairs to hold out; not more, and as nearly as pairs that share sentences allow, but at least one.
        seed: of a generator of its own; the global one is neither used nor moved.

    Returns:
        The rest and those held out, each in the order they came in.

    Raises:
        ValueError: all pairs hang together.

    Example:
        >>> pairs = [TextPair("geh", "go", 1), TextPair("geht", "go", 2), TextPair("halt", "stop", 3)]
        >>> rest, held = split_by_sentence(pairs, share=0.4, seed=0)
        >>> [pair.target for pair in rest], [pair.target for pair in held]
        (['go', 'go'], ['stop'])
    """
    families = _families(pairs)
    counts = Counter(families)
    if len(counts) < 2:
        raise ValueError(
            f"{len(pairs)} pairs that all share sentences with one another cannot be split; give val and test, or 0 "
            "for none"
        )
    names = list(counts)
    order = [
        names[place] for place in torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    ]
    held: set[int] = set()
    wanted = share * len(pairs)
    for family in order:
        if counts[family] <= wanted:
            held.add(family)
            wanted -= counts[family]
    held = held or {min(order, key=counts.__getitem__)}
    parts: tuple[list[TextPair], list[TextPair]] = ([], [])
    for pair, family in zip(pairs, families, strict=True):
        parts[family in held].append(pair)
    return parts


def _families(pairs: Sequence[TextPair]) -> list[int]:
    """The same number for pairs that share a sentence, or share one with a pair that does."""
    leader = list(range(len(pairs)))

    def lead(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for side in ("source", "target"):
        first: dict[str, int] = {}
        for place, pair in enumerate(pairs):
            leader[lead(place)] = lead(first.setdefault(getattr(pair, side), place))
    return [lead(place) for place in range(len(pairs))]
