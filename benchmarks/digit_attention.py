"""``python -m benchmarks.digit_attention CHECKPOINT``: whether a captioner of digit grids looks at the digit it tells.

Goal: 99 % of the captions exact, on handwriting and layouts never seen; for 95 % of the digits' words the most attended
place lies in that digit's cell. Eights are counted by themselves too, and "an", which tells them: once it is written
"eight" follows without another look.
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


class Looks(NamedTuple):
    """What was found.

    Attributes:
        exact: share of the captions that are exact.
        words: how often each numeral was written, as one of the first two of a caption; never, without attention.
        right: how often the most attended place lay in the digit's cell then.
        told: how often it did when the digit was told: at "an" for an eight, at the numeral itself for the others.
    """

    exact: float
    words: Counter[str]
    right: Counter[str]
    told: Counter[str]

    def share(self, looks: Counter[str], numerals: Iterable[str] = NUMERALS) -> float:
        """Of the times that some numerals were written, how many are in ``looks``; NaN where none was written."""
        words = sum(self.words[numeral] for numeral in numerals)
        return sum(looks[numeral] for numeral in numerals) / words if words else float("nan")


def measure(system: Captioner, data: DigitGridDataModule) -> Looks:
    """Describes the test images and looks where it looked, word by word."""
    dataset, cells, (rows, columns) = data.dataset("test"), data.cells("test"), data.grid
    attends, exact = system.decoder.attends, 0
    words, right, told = Counter[str](), Counter[str](), Counter[str]()
    system.eval()
    for numbers in torch.split(torch.arange(len(dataset)), 100):
        batch = dataset[numbers.tolist()]
        with torch.inference_mode():
            features = system.features(batch)
            found = system.write(batch, need_weights=attends, memory=system.network.encode(features))
        for [best, *_], references, number in zip(found, batch.references, numbers.tolist(), strict=True):
            exact += system.texts([[best]])[0] in references
            if not attends:
                continue
            looked = [_cell(weights, features, rows, columns) for weights in cast(Tensor, best.weights)]
            caption = list(system.target_tokenizer.tokens(best.tokens))
            numerals = [(place, word) for place, word in enumerate(caption) if word in NUMERALS]
            for (place, word), cell in zip(numerals, cells[number].tolist(), strict=False):  # two digits, and no more
                tells = place - 1 if caption[place - 1 : place + 1] == ["an", "eight"] else place
                words[word] += 1
                right[word] += looked[place] == cell
                told[word] += looked[tells] == cell
    return Looks(exact / len(dataset), words, right, told)


def _cell(weights: Tensor, features: Tensor, rows: int, columns: int) -> list[int]:
    """Row and column of the grid's cell that has the most attended place of a map, (H · W)."""
    row, column = divmod(int(weights.argmax()), features.size(3))
    return [row * rows // features.size(2), column * columns // features.size(3)]


def main() -> None:
    """Measures one checkpoint on the test images, drawn as the recipe draws them unless told otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digit_attention", description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="of captioner_digits, or of another captioner"
    )
    for name, size in (("rows", 5), ("columns", 5), ("cell-size", 32)):
        parser.add_argument(f"--{name}", type=int, default=size, help=f"of the grid ({size})")
    options = parser.parse_args()
    data = DigitGridDataModule(options.rows, options.columns, options.cell_size)
    looks = measure(Captioner.load_from_checkpoint(options.checkpoint, map_location="cpu"), data)
    print(f"exact: {looks.exact:.2%} of the test images")
    if looks.words:
        others = [numeral for numeral in NUMERALS if numeral != "eight"]
        print(
            f"most attended place in the digit's cell: {looks.share(looks.right):.2%} of {looks.words.total():,} words"
        )
        eights, rest = looks.share(looks.right, ["eight"]), looks.share(looks.right, others)
        print(f"  of {looks.words['eight']:,} eights {eights:.2%}, of the others {rest:.2%}")
        told, eights = looks.share(looks.told), looks.share(looks.told, ["eight"])
        print(f'at the words that tell the digit, "an" for an eight: {told:.2%}, of the eights {eights:.2%}')


if __name__ == "__main__":
    main()
