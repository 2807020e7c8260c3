"""``python -m benchmarks.attention_by_length ROOT``: BLEU of RNN translators by attention and source length.

Compares a GRU translator without attention and with each kind of attention on the sentences of Multi30k's test set,
grouped by their number of words. Encoder, decoder, batches, seed and epochs are the same for all. ROOT is a folder with
Multi30k's ``train.de.gz``, ``train.en.gz``, ``val.*`` and ``test_2016_flickr.*``. Prints a Markdown table and saves it,
with a plot, in the folder ``--out``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from matplotlib.figure import Figure
from sacrebleu.metrics.bleu import BLEU

from attention_blocks import AdditiveAttention, LuongAttention, MultiHeadAttention
from datamodules import AlignedFiles, BytePair, DatasetPairs, ParallelTextDataModule, SplitPairs
from lightning_modules import (
    FixedVectorDecoder,
    Likelihood,
    LuongDecoder,
    RNNSeq2Seq,
    RNNSizes,
    RNNTranslator,
    WarmupCosine,
)
from lightning_modules.text.rnn_text_decoder import RNNTextDecoder

attending = partial(LuongDecoder, input_feeding=True, tie_embeddings=True)
DECODERS: Mapping[str, Callable[..., RNNTextDecoder]] = {
    "none": partial(FixedVectorDecoder, tie_embeddings=True),
    "additive": partial(attending, attention=AdditiveAttention),
    "Luong dot": partial(attending, attention=partial(LuongAttention, score="dot")),
    "Luong general": partial(attending, attention=partial(LuongAttention, score="general")),
    "Luong concat": partial(attending, attention=partial(LuongAttention, score="concat")),
    "Luong general, local-p": partial(attending, attention=partial(LuongAttention, score="general", window="local-p")),
    "multi-head, 4": partial(attending, attention=partial(MultiHeadAttention, num_heads=4)),
}
# Maximum number of source words of each group of test sentences; the last group has no maximum.
BOUNDS = (8, 10, 12, 15)


def length_groups(sources: Sequence[str], bounds: Sequence[int] = BOUNDS) -> list[list[int]]:
    """Indices of the sources by number of words: up to the first bound, up to the second, …, above the last."""
    groups: list[list[int]] = [[] for _ in range(len(bounds) + 1)]
    for index, source in enumerate(sources):
        words = len(source.split())
        groups[sum(words > bound for bound in bounds)].append(index)
    return groups


def bleu(hypotheses: Sequence[str], references: Sequence[str], indices: Sequence[int]) -> float:
    """Lower-cased sacreBLEU of the sentences at some indices; NaN if there are none."""
    if not indices:
        return math.nan
    chosen = [[texts[index] for index in indices] for texts in (hypotheses, references)]
    return float(BLEU(lowercase=True).corpus_score(chosen[0], [chosen[1]]).score)


def train(decoder: Callable[..., RNNTextDecoder], data: ParallelTextDataModule, epochs: int, seed: int) -> RNNSeq2Seq:
    """Trains a translator with one of DECODERS; all have the same hyperparameters."""
    seed_everything(seed)
    system = RNNSeq2Seq(
        data.source_tokenizer,
        data.target_tokenizer,
        partial(RNNTranslator, sizes=RNNSizes(256, 256, dropout=0.4), decoder=decoder),
        objective=Likelihood(label_smoothing=0.1),
        optimizer=partial(torch.optim.AdamW, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
        lr_scheduler=partial(WarmupCosine, warmup=0.1),
    )
    trainer = Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        callbacks=[EMAWeightAveraging(decay=0.998)],
    )
    trainer.fit(system, data)
    return system


def row(name: str, numbers: Sequence[float], minutes: float) -> str:
    """Row of the Markdown table."""
    return f"| {name} | {' | '.join(f'{number:.1f}' for number in numbers)} | {minutes:.0f} |"


def plot(scores: Mapping[str, Sequence[float]], labels: Sequence[str]) -> Figure:
    """BLEU over source length, one line per attention."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, numbers in scores.items():
        axes.plot(labels, numbers, marker="o", label=name)
    axes.set(xlabel="source words", ylabel="BLEU")
    figure.legend(loc="outside right upper")
    return figure


def main() -> None:
    """Trains all translators in turn, and saves table and plot after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_by_length", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--every", type=int, default=1, help="train on every n-th pair (default: 1)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attentions", nargs="+", choices=DECODERS, default=list(DECODERS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("attention_by_length"), help="folder of table and plot")
    options = parser.parse_args()
    splits = {
        name: [
            {"de": pair.source, "en": pair.target}
            for pair in AlignedFiles(f"{name}.de.gz", f"{name}.en.gz").read(options.root)
        ]
        for name in ("train", "val", "test_2016_flickr")
    }
    subset = {"train": splits["train"][:: options.every], "val": splits["val"], "test": splits["test_2016_flickr"]}
    sets = {name: DatasetPairs(rows, "de", "en") for name, rows in subset.items()}
    tokenizer = BytePair(6000, lower=True)
    data = ParallelTextDataModule(SplitPairs(**sets), tokenizer, max_tokens=2048)
    sources, references = ([pair[side] for pair in splits["test_2016_flickr"]] for side in ("de", "en"))
    groups = length_groups(sources)
    bounded = [f"to {BOUNDS[0]}", *(f"{low + 1} to {high}" for low, high in itertools.pairwise(BOUNDS))]
    labels = [*bounded, f"above {BOUNDS[-1]}"]
    counts = " | ".join(f"{label} ({len(group)})" for label, group in zip(labels, groups, strict=True))
    lines = [f"| attention | all | {counts} | minutes |", "| --- " * (len(labels) + 3) + "|"]
    scores: dict[str, list[float]] = {}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.attentions:
        start = time.perf_counter()
        system = train(DECODERS[name], data, options.epochs, options.seed)
        minutes = (time.perf_counter() - start) / 60
        hypotheses = system.translate(sources)
        scores[name] = [bleu(hypotheses, references, group) for group in groups]
        lines.append(row(name, [bleu(hypotheses, references, range(len(sources))), *scores[name]], minutes))
        (options.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        plot(scores, labels).savefig(options.out / "plot.png", dpi=150)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
