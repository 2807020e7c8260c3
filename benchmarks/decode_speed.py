"""Translation: sentences per second of this library over Hugging Face's ``generate`` and over CTranslate2.

Transformers with the same random weights on all sides, of two sizes; 64 sentences of 24 tokens, 24 generated tokens,
beams of 1 and 5. The last column runs this library in bfloat16; Hugging Face and CTranslate2 always run in float32,
since CTranslate2 supports bfloat16 on some CPUs only.
"""

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

# D, layers of encoder and of decoder, heads, hidden features of the feed-forward networks, V.
CASES = [(256, 3, 4, 1024, 10_000), (512, 6, 8, 2048, 32_000)]
SENTENCES, SOURCE_LENGTH, NEW_TOKENS = 64, 24, 24
BEAMS = (1, 5)


class NumberTokenizer(Tokenizer):
    """Tokenizer whose words are the token ids, for networks with random weights."""

    pad_id, unk_id, eos_id = 1, 2, 0
    bos_id = 1  # as in Marian

    def __len__(self) -> int:
        return int(json.loads(self.definition))

    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        """Splits at spaces and parses the numbers."""
        return [[int(number) for number in text.split()] for text in texts]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Joins with spaces."""
        return [" ".join(self.tokens(self.content(ids))) for ids in sequences]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The ids as words."""
        return ["<unk>" if number == self.unk_id else str(int(number)) for number in ids]


def measure(quick: bool) -> Table:
    """Goal: with beam 5, at least 1.0 over CTranslate2 in float32 and above 1.0 in bfloat16."""
    import ctranslate2

    table = Table(
        "D, layers, V",
        "beam",
        "sentences/s, ours over HF",
        "over CTranslate2",
        "equal to HF, to CTranslate2",
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
            pad_token_id=NumberTokenizer.pad_id,
            decoder_start_token_id=NumberTokenizer.bos_id,
            eos_token_id=NumberTokenizer.eos_id,
            forced_eos_token_id=None,
            init_std=0.1,
        ).eval()
        tokenizer = NumberTokenizer(str(vocabulary))
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
                "hf": partial(generate_hugging_face, theirs, source, beam),
                "ct2": partial(generate_ctranslate2, translator, words, beam),
                "ours": partial(generate_ours, ours, source, beam),
                "half": partial(generate_ours, half, source, beam),
            }
            outputs = {name: run() for name, run in candidates.items()}
            seconds = take_turns(candidates, 3 if quick else 7)
            table.add_row(
                f"{dim}, {depth}+{depth}, {vocabulary:,}",
                str(beam),
                str(ratio(seconds["hf"], seconds["ours"])),
                str(ratio(seconds["ct2"], seconds["ours"])),
                f"{equal(outputs['ours'], outputs['hf'])}, {equal(outputs['ours'], outputs['ct2'])} of {sentences}",
                str(ratio(seconds["ct2"], seconds["half"])),
            )
    return table


def equal(some: list[list[int]], others: list[list[int]]) -> int:
    """Number of equal sentences."""
    return sum(a == b for a, b in zip(some, others, strict=True))


def generate_hugging_face(model: torch.nn.Module, source: Tensor, beam: int) -> list[list[int]]:
    """Translates with Hugging Face."""
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


def generate_ctranslate2(translator: object, words: list[list[str]], beam: int) -> list[list[int]]:
    """Translates with CTranslate2."""
    results = translator.translate_batch(  # type: ignore[attr-defined]
        words,
        beam_size=beam,
        length_penalty=1,
        min_decoding_length=NEW_TOKENS,
        max_decoding_length=NEW_TOKENS,
        max_batch_size=SENTENCES,
    )
    return [
        [int(word) if word.isdigit() else NumberTokenizer.unk_id for word in result.hypotheses[0]] for result in results
    ]


def generate_ours(system: TransformerSeq2Seq, source: Tensor, beam: int) -> list[list[int]]:
    """Translates with this library."""
    lengths = torch.full((len(source),), source.size(1))
    with torch.inference_mode():
        hypotheses = generate(
            system.decoder,
            system.network.encode(source, lengths),
            BeamSearch(beam),
            bos_id=NumberTokenizer.bos_id,
            eos_id=NumberTokenizer.eos_id,
            pad_id=NumberTokenizer.pad_id,
            min_length=NEW_TOKENS,
            max_length=NEW_TOKENS,
        )
    return [best[0].tokens for best in hypotheses]
