"""Training recurrent decoders: steps a second with what steps share differentiated behind the loop, over autograd."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch
from rich.table import Table

from attention_blocks import AdditiveAttention, LuongAttention
from benchmarks.timing import ratio, take_turns
from benchmarks.training import training_step
from lightning_modules.text.gated_decoder import GatedDecoder
from lightning_modules.text.rnn_text_decoder import BahdanauDecoder, LuongDecoder, RNNSizes, RNNTextDecoder
from lightning_modules.text.text_decoder import Encoded

ROWS, VOCABULARY = 64, 6_000


def measure(quick: bool) -> Table:
    """Goal: above 1. A step is states, attention and readouts of 64 sequences, their gradients and AdamW."""
    table = Table("decoder", "precision", "over plain autograd", "milliseconds a step")
    lstm, gru = RNNSizes(256, 512, cell="lstm"), RNNSizes(256, 512)
    cases: dict[str, tuple[RNNTextDecoder, int, int]] = {
        "Show, Attend and Tell: LSTM, 49 places, 14 words": (
            GatedDecoder(VOCABULARY, 512, 512, lstm, attention=AdditiveAttention),
            49,
            14,
        ),
        "Bahdanau: GRU, additive, 24 places, 24 words": (
            BahdanauDecoder(VOCABULARY, 512, 512, gru, attention=AdditiveAttention),
            24,
            24,
        ),
        "Luong, input feeding: LSTM, general, 24 places, 24 words": (
            LuongDecoder(VOCABULARY, 512, 512, lstm, attention=LuongAttention),
            24,
            24,
        ),
    }
    rows = 2 if quick else ROWS
    for name, (decoder, places, words) in cases.items():
        tokens, places_of = torch.randint(4, VOCABULARY, (rows, words)), torch.randn(rows, places, 512)
        memory = Encoded(places_of.requires_grad_(), None, torch.randn(rows, 512))
        for mixed in (False, True):
            shared = stepper(decoder, tokens, memory, mixed)

            def plain(step: Callable[[], None] = shared) -> None:
                with patch("lightning_modules.text.rnn_text_decoder.unrolled", nullcontext):
                    step()

            seconds = take_turns({"shared": shared, "plain": plain}, 3 if quick else 9)
            table.add_row(
                name,
                "bf16-mixed" if mixed else "float32",
                str(ratio(seconds["plain"], seconds["shared"])),
                f"{1000 * sorted(seconds['shared'])[len(seconds['shared']) // 2]:.0f}",
            )
    return table


def stepper(decoder: RNNTextDecoder, tokens: torch.Tensor, memory: Encoded, mixed: bool) -> Callable[[], None]:
    """A step of training of all but the output map, which no loop is about."""
    trained = [each for name, each in decoder.named_parameters() if not name.startswith("output")]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    return training_step(lambda: decoder(tokens, memory).float().square().mean(), optimizer, mixed=mixed)
