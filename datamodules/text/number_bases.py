"""Numbers written in one base and in another: text to train on without a download."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from string import ascii_lowercase, digits

from datamodules.splits import Split
from datamodules.text.text_data import TextDataModule
from datamodules.text.text_pairs import TextPair
from datamodules.tokenizers.tokenizer_trainers import Character

DIGITS = digits + ascii_lowercase


class NumberBasesDataModule(TextDataModule):
    """Whole numbers in one base, to be written in another, a character a token: decimal to binary and the like.

    The numbers are drawn evenly and without repetition, so none that is validated or tested on was trained on.

    Args:
        source_base: that the sources are written in, 2 to 36.
        target_base: that the targets are written in, 2 to 36.
        limit: the numbers lie below this.
        train_size: how many are trained on.
        val_size: how many are kept for validation.
        test_size: how many are kept for the test.
        short_repeats: how often an epoch shows each number that has fewer digits than the largest. There are few of
            them, and what is rare is learned late.
        leading_zeros: whether targets begin with as many zeros as make them all as long as the largest number's. Then a
            place always stands for the same power of the base, which a Transformer learns faster (an RNN does not).
        max_tokens: places of the larger side of a batch at most, padding counted, on each device.
        num_workers: processes that make batches; 0 is fastest.
        seed: decides which numbers are drawn, and their order in training.

    Raises:
        ValueError: a number is out of its range, or there are fewer numbers below ``limit`` than are to be drawn.

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
        for name, base in (("source_base", source_base), ("target_base", target_base)):
            if not 2 <= base <= len(DIGITS):
                raise ValueError(f"{name} must lie in 2 to {len(DIGITS)}, got {base}")
        sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        for split, size in sizes.items():
            if size < (split == "train"):
                raise ValueError(f"{split}_size must be {int(split == 'train')} or more, got {size}")
        if sum(sizes.values()) > limit:
            raise ValueError(
                f"limit={limit} leaves no {sum(sizes.values())} different numbers; draw fewer, or raise it"
            )
        if short_repeats < 1:
            raise ValueError(f"short_repeats must be 1 or more, got {short_repeats}")
        self._short_repeats = short_repeats
        self._target_length = len(in_base(limit - 1, target_base)) if leading_zeros else 0
        self._bases = (source_base, target_base)
        self._limit = limit
        self._sizes = sizes

    def tokenizer_texts(self) -> tuple[Sequence[str], Sequence[str]]:
        """All digits of each base, whether or not they were drawn."""
        return [DIGITS[: self._bases[0]]], [DIGITS[: self._bases[1]]]

    def load(self) -> Mapping[Split, Sequence[TextPair]]:
        """Draws the numbers."""
        numbers = iter(random.Random(self._seed).sample(range(self._limit), sum(self._sizes.values())))  # noqa: S311
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
    """A whole number in the digits of a base, 0 to 9 and then a to z.

    Args:
        number: 0 or more.
        base: 2 to 36.

    Example:
        >>> in_base(10, 2), in_base(255, 16), in_base(0, 7)
        ('1010', 'ff', '0')
    """
    written = ""
    while number >= base:
        number, digit = divmod(number, base)
        written = DIGITS[digit] + written
    return DIGITS[number] + written
