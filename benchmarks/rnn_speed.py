"""Recurrent decoder training: steps per second over the same decoders written as tutorials write them.

The decoders of Xu et al., Bahdanau et al. and Luong et al. with 512 hidden features and a vocabulary of 6,000; 64
sequences of 14 or 24 tokens that attend to 49 or 24 source positions, float32 and bf16-mixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from rich.table import Table
from torch import Tensor, nn

from attention_blocks import AdditiveAttention, LuongAttention
from benchmarks.timing import ratio, take_turns
from benchmarks.training import training_step
from lightning_modules.text.gated_decoder import GatedDecoder
from lightning_modules.text.rnn_text_decoder import BahdanauDecoder, LuongDecoder, RNNSizes, RNNTextDecoder
from lightning_modules.text.text_decoder import Encoded

ROWS, VOCABULARY, D, H = 64, 6_000, 256, 512
Kind = Literal["gated", "bahdanau", "luong"]


class PlainDecoder(nn.Module):
    """A decoder of torch's cells and linear layers, with attention by broadcasting."""

    def __init__(self, kind: Kind, lstm: bool) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(VOCABULARY, D)
        self.bridge = nn.Linear(H, (1 + lstm) * H)
        self.cell: nn.RNNCellBase = (nn.LSTMCell if lstm else nn.GRUCell)(D + H, H)
        self.key = nn.Linear(H, H, bias=False)
        self.query, self.score = nn.Linear(H, H, bias=False), nn.Linear(H, 1, bias=False)
        self.gate = nn.Linear(H, 1)
        self.readout = nn.Linear(2 * H if kind == "luong" else 2 * H + D, H)

    def attend(self, hidden: Tensor, keys: Tensor, source: Tensor) -> Tensor:
        """Context, (B, H), of states, (B, H)."""
        if self.kind == "luong":
            scores = (keys @ hidden.unsqueeze(2)).squeeze(2)  # (B, T_k)
        else:
            scores = self.score(torch.tanh(self.query(hidden).unsqueeze(1) + keys)).squeeze(2)
        context = (scores.softmax(1).to(source.dtype).unsqueeze(1) @ source).squeeze(1)
        return torch.sigmoid(self.gate(hidden)) * context if self.kind == "gated" else context

    def forward(self, tokens: Tensor, source: Tensor, summary: Tensor) -> Tensor:
        """Features, (B, T, H)."""
        keys, states = self.key(source), torch.split(torch.tanh(self.bridge(summary)), H, dim=1)
        feed, features = states[0].new_zeros(states[0].shape), []
        for x in self.embedding(tokens).unbind(1):
            before = feed if self.kind == "luong" else self.attend(states[0], keys, source)
            found = self.cell(torch.cat([x, before.to(x.dtype)], 1), states if len(states) > 1 else states[0])
            states = found if isinstance(found, tuple) else (found,)
            parts = (
                [self.attend(states[0], keys, source), states[0]] if self.kind == "luong" else [states[0], before, x]
            )
            feed = torch.tanh(self.readout(torch.cat(parts, 1)))
            features.append(feed)
        return torch.stack(features, 1)


def measure(quick: bool) -> Table:
    """Goal: 1.0. A step computes states, attention, readouts and gradients and updates the weights with AdamW."""
    table = Table("decoder", "precision", "steps/s over a plain decoder", "milliseconds per step")
    lstm, gru = RNNSizes(D, H, cell="lstm"), RNNSizes(D, H)
    cases: dict[str, tuple[RNNTextDecoder, PlainDecoder, int, int]] = {
        "Show, Attend and Tell: LSTM, 49 locations, 14 tokens": (
            GatedDecoder(VOCABULARY, H, H, lstm, attention=AdditiveAttention),
            PlainDecoder("gated", lstm=True),
            49,
            14,
        ),
        "Bahdanau: GRU, additive, 24 source tokens, 24 tokens": (
            BahdanauDecoder(VOCABULARY, H, H, gru, attention=AdditiveAttention),
            PlainDecoder("bahdanau", lstm=False),
            24,
            24,
        ),
        "Luong, input feeding: LSTM, general, 24 source tokens, 24 tokens": (
            LuongDecoder(VOCABULARY, H, H, lstm, attention=LuongAttention),
            PlainDecoder("luong", lstm=True),
            24,
            24,
        ),
    }
    rows = 2 if quick else ROWS
    for name, (decoder, plain, positions, length) in cases.items():
        tokens, source = torch.randint(4, VOCABULARY, (rows, length)), torch.randn(rows, positions, H)
        source, summary = source.requires_grad_(), torch.randn(rows, H)
        memory = Encoded(source, None, summary)
        calls: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {
            "ours": (decoder, lambda decoder=decoder, tokens=tokens, memory=memory: decoder(tokens, memory)),
            "plain": (
                plain,
                lambda plain=plain, tokens=tokens, source=source, summary=summary: plain(tokens, source, summary),
            ),
        }
        for mixed in (False, True):
            steps = {key: make_step(module, call, mixed) for key, (module, call) in calls.items()}
            seconds = take_turns(steps, 3 if quick else 9)
            table.add_row(
                name,
                "bf16-mixed" if mixed else "float32",
                str(ratio(seconds["plain"], seconds["ours"])),
                f"{1000 * sorted(seconds['ours'])[len(seconds['ours']) // 2]:.0f}",
            )
    return table


def make_step(module: nn.Module, call: Callable[..., Tensor], mixed: bool) -> Callable[[], None]:
    """Training step of all parameters but those of the output layer, which is outside the loop."""
    trained = [parameter for name, parameter in module.named_parameters() if not name.startswith("output")]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    return training_step(lambda: call().float().square().mean(), optimizer, mixed=mixed)
