"""Recurrent decoder training: steps per second with shared weights differentiated after the loop, over plain autograd.

The decoders of Xu et al., Bahdanau et al. and Luong et al. with 512 hidden features and a vocabulary of 6,000; 64
sequences of 14 or 24 tokens that attend to 49 or 24 source positions, float32 and bf16-mixed.
"""

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
    """Goal: above 1.0. A step computes states, attention, readouts and gradients and updates the weights with AdamW."""
    table = Table("decoder", "precision", "steps/s over plain autograd", "milliseconds per step")
    lstm, gru = RNNSizes(256, 512, cell="lstm"), RNNSizes(256, 512)
    cases: dict[str, tuple[RNNTextDecoder, int, int]] = {
        "Show, Attend and Tell: LSTM, 49 locations, 14 tokens": (
            GatedDecoder(VOCABULARY, 512, 512, lstm, attention=AdditiveAttention),
            49,
            14,
        ),
        "Bahdanau: GRU, additive, 24 source tokens, 24 tokens": (
            BahdanauDecoder(VOCABULARY, 512, 512, gru, attention=AdditiveAttention),
            24,
            24,
        ),
        "Luong, input feeding: LSTM, general, 24 source tokens, 24 tokens": (
            LuongDecoder(VOCABULARY, 512, 512, lstm, attention=LuongAttention),
            24,
            24,
        ),
    }
    rows = 2 if quick else ROWS
    for name, (decoder, positions, length) in cases.items():
        tokens, source = torch.randint(4, VOCABULARY, (rows, length)), torch.randn(rows, positions, 512)
        memory = Encoded(source.requires_grad_(), None, torch.randn(rows, 512))
        for mixed in (False, True):
            shared = make_step(decoder, tokens, memory, mixed)

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


def make_step(decoder: RNNTextDecoder, tokens: torch.Tensor, memory: Encoded, mixed: bool) -> Callable[[], None]:
    """Training step of all parameters but those of the output layer, which is outside the loop."""
    trained = [parameter for name, parameter in decoder.named_parameters() if not name.startswith("output")]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    return training_step(lambda: decoder(tokens, memory).float().square().mean(), optimizer, mixed=mixed)
