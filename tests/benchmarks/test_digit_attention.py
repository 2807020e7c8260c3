"""The measure of a captioner's attention, with attention that is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from attention_blocks import AdditiveAttention
from benchmarks.digit_attention import measure
from datamodules import CaptionBatch, DigitGridDataModule
from datamodules.captions.digit_grids import NUMERALS
from lightning_modules import Hypothesis, RNNCaptioner, RNNCaptionNetwork, RNNSizes

DATA = DigitGridDataModule(rows=3, cell_size=8, train_size=10, val_size=0, test_size=30)


def stub(
    look: Callable[[Tensor], tuple[int, int]],
    say: Callable[[str], str] = str,
    look_before: Callable[[Tensor], tuple[int, int]] = lambda _: (0, 0),
) -> RNNCaptioner:
    """A captioner that generates the reference, and for each numeral attends to location ``look(cell)`` of 6 x 8.

    For the article before the numeral it attends to ``look_before(cell)``.
    """
    system = RNNCaptioner(
        DATA.target_tokenizer,
        DATA.transform,
        partial(RNNCaptionNetwork, attention=AdditiveAttention, sizes=RNNSizes(8, 16)),
    )

    def write(batch: CaptionBatch, **_: object) -> list[list[Hypothesis]]:
        found = []
        for [text], name in zip(batch.references, batch.names, strict=True):
            [tokens] = DATA.target_tokenizer.encode([say(text)])
            maps, cells = torch.zeros(len(tokens) + 1, 6 * 8), iter(DATA.cells("test")[int(name.split("/")[1])])
            for position, word in enumerate(DATA.target_tokenizer.tokens(tokens)):
                if word in NUMERALS:
                    cell = next(cells)
                    for at, (row, column) in ((position, look(cell)), (position - 1, look_before(cell))):
                        maps[at, 8 * row + column] = 1.0
            found.append([Hypothesis([*tokens, DATA.target_tokenizer.eos_id], 0.0, 0.0, maps)])
        return found

    system.write = write  # type: ignore[method-assign, assignment]
    return system


def inside(cell: Tensor) -> tuple[int, int]:
    """A location of the digit's cell."""
    return 2 * int(cell[0]), 2 * int(cell[1])


def elsewhere(cell: Tensor) -> tuple[int, int]:
    """A location of another cell of that row."""
    return 2 * int(cell[0]), 2 * ((int(cell[1]) + 1) % 4)


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_location_of_the_digits_cell_is_right(corner: tuple[int, int]) -> None:
    counts = measure(stub(lambda cell: (2 * int(cell[0]) + corner[0], 2 * int(cell[1]) + corner[1])), DATA)
    assert (counts.exact, counts.fraction(counts.at_numeral), counts.numerals.total()) == (1.0, 1.0, 60)


def test_other_cells_are_wrong() -> None:
    counts = measure(stub(elsewhere), DATA)
    assert (counts.exact, counts.fraction(counts.at_numeral), counts.numerals.total()) == (1.0, 0.0, 60)


def test_each_numeral_is_counted_by_itself() -> None:
    """Always the cell in the upper left corner: right for the digits in it."""
    counts = measure(stub(lambda _: (0, 0)), DATA)
    words, right = Counter[str](), Counter[str]()
    for [text], cells in zip(DATA.dataset("test")[list(range(30))].references, DATA.cells("test"), strict=True):
        numerals = [word for word in text.split() if word in NUMERALS]
        words.update(numerals)
        right.update(numeral for numeral, cell in zip(numerals, cells.tolist(), strict=True) if cell == [0, 0])
    assert 0 < right.total() < 60
    assert (counts.numerals, +counts.at_numeral) == (words, right)
    [most] = right.most_common(1)
    assert counts.fraction(counts.at_numeral, [most[0]]) == most[1] / words[most[0]]


def test_attention_at_the_article_counts_for_an_eight() -> None:
    """The article attends to the digit's cell, the numeral to another one; and the reverse."""
    others = [numeral for numeral in NUMERALS if numeral != "eight"]
    before = measure(stub(elsewhere, look_before=inside), DATA)
    assert before.numerals["eight"]
    assert (before.fraction(before.at_numeral), before.fraction(before.at_decision, ["eight"])) == (0.0, 1.0)
    assert before.fraction(before.at_decision, others) == 0.0
    after = measure(stub(inside, look_before=elsewhere), DATA)
    assert (after.fraction(after.at_numeral), after.fraction(after.at_decision, ["eight"])) == (1.0, 0.0)
    assert after.fraction(after.at_decision, others) == 1.0


def test_captions_are_exact_or_not() -> None:
    def first_wrong(text: str) -> str:
        article, numeral, *rest = text.split()
        return " ".join([article, "zero" if numeral != "zero" else "one", *rest])

    assert measure(stub(lambda _: (0, 0), first_wrong), DATA).exact == 0.0


def test_without_attention_nothing_is_counted() -> None:
    network = partial(RNNCaptionNetwork, sizes=RNNSizes(8, 16))
    system = RNNCaptioner(DATA.target_tokenizer, DATA.transform, network)
    counts = measure(system, DATA)
    assert not counts.numerals
    assert math.isnan(counts.fraction(counts.at_numeral))
