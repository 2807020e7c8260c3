"""Translator training: steps per second over Hugging Face's Marian, ``nn.Transformer`` and x-transformers.

Transformers of 3 + 3 layers with 256 features, 4 heads and a tied vocabulary of 10,000; 64 pairs of 24 tokens, with and
without dropout, float32 and bf16-mixed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from attention_blocks import SinusoidalPosition
from benchmarks.marian import random_marian
from benchmarks.timing import ratio, take_turns
from benchmarks.training import training_step
from lightning_modules.text.cross_entropy import cross_entropy
from lightning_modules.translation.marian import network_like, renamed_state
from lightning_modules.translation.transformer_translator import TransformerTranslator

DIM, DEPTH, HEADS, INNER, VOCABULARY = 256, 3, 4, 1024, 10_000
BATCH, LENGTH = 64, 24
# Dropout rate, and whether autocast to bfloat16 is used.
CASES = [(0.0, False), (0.1, False), (0.0, True), (0.1, True)]


class TorchTransformer(nn.Module):
    """nn.Transformer with embeddings, positions and a tied output layer."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        nn.init.normal_(self.embedding.weight, std=DIM**-0.5)
        self.position = SinusoidalPosition(DIM)
        self.transformer = nn.Transformer(DIM, HEADS, DEPTH, DEPTH, INNER, dropout, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        x, y = (self.position(self.embedding(tokens) * DIM**0.5) for tokens in (source, target[:, :-1]))
        features = self.transformer(x, y, tgt_mask=mask, tgt_is_causal=True)
        return F.cross_entropy(F.linear(features, self.embedding.weight).flatten(0, 1), target[:, 1:].flatten())


def measure(quick: bool) -> Table:
    """Goal: 1.3 over the fastest in float32. A step computes loss and gradients and updates the weights with AdamW."""
    table = Table(
        "dropout", "precision", "over HF Marian", "over nn.Transformer", "over x-transformers", "loss minus HF's"
    )
    for dropout, mixed in CASES[:1] if quick else CASES:
        losses = candidates(dropout, 4 if quick else BATCH)
        with torch.no_grad():
            difference = (losses["ours"]() - losses["hf"]()).item()
        steps = {
            name: training_step(loss.train(), torch.optim.AdamW(loss.parameters(), lr=1e-4), mixed=mixed)
            for name, loss in losses.items()
        }
        seconds = take_turns(steps, 3 if quick else 15)
        row = [str(ratio(seconds[name], seconds["ours"])) for name in ("hf", "torch", "x")]
        same = "" if dropout else f"{difference:.1e}"
        table.add_row(str(dropout), "bf16-mixed" if mixed else "float32", *row, same)
    return table


def candidates(dropout: float, batch: int) -> dict[str, nn.Module]:
    """Losses of networks of the same sizes, by name; ours has the weights of Marian."""
    from x_transformers import XTransformer

    torch.manual_seed(0)
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), dropout)
    hf = random_marian(DIM, DEPTH, HEADS, INNER, VOCABULARY, pad_token_id=0, **rates)
    ours: TransformerTranslator = network_like(hf)(VOCABULARY, VOCABULARY)
    ours.load_state_dict(renamed_state(hf, ours))
    x = XTransformer(
        dim=DIM,
        tie_token_emb=True,
        enc_num_tokens=VOCABULARY,
        dec_num_tokens=VOCABULARY,
        **{
            f"{side}_{name}": value
            for side in ("enc", "dec")
            for name, value in {
                "depth": DEPTH,
                "heads": HEADS,
                "attn_dim_head": DIM // HEADS,
                "max_seq_len": LENGTH,
                "attn_flash": True,
                "attn_dropout": dropout,
                "ff_dropout": dropout,
                "layer_dropout": 0.0,
            }.items()
        },
    )
    source = torch.randint(4, VOCABULARY, (batch, LENGTH))
    target = torch.randint(4, VOCABULARY, (batch, LENGTH + 1))
    lengths = torch.full((batch,), LENGTH)

    def our_loss() -> Tensor:
        features = ours.decoder(target[:, :-1], ours.encode(source, lengths)).flatten(0, 1)
        return cross_entropy(ours.decoder.output(features), target[:, 1:].flatten())

    theirs = TorchTransformer(dropout)
    return {
        "hf": Loss(
            hf, lambda: hf(input_ids=source, decoder_input_ids=target[:, :-1], labels=target[:, 1:].contiguous()).loss
        ),
        "torch": Loss(theirs, lambda: theirs(source, target)),
        # XTransformer also decodes the last token, which has no label; here it decodes LENGTH tokens, like the others.
        "x": Loss(x, lambda: x(source, target[:, :-1])),
        "ours": Loss(ours, our_loss),
    }


class Loss(nn.Module):
    """Module that computes the loss of a network on a fixed batch.

    Args:
        network: holds the trained parameters.
        loss: computes the loss of a batch.
    """

    def __init__(self, network: nn.Module, loss: Callable[[], Tensor]) -> None:
        super().__init__()
        self.network = network
        self._loss = loss

    def forward(self) -> Tensor:
        """The loss."""
        return self._loss()
