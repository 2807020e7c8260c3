"""The text decoder of the Transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from attention_blocks import (
    Cache,
    DecoderLayer,
    DecoderLayerState,
    DecoderOutput,
    Memory,
    SinusoidalPosition,
    TransformerDecoder,
)
from attention_blocks.kernels import dropout
from lightning_modules.generation.decoder import DecodingState, StepOutput
from lightning_modules.plots.rollout import mean_map
from lightning_modules.text.text_decoder import Encoded, TextDecoder, embedding, output_map


class TransformerMemory(NamedTuple):
    """What a Transformer decoder keeps of each sentence, one row each.

    Attributes:
        layers: the source as each layer's cross-attention projects it.
        mask: True = may attend, (B, 1, T_k), or ``None``.
        caches: the pasts of all hypotheses side by side, for each layer; ``None`` at the start.
        position: how many tokens were read.
    """

    layers: tuple[Memory, ...]
    mask: Tensor | None
    caches: tuple[Cache, ...] | None
    position: int


# A beam soon forsakes most of what it tried; after so many steps the places that nobody looks back at are let go.
TIDY_EVERY = 6


def embed(tokens: Tensor, table: nn.Embedding, position: nn.Module, share: float, *, offset: int = 0) -> Tensor:
    """The paper's input: token vectors times the square root of D, positions added, dropout.

    Args:
        tokens: (B, T) int64.
        table: the token vectors, (V, D).
        position: adds the positions.
        share: of the features that is dropped.
        offset: position of the first token.
    """
    x = position(table(tokens) * table.embedding_dim**0.5, offset=offset)
    return dropout(x, share)


def xavier(layers: nn.Module) -> None:
    """Xavier's uniform for all linear maps, those of the feed-forward networks too, as the authors' code."""
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class TransformerTextDecoder(TextDecoder):
    """Embedding, positions, decoder layers, output map.

    Args:
        vocab_size: V.
        dim: D.
        depth: how many layers.
        memory_dim: D_k, features of each place of the source; ``dim`` when left out.
        layer: makes each layer, as ``layer(dim, memory_dim=memory_dim, drop_path=rate)``.
        position: makes the positions, as ``position(dim)``.
        dropout: share dropped of embeddings with positions.
        tie_embeddings: the output map has the embedding's weights.
        output_bias: whether the output map has a bias, which the paper's has not.

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
        # Layers that norm at their entry leave what they hand on without a norm.
        self.norm = nn.LayerNorm(dim) if cast(DecoderLayer, self.layers.layers[0]).norm_first else nn.Identity()
        self.output = output_map(dim, self.embedding, tied=tie_embeddings, bias=output_bias)

    def forward(self, tokens: Tensor, memory: Encoded) -> Tensor:
        """See :meth:`TextDecoder.forward`."""
        x = embed(tokens, self.embedding, self.position, self.dropout if self.training else 0.0)
        return self.norm(self.layers(x, memory.sequence, memory_mask=memory.mask).hidden)

    def start(self, memory: Encoded) -> DecodingState:
        """See :meth:`TextDecoder.start`."""
        states = self.layers.start(memory.sequence)
        # A mask that lets everything through would be looked through at every step and layer.
        mask = None if memory.mask is None or bool(memory.mask.all()) else memory.mask
        read = TransformerMemory(tuple(state.memory for state in states), mask, None, 0)
        if self.layers.shares_past:
            # Whose past each place of the caches is: (B K, places).
            return DecodingState(read, memory.sequence.new_zeros(len(memory.sequence), 0, dtype=torch.bool))
        return DecodingState(read, tuple(state.past for state in states))

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """See :meth:`TextDecoder.step`; where it looked is the mean over the heads of all layers."""
        memory = cast(TransformerMemory, state.memory)
        x = embed(tokens.reshape(-1, 1), self.embedding, self.position, 0.0, offset=memory.position)
        advance = self._advance_together if self.layers.shares_past else self._advance_apart
        output, after, hypotheses = advance(x, tokens.shape, memory, state.hypotheses, need_weights=need_weights)
        weights = None
        if output.cross_weights is not None:
            # No one layer tells it: what was read in the first need not be looked at again in the last.
            maps = [mean_map(layer) for layer in output.cross_weights]
            weights = torch.stack(maps).mean(dim=0).reshape(*tokens.shape, -1)
        logits = self.output(self.norm(output.hidden)).view(*tokens.shape, -1)
        return StepOutput(logits, DecodingState(after._replace(position=memory.position + 1), hypotheses), weights)

    def _advance_together(
        self, x: Tensor, shape: torch.Size, memory: TransformerMemory, ancestry: Tensor, *, need_weights: bool
    ) -> tuple[DecoderOutput, TransformerMemory, Tensor]:
        """Hypotheses stay where they are in the caches; what follows the beam is whose past is where."""
        batch, beams = shape
        if memory.caches is not None and beams > 1 and memory.position % TIDY_EVERY == 0:
            caches, ancestry = _without_the_forsaken(memory.caches, ancestry.view(batch, beams, -1))
            memory = memory._replace(caches=caches)
        new = torch.eye(beams, dtype=torch.bool, device=x.device).expand(batch, -1, -1).flatten(0, 1)
        ancestry = torch.cat([ancestry, new], dim=1)
        output, caches = self.layers.step_beams(
            x.view(batch, beams, -1),
            memory.caches,
            memory.layers,
            ancestry.view(batch, beams, -1) if beams > 1 else None,
            memory.mask,
            offset=memory.position,
            need_weights=need_weights,
        )
        return output, memory._replace(caches=caches), ancestry

    def _advance_apart(
        self, x: Tensor, shape: torch.Size, memory: TransformerMemory, pasts: tuple[Memory, ...], *, need_weights: bool
    ) -> tuple[DecoderOutput, TransformerMemory, tuple[Memory, ...]]:
        """Each hypothesis carries its own past, which the beam copies: any self-attention will do."""
        states = tuple(DecoderLayerState(past, layer) for past, layer in zip(pasts, memory.layers, strict=True))
        output, after = self.layers.step(x, states, memory_mask=memory.mask, need_weights=need_weights)
        return output, memory, tuple(one.past for one in after)


def _without_the_forsaken(caches: tuple[Cache, ...], ancestry: Tensor) -> tuple[tuple[Cache, ...], Tensor]:
    """The caches and the ancestry, (B K, places), of those places that are some hypothesis's past.

    Args:
        caches: of each layer.
        ancestry: (B, K, places).
    """
    alive = ancestry.any(dim=1)
    # Sentences with fewer of them keep some forsaken ones, which nobody looks at.
    most = int(alive.sum(dim=1).max())
    places = alive.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    ancestry = ancestry.gather(2, places[:, None].expand(-1, ancestry.size(1), -1))
    room = TIDY_EVERY * ancestry.size(1)
    return tuple(cache.select(places, room) for cache in caches), ancestry.flatten(0, 1)
