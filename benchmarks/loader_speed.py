"""Text batches: sentence pairs per second of the train loader over Hugging Face's collator, and fractions of padding.

30,000 shuffled pairs with sources of 5 to 30 words, tokenized beforehand on both sides; batches of at most 1,024 tokens
(about 64 pairs) compared with batches of 64 pairs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.timing import ratio, take_turns
from datamodules import DatasetPairs, ParallelTextDataModule, Word

BATCH, MAX_TOKENS = 64, 1024
WORDS = [f"word{number}" for number in range(2000)]


def measure(quick: bool) -> Table:
    """Goal: above 1.0, with at most 5 % padding."""
    data = ParallelTextDataModule(
        DatasetPairs(sentences(3_000 if quick else 30_000), "source", "target"), Word(), max_tokens=MAX_TOKENS
    )
    data.setup()
    ours, theirs = data.train_dataloader(), hugging_face_loader(data)
    seconds = take_turns({"ours": lambda: run_epoch(ours), "hf": lambda: run_epoch(theirs)}, 3 if quick else 9)
    table = Table("pairs/s, ours over HF", "padding, ours", "padding, HF")
    table.add_row(
        str(ratio(seconds["hf"], seconds["ours"])),
        f"{padding((batch.source, batch.target) for batch in ours):.1%}",
        f"{padding((batch['input_ids'], batch['labels']) for batch in theirs):.1%}",
    )
    return table


def sentences(count: int) -> list[dict[str, str]]:
    """Random sentences as long as image captions, with targets that are up to three words shorter or longer."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        length = min(30, max(5, round(draw.normal(13, 4))))
        lengths = {"source": length, "target": max(3, length + int(draw.integers(-3, 4)))}
        rows.append({side: " ".join(draw.choice(WORDS, number)) for side, number in lengths.items()})
    return rows


def hugging_face_loader(data: ParallelTextDataModule) -> DataLoader[dict[str, Tensor]]:
    """Loader of the same pairs with ``DataCollatorForSeq2Seq``."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

    vocabulary = Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary)  # type: ignore[no-untyped-call]
    tokenizer.pad_token_id = 0
    dataset = data.dataset("train")
    rows = [
        {"input_ids": source, "labels": target}
        for source, target in zip(
            data.source_tokenizer.encode(dataset.source_texts),
            data.target_tokenizer.encode(dataset.target_texts),
            strict=True,
        )
    ]
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=0)
    return DataLoader(rows, batch_size=BATCH, shuffle=True, collate_fn=collator)  # type: ignore[arg-type]


def run_epoch(loader: DataLoader[object]) -> None:
    """Loads all batches of an epoch."""
    for _ in loader:
        pass


def padding(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Fraction of padding in the batches."""
    positions = padded = 0
    for pair in batches:
        for tokens in pair:
            positions += tokens.numel()
            padded += int((tokens == 0).sum())
    return padded / positions
