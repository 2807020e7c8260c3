"""``python -m benchmarks.digit_attention CHECKPOINT``: whether a captioner attends to the digit that it names.

Compares, for each numeral in the captions of 1,000 test images, the most attended location with the cell of the digit.
Goal: 99 % of the captions exactly right, and for 95 % of the numerals the most attended location in the digit's cell.
Eights are also counted separately, at the article "an": it already determines the digit, so the captioner need not
attend to it again for "eight".
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from datamodules.captions.digit_grids import NUMERALS, DigitGridDataModule
from lightning_modules.captioning.captioner import Captioner


class AttentionCounts(NamedTuple):
    """Exact captions, and numerals for which the captioner attends to the digit's cell.

    Attributes:
        exact: fraction of the captions that are exactly right.
        numerals: how often each numeral was generated, among the first two of a caption; empty without attention.
        at_numeral: how often the most attended location at the numeral was in the digit's cell.
        at_decision: the same at the word that determines the digit: "an" for an eight, otherwise the numeral.
    """

    exact: float
    numerals: Counter[str]
    at_numeral: Counter[str]
    at_decision: Counter[str]

    def fraction(self, hits: Counter[str], numerals: Iterable[str] = NUMERALS) -> float:
        """Fraction of the generated numerals that are counted in ``hits``.

        Args:
            hits: :attr:`at_numeral` or :attr:`at_decision`.
            numerals: the numerals to count; defaults to all.

        Returns:
            A fraction between 0 and 1, NaN if none of the numerals was generated.
        """
        generated = sum(self.numerals[numeral] for numeral in numerals)
        return sum(hits[numeral] for numeral in numerals) / generated if generated else float("nan")


def measure(system: Captioner, data: DigitGridDataModule) -> AttentionCounts:
    """Captions the test images and compares the attention of each numeral with the digit's cell."""
    dataset, cells, (rows, columns) = data.dataset("test"), data.cells("test"), data.grid
    attends, exact = system.decoder.attends, 0
    generated, at_numeral, at_decision = Counter[str](), Counter[str](), Counter[str]()
    system.eval()
    for indices in torch.split(torch.arange(len(dataset)), 100):
        batch = dataset[indices.tolist()]
        with torch.inference_mode():
            features = system.features(batch)
            hypotheses = system.write(batch, need_weights=attends, memory=system.network.encode(features))
        for [best, *_], references, index in zip(hypotheses, batch.references, indices.tolist(), strict=True):
            exact += system.texts([[best]])[0] in references
            if not attends:
                continue
            attended = [_cell(weights, features, rows, columns) for weights in cast(Tensor, best.weights)]
            caption = list(system.target_tokenizer.tokens(best.tokens))
            numerals = [(position, word) for position, word in enumerate(caption) if word in NUMERALS]
            # An image has two digits; a wrong caption may have more numerals, which are ignored, or fewer.
            for (position, word), cell in zip(numerals, cells[index].tolist(), strict=False):
                decision = position - 1 if caption[position - 1 : position + 1] == ["an", "eight"] else position
                generated[word] += 1
                at_numeral[word] += attended[position] == cell
                at_decision[word] += attended[decision] == cell
    return AttentionCounts(exact / len(dataset), generated, at_numeral, at_decision)


def _cell(weights: Tensor, features: Tensor, rows: int, columns: int) -> list[int]:
    """Row and column of the cell that contains the most attended location of an attention map, (H · W)."""
    row, column = divmod(int(weights.argmax()), features.size(3))
    return [row * rows // features.size(2), column * columns // features.size(3)]


def main() -> None:
    """Measures one checkpoint on the test images; the grid defaults to that of captioner_digits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digit_attention", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint of a captioner of digit grids")
    for name, size in (("rows", 5), ("columns", 5), ("cell-size", 32)):
        parser.add_argument(
            f"--{name}", type=int, default=size, help=f"{name.replace('-', ' ')} of the grid (default: {size})"
        )
    options = parser.parse_args()
    data = DigitGridDataModule(options.rows, options.columns, options.cell_size)
    counts = measure(Captioner.load_from_checkpoint(options.checkpoint, map_location="cpu"), data)
    print(f"exact captions: {counts.exact:.2%} of the test images")
    if counts.numerals:
        others = [numeral for numeral in NUMERALS if numeral != "eight"]
        print("most attended location in the digit's cell")
        print(f"  at the numeral: {counts.fraction(counts.at_numeral):.2%} of {counts.numerals.total():,} numerals")
        eights, rest = (counts.fraction(counts.at_numeral, numerals) for numerals in (["eight"], others))
        print(f"    {eights:.2%} of {counts.numerals['eight']:,} eights, {rest:.2%} of the others")
        decided, eights = (counts.fraction(counts.at_decision, numerals) for numerals in (NUMERALS, ["eight"]))
        print(f'  at "an" for an eight, otherwise at the numeral: {decided:.2%}, of the eights {eights:.2%}')


if __name__ == "__main__":
    main()
