"""Batches of text: sentence pairs a second of the loader over Hugging Face's collator, and what share is padding."""

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
    """Goal: above 1.0, with at most 5 % padding.

    Sentences of 5 to 30 words, numbered beforehand on both sides; shuffled, with batches of about 64 pairs.
    """
    data = ParallelTextDataModule(
        DatasetPairs(sentences(3_000 if quick else 30_000), "source", "target"), Word(), max_tokens=MAX_TOKENS
    )
    data.setup()
    ours, theirs = data.train_dataloader(), collated(data)
    seconds = take_turns({"ours": lambda: used(ours), "hf": lambda: used(theirs)}, 3 if quick else 9)
    table = Table("pairs a second over the collator", "padding of the loader", "padding of the collator")
    table.add_row(
        str(ratio(seconds["hf"], seconds["ours"])),
        f"{padding((batch.source, batch.target) for batch in ours):.1%}",
        f"{padding((batch['input_ids'], batch['labels']) for batch in theirs):.1%}",
    )
    return table


def sentences(count: int) -> list[dict[str, str]]:
    """Sentences as long as picture descriptions, and others a few words shorter or longer for their translations."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        length = min(30, max(5, round(draw.normal(13, 4))))
        lengths = {"source": length, "target": max(3, length + int(draw.integers(-3, 4)))}
        rows.append({side: " ".join(draw.choice(WORDS, number)) for side, number in lengths.items()})
    return rows


def collated(data: ParallelTextDataModule) -> DataLoader[dict[str, Tensor]]:
    """The same pairs in random batches through ``DataCollatorForSeq2Seq``, as tutorials load them."""
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


def used(loader: DataLoader[object]) -> None:
    """One epoch."""
    for _ in loader:
        pass


def padding(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of places that hold no token."""
    places = empty = 0
    for pair in batches:
        for tokens in pair:
            places += tokens.numel()
            empty += int((tokens == 0).sum())
    return empty / places
