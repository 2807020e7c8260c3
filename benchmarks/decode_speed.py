"""Decoding: sentences a second over Hugging Face's ``generate`` and over CTranslate2, with the same weights."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.marian import random_marian
from benchmarks.timing import ratio, take_turns
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.cli.export import export_ctranslate2
from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.engine import generate
from lightning_modules.translation.marian import network_like, renamed_state
from lightning_modules.translation.transformer_seq2seq import TransformerSeq2Seq

# Width, layers of each side, heads, inner width, vocabulary.
CASES = [(256, 3, 4, 1024, 10_000), (512, 6, 8, 2048, 32_000)]
SENTENCES, SOURCE_LENGTH, NEW_TOKENS = 64, 24, 24
BEAMS = (1, 5)


class Numbers(Tokenizer):
    """A vocabulary of numbers, since a random network has nothing to say."""

    pad_id, unk_id, eos_id = 1, 2, 0
    bos_id = 1  # as Marian's

    def __len__(self) -> int:
        return int(json.loads(self.definition))

    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        """Splits at spaces."""
        return [[int(number) for number in text.split()] for text in texts]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Joins with spaces."""
        return [" ".join(self.tokens(self.content(ids))) for ids in sequences]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The numbers themselves."""
        return ["<unk>" if number == self.unk_id else str(int(number)) for number in ids]


def measure(quick: bool) -> Table:
    """Goal: beam 5 at least 1.0 of CTranslate2 in float32, above it in bfloat16.

    The others run in float32 always: CTranslate2 has bfloat16 on some CPUs only, and says so where it has not.
    """
    import ctranslate2

    table = Table(
        "D, layers, V",
        "beam",
        "sentences/s, ours over HF",
        "over CTranslate2",
        "same as HF, as CTranslate2",
        "bfloat16 over CTranslate2",
    )
    threads, sentences = torch.get_num_threads(), 4 if quick else SENTENCES
    for dim, depth, heads, inner, vocabulary in CASES[:1] if quick else CASES:
        torch.manual_seed(0)
        theirs = random_marian(
            dim,
            depth,
            heads,
            inner,
            vocabulary,
            pad_token_id=Numbers.pad_id,
            decoder_start_token_id=Numbers.bos_id,
            eos_token_id=Numbers.eos_id,
            forced_eos_token_id=None,
            init_std=0.1,
        ).eval()
        tokenizer = Numbers(str(vocabulary))
        ours = TransformerSeq2Seq(tokenizer, tokenizer, network_like(theirs)).eval()
        ours.network.load_state_dict(renamed_state(theirs, ours.network))
        half = copy.deepcopy(ours).to(torch.bfloat16)
        source = torch.randint(3, vocabulary, (sentences, SOURCE_LENGTH))
        words = [tokenizer.tokens(row.tolist()) for row in source]
        with tempfile.TemporaryDirectory() as folder:
            export_ctranslate2(ours, Path(folder))
            translator = ctranslate2.Translator(folder, device="cpu", intra_threads=threads, compute_type="float32")
        for beam in BEAMS:
            candidates: dict[str, Callable[[], list[list[int]]]] = {
                "hf": partial(hf, theirs, source, beam),
                "ct2": partial(ct2, translator, words, beam),
                "ours": partial(written, ours, source, beam),
                "half": partial(written, half, source, beam),
            }
            said = {name: run() for name, run in candidates.items()}
            seconds = take_turns(candidates, 3 if quick else 7)
            table.add_row(
                f"{dim}, {depth}+{depth}, {vocabulary:,}",
                str(beam),
                str(ratio(seconds["hf"], seconds["ours"])),
                str(ratio(seconds["ct2"], seconds["ours"])),
                f"{same(said['ours'], said['hf'])}, {same(said['ours'], said['ct2'])} of {sentences}",
                str(ratio(seconds["ct2"], seconds["half"])),
            )
    return table


def same(some: list[list[int]], others: list[list[int]]) -> int:
    """How many sentences are the same."""
    return sum(a == b for a, b in zip(some, others, strict=True))


def hf(model: torch.nn.Module, source: Tensor, beam: int) -> list[list[int]]:
    """Hugging Face."""
    with torch.inference_mode():
        rows = model.generate(  # type: ignore[operator]
            input_ids=source,
            attention_mask=torch.ones_like(source),
            num_beams=beam,
            do_sample=False,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
        )
    return [row[1:] for row in rows.tolist()]


def ct2(translator: object, words: list[list[str]], beam: int) -> list[list[int]]:
    """CTranslate2."""
    results = translator.translate_batch(  # type: ignore[attr-defined]
        words,
        beam_size=beam,
        length_penalty=1,
        min_decoding_length=NEW_TOKENS,
        max_decoding_length=NEW_TOKENS,
        max_batch_size=SENTENCES,
    )
    return [[int(word) if word.isdigit() else Numbers.unk_id for word in one.hypotheses[0]] for one in results]


def written(system: TransformerSeq2Seq, source: Tensor, beam: int) -> list[list[int]]:
    """This library."""
    lengths = torch.full((len(source),), source.size(1))
    with torch.inference_mode():
        found = generate(
            system.decoder,
            system.network.encode(source, lengths),
            BeamSearch(beam),
            bos_id=Numbers.bos_id,
            eos_id=Numbers.eos_id,
            pad_id=Numbers.pad_id,
            min_length=NEW_TOKENS,
            max_length=NEW_TOKENS,
        )
    return [best[0].tokens for best in found]
