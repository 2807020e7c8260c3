"""The table of caption metrics, for captions that are known."""

from __future__ import annotations

from functools import partial

from benchmarks.caption_quality import COLUMNS, rows
from datamodules import CaptionBatch, DigitGridDataModule
from lightning_modules import BeamSearch, Hypothesis, RNNCaptioner, RNNCaptionNetwork, RNNSizes

DATA = DigitGridDataModule(rows=3, cell_size=8, train_size=10, val_size=0, test_size=70)


def test_the_table_has_a_row_per_beam() -> None:
    """The references themselves with a beam of 3, and with one of 1 always the same: by 64 images, and all of them."""
    system = RNNCaptioner(DATA.target_tokenizer, DATA.transform, partial(RNNCaptionNetwork, sizes=RNNSizes(8, 16)))
    dataset = DATA.dataset("test")

    def write(batch: CaptionBatch, strategy: BeamSearch, **_: object) -> list[list[Hypothesis]]:
        texts = [dataset.captions[0][0] if strategy.size == 1 else text for [text] in batch.references]
        return [[Hypothesis(tokens, 0.0, 0.0)] for tokens in DATA.target_tokenizer.encode(texts)]

    system.write = write  # type: ignore[method-assign, assignment]
    lines = rows("it", system, dataset, [1, 3])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in cells] == ["it", ""]
    assert [line[2] for line in cells] == ["1", "3"]
    assert cells[1][3 + COLUMNS.index("bleu4")] == "100.0"
    assert float(cells[0][3 + COLUMNS.index("bleu4")]) < 60.0
    own = sum(p.numel() for name, p in system.network.named_parameters() if not name.startswith("backbone"))
    assert cells[0][1] == f"{own / 1e6:.2f}"
    assert dataset.features is None
