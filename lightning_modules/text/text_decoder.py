"""Base of the networks that generate text, and their input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.generation.decoder import DecodingState, StepOutput


class Encoded(NamedTuple):
    """Encoded source of a text decoder: a sentence or an image.

    Attributes:
        sequence: features of each position, (B, T_k, D_k).
        mask: boolean, True = may attend, (B, 1, T_k); ``None`` if there is no padding.
        summary: features of the whole source, from which an RNN starts, (B, F); ``None`` if no decoder needs them.
    """

    sequence: Tensor
    mask: Tensor | None
    summary: Tensor | None

    def repeat(self, times: int) -> Encoded:
        """Repeats each row, its copies next to each other, to B * ``times`` rows."""
        mask, summary = (None if x is None else x.repeat_interleave(times, 0) for x in (self.mask, self.summary))
        return Encoded(self.sequence.repeat_interleave(times, 0), mask, summary)


class TextDecoder(nn.Module):
    """Base of the networks that generate text token by token; implements :class:`Decoder`.

    ::

        training    tokens (B, T), Encoded ──forward──▶ features (B, T, R) ──output──▶ logits (B, T, V)
        generation  Encoded ──start──▶ state ──step (one token each)──▶ logits, state ──step──▶ …

    The logits of a step equal those of the forward pass at the same position. The forward pass returns features, so
    that a loss need not compute the V logits of padding.

    Attributes:
        output: linear layer from features to logits, (…, R) to (…, V).
        attends: whether a step can return attention weights; False for a decoder without attention.
    """

    output: nn.Linear
    attends: bool = True

    def forward(self, tokens: Tensor, memory: Encoded) -> Tensor:
        """Features from which the token after each position is predicted.

        Args:
            tokens: (B, T) int64, from the beginning-of-sentence token on.
            memory: the encoded source.

        Returns:
            (B, T, R).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(tokens, memory)")

    def start(self, memory: Encoded) -> DecodingState:
        """State before the first token, with the memory projected once for all steps.

        Args:
            memory: the encoded source.
        """
        raise NotImplementedError(f"{type(self).__name__} must define start(memory)")

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """Logits of the token after each hypothesis's last one.

        Args:
            tokens: last token of each hypothesis, (B, K) int64.
            state: from :meth:`start` or the previous step.
            need_weights: also return attention weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(tokens, state, *, need_weights=False)")


def embedding(vocab_size: int, dim: int) -> nn.Embedding:
    """Token embedding with a variance of 1 / D, so that tied logits and scaled inputs have a variance near 1.

    Args:
        vocab_size: V.
        dim: D.

    Raises:
        ValueError: ``vocab_size`` is less than 2.
    """
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be 2 or more, got {vocab_size}")
    table = nn.Embedding(vocab_size, dim)
    nn.init.normal_(table.weight, std=dim**-0.5)
    return table


def output_layer(features: int, table: nn.Embedding, *, tied: bool, bias: bool = True) -> nn.Linear:
    """Linear layer from features to logits, with its own weights or those of the embedding.

    Args:
        features: R.
        table: embedding of the generated tokens, (V, D).
        tied: use the embedding's weights.
        bias: add a bias per token.

    Raises:
        ValueError: ``tied``, and R differs from D.
    """
    linear = nn.Linear(features, table.num_embeddings, bias=bias)
    if bias:
        nn.init.zeros_(linear.bias)
    if tied:
        if features != table.embedding_dim:
            raise ValueError(
                f"tied=True: the embedding has {table.embedding_dim} features, but the output layer gets {features}; "
                "make the sizes equal, or do not tie"
            )
        linear.weight = table.weight
    else:
        nn.init.xavier_uniform_(linear.weight)
    return linear


def sampled(tokens: Tensor, logits: Tensor, fraction: float) -> Tensor:
    """Scheduled sampling: replaces each token by the likeliest one with probability ``fraction``.

    Args:
        tokens: true tokens, (B, 1) int64.
        logits: of the same position, (B, 1, V).
        fraction: in [0, 1].

    References:
        Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks".
    """
    return torch.where(torch.rand(tokens.shape, device=tokens.device) < fraction, logits.argmax(dim=-1), tokens)
