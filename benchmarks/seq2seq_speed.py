"""Training a Transformer that translates: tokens a second over Hugging Face, nn.Transformer and x-transformers."""

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
from lightning_modules.text.linear_cross_entropy import linear_cross_entropy
from lightning_modules.translation.marian import network_like, renamed_state
from lightning_modules.translation.transformer_translator import TransformerTranslator

DIM, DEPTH, HEADS, INNER, VOCABULARY = 256, 3, 4, 1024, 10_000
BATCH, LENGTH = 64, 24
# Share dropped, and whether linear maps and attention are in bfloat16 (mixed precision).
CASES = [(0.0, False), (0.1, False), (0.0, True), (0.1, True)]


class TorchTransformer(nn.Module):
    """nn.Transformer with what it lacks: embeddings, positions, the tied output map."""

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
    """Goal: 1.3 over the best of them in float32. A step is loss, gradients and AdamW; batch 64 of 24 tokens."""
    table = Table("dropout", "precision", "over HF Marian", "over nn.Transformer", "over x-transformers", "loss - HF's")
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
    """The same network four times; ours with the weights of Marian's."""
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
        output = ours.decoder.output
        return linear_cross_entropy(features, output.weight, output.bias, target[:, 1:].flatten())

    theirs = TorchTransformer(dropout)
    return {
        "hf": Loss(
            hf, lambda: hf(input_ids=source, decoder_input_ids=target[:, :-1], labels=target[:, 1:].contiguous()).loss
        ),
        "torch": Loss(theirs, lambda: theirs(source, target)),
        # It runs on the last token too, whose successor it does not know, so it gets as many as the others read.
        "x": Loss(x, lambda: x(source, target[:, :-1])),
        "ours": Loss(ours, our_loss),
    }


class Loss(nn.Module):
    """A network, and what it is trained on.

    Args:
        network: whose parameters are trained.
        loss: computes the loss of a batch.
    """

    def __init__(self, network: nn.Module, loss: Callable[[], Tensor]) -> None:
        super().__init__()
        self.network = network
        self._loss = loss

    def forward(self) -> Tensor:
        """The loss."""
        return self._loss()
