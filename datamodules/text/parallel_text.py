"""Parallel text of your own: aligned files, tables, or rows in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from datamodules.data_module import BadInput, check_bad_input, skipped
from datamodules.files.text_files import refuse
from datamodules.splits import HeldOut, Split
from datamodules.text.text_data import ALL_PAIRS, PairFilter, TextDataModule
from datamodules.text.text_pairs import TextPair, TextPairs
from datamodules.tokenizers.tokenizer_trainers import TokenizerTrainer

ROOT_VARIABLE = "ATTENTION_BLOCKS_DATA"
TWENTIETHS = HeldOut(val=0.05, test=0.05)


class ParallelTextDataModule(TextDataModule):
    """Sentences and their translations, from files or from memory.

    Missing splits are cut from the training pairs by sentence: pairs that share a source or a target stay in one split,
    so no validation or test sentence occurs in the training pairs.

    Args:
        pairs: source of the pairs; :class:`SplitPairs` takes one source per split.
        source_tokenizer: trainer of the source tokenizer, on the training texts; if omitted, :class:`BytePair` with
            8,000 tokens.
        target_tokenizer: trainer of the target tokenizer; if omitted, one tokenizer, trained on the texts of both
            sides, serves both.
        root: folder that relative paths start from; defaults to the environment variable ATTENTION_BLOCKS_DATA, then
            to the working directory.
        held_out: fractions of the training pairs to hold out if there are no validation or test pairs.
        max_tokens: maximum number of tokens on the larger side of a batch, padding included, per device: the number of
            pairs times the length of the longest sequence. A longer pair is a batch by itself.
        filters: filter of the training pairs.
        bad_input: ``"error"`` raises on the first empty line, invalid UTF-8 or missing value, with its file and line;
            ``"skip"`` skips such pairs and lists them in the summary.
        cache_dir: folder for trained tokenizers and token ids, in files named by a hash of their inputs; if omitted,
            nothing is cached.
        num_workers: worker processes of each loader; 0 is fast enough unless a tokenizer has dropout.
        seed: seed of the order of the training pairs and of the held-out splits.

    Raises:
        ValueError: a number is out of range, or ``bad_input`` is unknown.

    Example:
        >>> from datamodules import Character, DatasetPairs
        >>> rows = [{"de": f"Satz {number}", "en": f"sentence {number}"} for number in range(40)]
        >>> pairs = DatasetPairs(rows, "de", "en")
        >>> data = ParallelTextDataModule(pairs, Character(), held_out=HeldOut(val=0.1, test=0.25))
        >>> [len(data.dataset(split)) for split in ("train", "val", "test")]
        [27, 3, 10]
        >>> data.source_tokenizer is data.target_tokenizer
        True
    """

    def __init__(
        self,
        pairs: TextPairs,
        source_tokenizer: TokenizerTrainer | None = None,
        target_tokenizer: TokenizerTrainer | None = None,
        root: str | Path | None = None,
        held_out: HeldOut = TWENTIETHS,
        max_tokens: int = 4096,
        filters: PairFilter = ALL_PAIRS,
        bad_input: BadInput = "error",
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
        self._pairs = pairs
        self._root = Path(root if root is not None else os.environ.get(ROOT_VARIABLE, "."))
        self._held_out = held_out
        self._bad_input = check_bad_input(bad_input)

    def load(self) -> Mapping[Split, Sequence[TextPair]]:
        """Reads all pairs and cuts the missing splits from the training pairs.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read, there is no training pair, or a pair is unusable and ``bad_input`` is
                ``"error"``.
        """
        problems: list[str] = []
        read = self._pairs.read(self._root, refuse if self._bad_input == "error" else problems.append)
        self.notes += skipped(problems, "unusable pairs", "pairs", self._bad_input)
        parts: dict[Split, list[TextPair]] = {}
        for pair in read:
            parts.setdefault(pair.split or "train", []).append(pair)
        if "train" not in parts:
            raise ValueError(f"pairs has no training pair, only {list(parts)}; give some, or check the splits")
        return self._held_out.fill(parts, lambda part, fraction: split_by_sentence(part, fraction, self.seed))


def split_by_sentence(pairs: Sequence[TextPair], fraction: float, seed: int) -> tuple[list[TextPair], list[TextPair]]:
    """Holds out pairs so that no sentence, source or target, is in both parts.

    Args:
        pairs: n pairs.
        fraction: fraction of the pairs to hold out; an upper bound, approached as closely as shared sentences allow,
            except that something is always held out.
        seed: seed of the split; the global random state is neither used nor changed.

    Returns:
        The rest and the held-out pairs, each in their original order.

    Raises:
        ValueError: all pairs are connected by shared sentences.

    Example:
        >>> pairs = [TextPair("geh", "go", 1), TextPair("geht", "go", 2), TextPair("halt", "stop", 3)]
        >>> rest, held = split_by_sentence(pairs, fraction=0.4, seed=0)
        >>> [pair.target for pair in rest], [pair.target for pair in held]
        (['go', 'go'], ['stop'])
    """
    groups = _groups(pairs)
    counts = Counter(groups)
    if len(counts) < 2:
        raise ValueError(
            f"{len(pairs)} pairs that all share sentences with one another cannot be split; give val and test pairs "
            "with SplitPairs, or hold out none with HeldOut(val=0, test=0)"
        )
    names = list(counts)
    shuffled = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    order = [names[index] for index in shuffled]
    held: set[int] = set()
    wanted = fraction * len(pairs)
    for group in order:
        if counts[group] <= wanted:
            held.add(group)
            wanted -= counts[group]
    held = held or {min(order, key=counts.__getitem__)}
    parts: tuple[list[TextPair], list[TextPair]] = ([], [])
    for pair, group in zip(pairs, groups, strict=True):
        parts[group in held].append(pair)
    return parts


def _groups(pairs: Sequence[TextPair]) -> list[int]:
    """The same number for pairs that are connected by shared sentences."""
    leader = list(range(len(pairs)))

    def lead(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for side in ("source", "target"):
        first: dict[str, int] = {}
        for index, pair in enumerate(pairs):
            leader[lead(index)] = lead(first.setdefault(getattr(pair, side), index))
    return [lead(index) for index in range(len(pairs))]
