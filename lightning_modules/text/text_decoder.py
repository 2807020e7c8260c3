"""What every network that writes text shares: what it reads, and how it is asked for the next token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attention_blocks.kernels import Linear
from lightning_modules.generation.decoder import DecodingState, StepOutput


class Encoded(NamedTuple):
    """What a text decoder reads: a source sentence, or an image.

    Attributes:
        sequence: (B, T_k, D_k), the places that can be attended to.
        mask: boolean, True = may attend, (B, 1, T_k); ``None`` where every place is real.
        summary: (B, F), the whole in one vector, from which an RNN starts; ``None`` where nobody asks for it.
    """

    sequence: Tensor
    mask: Tensor | None
    summary: Tensor | None

    def repeat(self, times: int) -> Encoded:
        """Each row so many times, its copies next to each other."""
        mask, summary = (None if x is None else x.repeat_interleave(times, 0) for x in (self.mask, self.summary))
        return Encoded(self.sequence.repeat_interleave(times, 0), mask, summary)


class TextDecoder(nn.Module):
    """Base of every network that writes text token by token; a :class:`~lightning_modules.generation.decoder.Decoder`.

    ::

        training    tokens (B, T), Encoded ──forward──▶ features (B, T, R) ──output──▶ logits (B, T, V)
        generation  Encoded ──start──▶ state ──step (one token each)──▶ logits, state ──step──▶ …

    Both say the same: the logits of a step equal those of the whole at its place. Features and logits are apart, so
    that a loss need not compute logits of padding, V being large.

    Attributes:
        output: from features to logits, (…, R) to (…, V).
        attends: whether a step can tell where it looked; True unless a decoder has no attention.
    """

    output: nn.Linear
    attends: bool = True

    def forward(self, tokens: Tensor, memory: Encoded) -> Tensor:
        """The features from which each place's next token is told.

        Args:
            tokens: (B, T) int64, the sentence from its first token on.
            memory: what is written about.

        Returns:
            (B, T, R).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(tokens, memory)")

    def start(self, memory: Encoded) -> DecodingState:
        """The state before the first token: what of the memory is projected, is projected here, once."""
        raise NotImplementedError(f"{type(self).__name__} must define start(memory)")

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """Logits of the token after each hypothesis's last one.

        Args:
            tokens: (B, K) int64, the last token of each hypothesis.
            state: what :meth:`start` or the last step returned.
            need_weights: also return where each hypothesis looked.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(tokens, state, *, need_weights=False)")


def embedding(vocab_size: int, dim: int) -> nn.Embedding:
    """Token vectors whose features have a variance of 1 / D, so that tied logits and scaled inputs have one near 1."""
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be 2 or more, got {vocab_size}")
    table = nn.Embedding(vocab_size, dim)
    nn.init.normal_(table.weight, std=dim**-0.5)
    return table


def output_map(features: int, table: nn.Embedding, *, tied: bool, bias: bool = True) -> nn.Linear:
    """From features to logits: a map of its own, or the embedding's very weights.

    Args:
        features: R.
        table: the embedding of the tokens that are written, (V, D).
        tied: share its weights.
        bias: whether each token has one.

    Raises:
        ValueError: tied, and R is not D.
    """
    linear = Linear(features, table.num_embeddings, bias=bias)
    if bias:
        nn.init.zeros_(linear.bias)
    if tied:
        if features != table.embedding_dim:
            raise ValueError(
                f"a tied output map reads {table.embedding_dim} features, those of the embedding, but gets {features}; "
                "make the sizes equal, or do not tie"
            )
        linear.weight = table.weight
    else:
        nn.init.xavier_uniform_(linear.weight)
    return linear


def sampled(tokens: Tensor, logits: Tensor, share: float) -> Tensor:
    """Scheduled sampling: each token is replaced, with a chance of ``share``, by the likeliest one.

    Args:
        tokens: (B, 1), the true ones.
        logits: (B, 1, V), of the same place.
        share: from 0 to 1.

    References:
        Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks".
    """
    return torch.where(torch.rand(tokens.shape, device=tokens.device) < share, logits.argmax(dim=-1), tokens)
