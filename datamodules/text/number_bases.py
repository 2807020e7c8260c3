"""Numbers in two bases: sentence pairs to train on without a download."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from string import ascii_lowercase, digits

from datamodules.data_module import check_at_least
from datamodules.splits import Split
from datamodules.text.text_data import TextDataModule
from datamodules.text.text_pairs import TextPair
from datamodules.tokenizers.tokenizer_trainers import Character

DIGITS = digits + ascii_lowercase


class NumberBasesDataModule(TextDataModule):
    """Integers in one base and in another, one token per digit: decimal to binary, for example.

    The numbers are drawn uniformly and without repetition, so no validation or test number occurs in training.

    Args:
        source_base: base of the sources, 2 to 36.
        target_base: base of the targets, 2 to 36.
        limit: exclusive upper limit of the numbers.
        train_size: number of training pairs.
        val_size: number of validation pairs.
        test_size: number of test pairs.
        short_repeats: how often an epoch contains each number that has fewer digits than the largest one; there are
            few of them, and rare lengths are learned late.
        leading_zeros: whether targets are padded with zeros to the length of the largest number. Then each position
            always represents the same power of the base, which a Transformer learns faster (an RNN does not).
        max_tokens: maximum number of tokens on the larger side of a batch, padding included, per device.
        num_workers: worker processes of each loader; 0 is fastest.
        seed: seed of the numbers and of their order in training.

    Raises:
        ValueError: an argument is out of range, or there are fewer numbers below ``limit`` than are to be drawn.

    Example:
        >>> data = NumberBasesDataModule(limit=1000, train_size=800, val_size=100, test_size=100)
        >>> batch = next(iter(data.test_dataloader()))
        >>> int(batch.source_texts[0]) == int(batch.target_texts[0], base=2)
        True
        >>> data.target_tokenizer.tokens(range(len(data.target_tokenizer)))
        ['<pad>', '<unk>', '<bos>', '<eos>', '0', '1']
    """

    def __init__(
        self,
        source_base: int = 10,
        target_base: int = 2,
        limit: int = 100_000,
        train_size: int = 20_000,
        val_size: int = 1_000,
        test_size: int = 1_000,
        short_repeats: int = 1,
        leading_zeros: bool = False,
        max_tokens: int = 4096,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(Character(), Character(), max_tokens=max_tokens, num_workers=num_workers, seed=seed)
        check_at_least(1, train_size=train_size, short_repeats=short_repeats)
        check_at_least(0, val_size=val_size, test_size=test_size)
        for name, base in (("source_base", source_base), ("target_base", target_base)):
            if not 2 <= base <= len(DIGITS):
                raise ValueError(f"{name} must lie in 2 to {len(DIGITS)}, got {base}")
        sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        if sum(sizes.values()) > limit:
            raise ValueError(
                f"limit={limit} is too small for {sum(sizes.values())} different numbers; raise it, or draw fewer"
            )
        self._short_repeats = short_repeats
        self._target_length = len(in_base(limit - 1, target_base)) if leading_zeros else 0
        self._bases = (source_base, target_base)
        self._limit = limit
        self._sizes = sizes

    def tokenizer_texts(self) -> tuple[Sequence[str], Sequence[str]]:
        """All digits of each base, drawn or not."""
        return [DIGITS[: self._bases[0]]], [DIGITS[: self._bases[1]]]

    def load(self) -> Mapping[Split, Sequence[TextPair]]:
        """Draws the numbers."""
        numbers = iter(random.Random(self.seed).sample(range(self._limit), sum(self._sizes.values())))  # noqa: S311
        pairs = {
            split: [self._pair(next(numbers), line) for line in range(1, size + 1)]
            for split, size in self._sizes.items()
            if size
        }
        longest = len(in_base(self._limit - 1, self._bases[0]))
        short = [pair for pair in pairs["train"] if len(pair.source) < longest]
        return {**pairs, "train": pairs["train"] + short * (self._short_repeats - 1)}

    def _pair(self, number: int, line: int) -> TextPair:
        source, target = (in_base(number, base) for base in self._bases)
        return TextPair(source, target.zfill(self._target_length), line)


def in_base(number: int, base: int) -> str:
    """Digits of a number in a base: 0 to 9, then a to z.

    Args:
        number: non-negative integer.
        base: base, 2 to 36.

    Example:
        >>> in_base(10, 2), in_base(255, 16), in_base(0, 7)
        ('1010', 'ff', '0')
    """
    text = ""
    while number >= base:
        number, digit = divmod(number, base)
        text = DIGITS[digit] + text
    return DIGITS[number] + text
