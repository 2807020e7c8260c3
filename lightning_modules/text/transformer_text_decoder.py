"""Transformer text decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from attention_blocks import (
    Cache,
    DecoderLayer,
    Memory,
    SinusoidalPosition,
    TransformerDecoder,
)
from attention_blocks.kernels import dropout
from lightning_modules.generation.decoder import DecodingState, StepOutput
from lightning_modules.plots.rollout import mean_over_heads
from lightning_modules.text.text_decoder import Encoded, TextDecoder, embedding, output_layer

# Hypotheses that a beam has dropped leave unused entries in the caches; they are dropped every so many steps.
PRUNE_EVERY = 6


class TransformerMemory(NamedTuple):
    """State of a Transformer decoder that all hypotheses of a sequence share; tensors with B rows.

    Attributes:
        layers: the source, projected by the cross-attention of each layer.
        mask: boolean, True = may attend, (B, 1, T_k), or ``None``.
        caches: for each layer whose hypotheses share their past, the cache; otherwise ``None``, as at the start.
        position: number of tokens read so far.
    """

    layers: tuple[Memory, ...]
    mask: Tensor | None
    caches: tuple[Cache | None, ...]
    position: int


class TransformerHypotheses(NamedTuple):
    """State of a Transformer decoder that each hypothesis has for itself; tensors with B * K rows.

    Attributes:
        ancestry: (B * K, S), which of the S cache entries are the hypothesis's past.
        pasts: for each layer whose hypotheses do not share their past, the past; otherwise ``None``, as at the start.
    """

    ancestry: Tensor
    pasts: tuple[Memory | None, ...]


def embed(tokens: Tensor, table: nn.Embedding, position: nn.Module, rate: float, *, offset: int = 0) -> Tensor:
    """Input of the first layer: token vectors times the square root of D, plus positions, with dropout.

    Args:
        tokens: (B, T) int64.
        table: the token vectors, (V, D).
        position: adds the positions.
        rate: fraction of the features that is dropped.
        offset: position of the first token.

    Returns:
        (B, T, D).
    """
    x = position(table(tokens) * table.embedding_dim**0.5, offset=offset)
    return dropout(x, rate)


class TransformerTextDecoder(TextDecoder):
    """Transformer text decoder: embedding, positions, decoder layers and output projection.

    Args:
        vocab_size: V.
        dim: D.
        depth: number of layers.
        memory_dim: D_k, features of the source; defaults to ``dim``.
        layer: creates each layer, called as ``layer(dim, memory_dim=memory_dim, drop_path=rate)``.
        position: creates the positions, called as ``position(dim)``.
        dropout: fraction of the embedded features (positions included) dropped in training.
        tie_embeddings: the output projection has the weights of the embedding.
        output_bias: whether the output projection has a bias; the paper's does not.

    Raises:
        ValueError: ``dropout`` lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need"; Press and Wolf 2017, "Using the Output Embedding to Improve
        Language Models" (tying).

    Example:
        >>> import torch
        >>> decoder = TransformerTextDecoder(10, dim=16, depth=2)
        >>> memory = Encoded(torch.randn(2, 5, 16), None, None)
        >>> decoder.output(decoder(torch.tensor([[2, 4, 5], [2, 7, 1]]), memory)).shape
        torch.Size([2, 3, 10])
        >>> decoder.step(torch.tensor([[2], [2]]), decoder.start(memory)).logits.shape
        torch.Size([2, 1, 10])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        dim: int = 512,
        depth: int = 6,
        memory_dim: int | None = None,
        layer: Callable[..., DecoderLayer] = DecoderLayer,
        position: Callable[[int], nn.Module] = SinusoidalPosition,
        dropout: float = 0.1,
        tie_embeddings: bool = True,
        output_bias: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.dropout = dropout
        self.embedding = embedding(vocab_size, dim)
        self.position = position(dim)
        self.layers = TransformerDecoder(dim, depth, memory_dim, layer=layer, norm=None)
        # The output of pre-norm layers is not normalised.
        self.norm = nn.LayerNorm(dim) if cast(DecoderLayer, self.layers.layers[0]).norm_first else nn.Identity()
        self.output = output_layer(dim, self.embedding, tied=tie_embeddings, bias=output_bias)

    def forward(self, tokens: Tensor, memory: Encoded) -> Tensor:
        """See :meth:`TextDecoder.forward`."""
        x = embed(tokens, self.embedding, self.position, self.dropout if self.training else 0.0)
        return self.norm(self.layers(x, memory.sequence, memory_mask=memory.mask).hidden)

    def start(self, memory: Encoded) -> DecodingState:
        """See :meth:`TextDecoder.start`."""
        states = self.layers.start(memory.sequence)
        # Applying a mask that allows everything would cost time at every step and layer.
        mask = None if memory.mask is None or bool(memory.mask.all()) else memory.mask
        nothing = (None,) * len(states)
        ancestry = memory.sequence.new_zeros(len(memory.sequence), 0, dtype=torch.bool)  # (B, 0)
        return DecodingState(
            TransformerMemory(tuple(state.memory for state in states), mask, nothing, 0),
            TransformerHypotheses(ancestry, nothing),
        )

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """See :meth:`TextDecoder.step`; the weights are averaged over the heads and layers."""
        memory = cast(TransformerMemory, state.memory)
        ancestry, pasts = cast(TransformerHypotheses, state.hypotheses)
        batch, beams = tokens.shape
        x = embed(tokens.reshape(-1, 1), self.embedding, self.position, 0.0, offset=memory.position)  # (B * K, 1, D)
        ancestry, caches = ancestry.view(batch, beams, ancestry.size(1)), memory.caches  # (B, K, S)
        if beams > 1 and memory.position and memory.position % PRUNE_EVERY == 0:
            caches, ancestry = _pruned(caches, ancestry)
        new = torch.eye(beams, dtype=torch.bool, device=x.device).expand(batch, -1, -1)
        ancestry = torch.cat([ancestry, new], dim=2)  # (B, K, S + K)
        output, after = self.layers.step_beams(
            x.view(batch, beams, -1),
            [past if cache is None else cache for cache, past in zip(caches, pasts, strict=True)],
            memory.layers,
            ancestry if beams > 1 else None,
            memory.mask,
            offset=memory.position,
            need_weights=need_weights,
        )
        weights = None
        if output.cross_weights is not None:
            # No single layer stands for all: information read in the first is not read again in the last.
            maps = [mean_over_heads(layer) for layer in output.cross_weights]
            weights = torch.stack(maps).mean(dim=0)  # (B, K, T_k)
        caches = tuple(past if isinstance(past, Cache) else None for past in after)
        pasts = tuple(None if isinstance(past, Cache) else past for past in after)
        state = DecodingState(
            memory._replace(caches=caches, position=memory.position + 1),
            TransformerHypotheses(ancestry.flatten(0, 1), pasts),
        )
        return StepOutput(self.output(self.norm(output.hidden)), state, weights)


def _pruned(caches: tuple[Cache | None, ...], ancestry: Tensor) -> tuple[tuple[Cache | None, ...], Tensor]:
    """Drops cache entries that no live hypothesis uses.

    Args:
        caches: cache of each layer, or ``None``.
        ancestry: (B, K, S).

    Returns:
        The caches, with room for the entries until the next time, and the ancestry of the entries that are left.
    """
    used = ancestry.any(dim=1)  # (B, S)
    # Sequences that use fewer entries than the others keep some unused ones, which no hypothesis attends to.
    most = int(used.sum(dim=1).max())
    entries = used.byte().argsort(dim=1, descending=True, stable=True)[:, :most]  # (B, S')
    ancestry = ancestry.gather(2, entries[:, None].expand(-1, ancestry.size(1), -1))  # (B, K, S')
    room = PRUNE_EVERY * ancestry.size(1)
    return tuple(None if cache is None else cache.select(entries, room) for cache in caches), ancestry
