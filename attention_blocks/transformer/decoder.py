"""Transformer decoder: the layer and the stack, for whole sequences or step by step with a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar, cast

from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory, Past
from attention_blocks.sequence.cache import Cache
from attention_blocks.sequence.cross_attention import CrossAttention
from attention_blocks.sequence.masked_self_attention import MaskedSelfAttention
from attention_blocks.sequence.masks import causal_mask, check_mask
from attention_blocks.transformer.encoder import check_context_dim, check_features, check_same_batch, drop_path_rates
from attention_blocks.transformer.feed_forward import FeedForward
from attention_blocks.transformer.residual import Residual
from attention_blocks.weights import Layout

Kept = TypeVar("Kept")


class DecoderLayerOutput(NamedTuple):
    """Output of a decoder layer.

    Attributes:
        hidden: (B, T, D).
        self_weights: attention map of the self-attention, (B, N, T, T) or (B, T, T); ``None`` unless
            ``need_weights``.
        cross_weights: attention map of the cross-attention, (B, N, T, T_k) or (B, T, T_k); ``None`` unless
            ``need_weights``.
    """

    hidden: Tensor
    self_weights: Tensor | None
    cross_weights: Tensor | None


class DecoderLayerState(NamedTuple):
    """State of a decoder layer between two steps.

    Attributes:
        past: the positions decoded so far, projected by the self-attention; ``None`` at the start.
        memory: the encoder's sequence, projected by the cross-attention.
    """

    past: Past | None
    memory: Memory


class DecoderOutput(NamedTuple):
    """Output of a decoder.

    Attributes:
        hidden: (B, T, D).
        self_weights: self-attention map of each layer; ``None`` unless ``need_weights``.
        cross_weights: cross-attention map of each layer; ``None`` unless ``need_weights``.
    """

    hidden: Tensor
    self_weights: tuple[Tensor, ...] | None
    cross_weights: tuple[Tensor, ...] | None


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and a feed-forward network, each with a norm and a residual connection.

    ::

        norm_first=True    x = x + self_attention(norm(x))            norm_first=False    x = norm(x + …)
        (pre-norm)         x = x + cross_attention(norm(x), memory)   (post-norm)
                           x = x + feed_forward(norm(x))

    :meth:`start` and :meth:`step` decode step by step, :meth:`step_beams` several hypotheses per sequence. The caller
    keeps the state; the steps give the same result as one call on the whole sequence.

    Args:
        dim: D.
        memory_dim: features of the encoder's sequence; defaults to ``dim``.
        self_attention: creates the self-attention, called as ``self_attention(dim, dim)``; any block whose context
            has D features. One that is not a :class:`MaskedSelfAttention` is given a causal mask.
        cross_attention: creates the cross-attention, called as ``cross_attention(dim, memory_dim)``; any block whose
            context has D features.
        feed_forward: creates the feed-forward network, called as ``feed_forward(dim)``.
        norm: creates each of the three norms, called as ``norm(dim)``.
        norm_first: the norm comes first in each branch (pre-norm) or after each sum (post-norm).
        dropout: fraction of each branch's features dropped in training.
        drop_path: fraction of the rows of the batch that skip a branch in training.
        layer_scale: initial value of a learned factor for each feature of each branch; no factor if omitted.

    Raises:
        ValueError: an attention's context has another size, or a rate lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need" (post-norm);
        Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture" (pre-norm).

    Example:
        >>> import torch
        >>> layer = DecoderLayer(64, memory_dim=32)
        >>> x, memory = torch.randn(2, 3, 64), torch.randn(2, 5, 32)
        >>> state, steps = layer.start(memory), []
        >>> for token in x.split(1, dim=1):
        ...     output, state = layer.step(token, state)
        ...     steps.append(output.hidden)
        >>> torch.allclose(torch.cat(steps, dim=1), layer(x, memory).hidden, atol=1e-5)
        True
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        "torch": {
            "self_attention": "self_attn",
            "self_attention_norm": "norm1",
            "cross_attention": "multihead_attn",
            "cross_attention_norm": "norm2",
            "feed_forward.up_proj": "linear1",
            "feed_forward.down_proj": "linear2",
            "feed_forward_norm": "norm3",
        }
    }

    def __init__(
        self,
        dim: int,
        memory_dim: int | None = None,
        *,
        self_attention: Callable[[int, int], Attention] = MaskedSelfAttention,
        cross_attention: Callable[[int, int], Attention] = CrossAttention,
        feed_forward: Callable[[int], nn.Module] = FeedForward,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        norm_first: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.norm_first = norm_first
        self.self_attention_norm = norm(dim)
        self.self_attention = self_attention(dim, dim)
        self.self_attention_residual = Residual(dim, dropout=dropout, drop_path=drop_path, layer_scale=layer_scale)
        self.cross_attention_norm = norm(dim)
        self.cross_attention = cross_attention(dim, dim if memory_dim is None else memory_dim)
        self.cross_attention_residual = Residual(dim, dropout=dropout, drop_path=drop_path, layer_scale=layer_scale)
        self.feed_forward_norm = norm(dim)
        self.feed_forward = feed_forward(dim)
        self.feed_forward_residual = Residual(dim, dropout=dropout, drop_path=drop_path, layer_scale=layer_scale)
        check_context_dim("self_attention", self.self_attention, dim)
        check_context_dim("cross_attention", self.cross_attention, dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        need_weights: bool = False,
    ) -> DecoderLayerOutput:
        """Applies causal self-attention, cross-attention over the memory, and the feed-forward network.

        Args:
            x: (B, T, D).
            memory: the encoder's sequence, (B, T_k, memory_dim).
            mask: restricts the causal mask further; boolean, True = may attend, broadcastable to (B, T, T).
            memory_mask: boolean, True = may attend, broadcastable to (B, T, T_k).
            need_weights: also return both attention maps.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: a shape does not fit, or x and memory differ in batch size.
        """
        check_features("x", x, self.dim)
        check_features("memory", memory, self.cross_attention.key_dim)
        check_same_batch("x", x, "memory", memory)
        causal = self._causal(mask, x, 0)

        def self_attend(query: Tensor) -> tuple[AttentionOutput, None]:
            return self.self_attention(query, query, mask=causal, need_weights=need_weights), None

        def cross_attend(query: Tensor) -> AttentionOutput:
            return self.cross_attention(query, memory, mask=memory_mask, need_weights=need_weights)

        return self._apply_branches(x, self_attend, cross_attend)[0]

    def start(self, memory: Tensor) -> DecoderLayerState:
        """Projects the encoder's sequence, once for all steps.

        Args:
            memory: (B, T_k, memory_dim).

        Returns:
            The state for the first step.

        Raises:
            ValueError: the shape does not fit.
        """
        check_features("memory", memory, self.cross_attention.key_dim)
        # Heads split off one projection are strided views; every step reads them, which is faster when contiguous.
        projected = Memory(*(part.contiguous() for part in self.cross_attention.project(memory)))
        return DecoderLayerState(None, projected)

    def step(
        self,
        x: Tensor,
        state: DecoderLayerState,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        need_weights: bool = False,
    ) -> tuple[DecoderLayerOutput, DecoderLayerState]:
        """Decodes the next position, or the next few; for several hypotheses per sequence see :meth:`step_beams`.

        Args:
            x: the positions that follow those in the state, (B, T, D).
            state: returned by :meth:`start` or by the previous step.
            mask: boolean, True = may attend, broadcastable to (B, T, T') with all T' positions up to the last of x.
            memory_mask: boolean, True = may attend, broadcastable to (B, T, T_k).
            need_weights: also return both attention maps.

        Returns:
            The output, and the state for the next step.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: a shape does not fit, or x and the state differ in batch size.
        """
        past, memory = state
        check_features("x", x, self.dim)
        check_same_batch("x", x, "memory", memory.key)
        if past is not None:
            check_same_batch("x", x, "past", past.key)
        offset = 0 if past is None else past.position
        causal = self._causal(mask, x, offset)

        def self_attend(query: Tensor) -> tuple[AttentionOutput, Memory]:
            own = self.self_attention.project(query, offset=offset)
            grown = own if past is None else Memory(past.key, past.value).append(own)
            held = self._held(grown, offset + x.size(1))
            return self.self_attention(query, held, mask=causal, need_weights=need_weights, offset=offset), grown

        def cross_attend(query: Tensor) -> AttentionOutput:
            return self.cross_attention(query, memory, mask=memory_mask, need_weights=need_weights, offset=offset)

        output, grown = self._apply_branches(x, self_attend, cross_attend)
        return output, DecoderLayerState(Past(*self._kept(grown), offset + x.size(1)), memory)

    @property
    def shares_past(self) -> bool:
        """Whether :meth:`step_beams` keeps the pasts of all hypotheses of a sequence in one :class:`Cache`."""
        return isinstance(self.self_attention, MaskedSelfAttention) and self.self_attention.shares_past

    def step_beams(
        self,
        x: Tensor,
        past: Cache | Memory | None,
        memory: Memory,
        ancestry: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        offset: int,
        need_weights: bool = False,
    ) -> tuple[DecoderLayerOutput, Cache | Memory]:
        """Decodes the next position of K hypotheses per sequence, which share the memory.

        Where :attr:`shares_past` is true, the pasts of all hypotheses lie in one :class:`Cache` that is never
        reordered; ``ancestry`` says which entries belong to which hypothesis. With any other self-attention the past
        is a :class:`Memory` with one row per hypothesis, and the caller reorders its rows when the beam does.

        Args:
            x: (B, K, D), the next position of each hypothesis.
            past: returned by the previous step; ``None`` at the start.
            memory: the encoder's sequence, as projected by :meth:`start`, with B rows.
            ancestry: boolean, (B, K, S + K), see :meth:`MaskedSelfAttention.step_beams`; used only with a
                :class:`Cache`.
            memory_mask: boolean, True = may attend, broadcastable to (B, K, T_k).
            offset: position of x in its sequences.
            need_weights: also return both attention maps.

        Returns:
            The output, with K in place of T, and the past for the next step: a :class:`Cache` with B rows, or a
            :class:`Memory` with B * K rows, those of a sequence next to each other.

        Raises:
            TypeError: ``past`` is a :class:`Memory` where a :class:`Cache` is needed, or the other way round.
            ValueError: a shape does not fit.
        """
        check_features("x", x, self.dim)
        check_same_batch("x", x, "memory", memory.key)
        kind = Cache if self.shares_past else Memory
        if past is not None and not isinstance(past, kind):
            raise TypeError(
                f"past must be a {kind.__name__} or None for this self_attention, a "
                f"{type(self.self_attention).__name__}, got a {type(past).__name__}; pass what the last step returned"
            )

        def self_attend(query: Tensor) -> tuple[AttentionOutput, Cache | Memory]:
            return self._self_attend_beams(query, past, ancestry, offset=offset, need_weights=need_weights)

        def cross_attend(query: Tensor) -> AttentionOutput:
            return self.cross_attention.attend_beams(
                query, memory, memory_mask, need_weights=need_weights, offset=offset
            )

        return self._apply_branches(x, self_attend, cross_attend)

    def _self_attend_beams(
        self,
        query: Tensor,
        past: Cache | Memory | None,
        ancestry: Tensor | None,
        *,
        offset: int,
        need_weights: bool,
    ) -> tuple[AttentionOutput, Cache | Memory]:
        batch, beams, dim = query.shape
        attention = self.self_attention
        if isinstance(attention, MaskedSelfAttention) and not isinstance(past, Memory) and attention.shares_past:
            if past is not None:
                check_same_batch("x", query, "past", past.key)
            return attention.step_beams(query, past, ancestry, offset=offset, need_weights=need_weights)
        rows = query.reshape(batch * beams, 1, dim)  # (B * K, 1, D)
        grown = attention.project(rows, offset=offset)
        if isinstance(past, Memory):
            window = attention.window if isinstance(attention, MaskedSelfAttention) else None
            length = offset if window is None else min(offset, window - 1)
            if past.key.size(0) != rows.size(0) or past.key.size(-2) != length:
                raise ValueError(
                    f"past must hold B * K = {rows.size(0)} rows of {length} positions, got a key of shape "
                    f"{tuple(past.key.shape)}; reorder its rows as the beam does, and pass the position of x as offset"
                )
            grown = past.append(grown)
        held = self._held(grown, offset + 1)
        context, weights = attention(rows, held, need_weights=need_weights, offset=offset)
        if weights is not None:  # (B * K, N, 1, S) to (B, N, K, S), or (B * K, 1, S) to (B, K, S)
            weights = weights.squeeze(-2)
            weights = weights.view(batch, beams, *weights.shape[1:]).transpose(1, -2)
        return AttentionOutput(context.view(batch, beams, -1), weights), self._kept(grown)

    def _held(self, memory: Memory, position: int) -> Memory:
        # A Past has what a Memory has; other attentions hold the whole past and need not know of it.
        masked = isinstance(self.self_attention, MaskedSelfAttention)
        return cast(Memory, Past(*memory, position)) if masked else memory

    def _kept(self, memory: Memory) -> Memory:
        return self.self_attention.kept(memory) if isinstance(self.self_attention, MaskedSelfAttention) else memory

    def _apply_branches(
        self,
        x: Tensor,
        self_attend: Callable[[Tensor], tuple[AttentionOutput, Kept]],
        cross_attend: Callable[[Tensor], AttentionOutput],
    ) -> tuple[DecoderLayerOutput, Kept]:
        """Applies the three branches with their norms and residual connections."""
        pre, post = self.norm_first, not self.norm_first
        (context, self_weights), past = self_attend(self.self_attention_norm(x) if pre else x)
        x = self.self_attention_residual(x, context)
        x = self.self_attention_norm(x) if post else x
        context, cross_weights = cross_attend(self.cross_attention_norm(x) if pre else x)
        x = self.cross_attention_residual(x, context)
        x = self.cross_attention_norm(x) if post else x
        hidden = self.feed_forward(self.feed_forward_norm(x) if pre else x)
        x = self.feed_forward_residual(x, hidden)
        x = self.feed_forward_norm(x) if post else x
        return DecoderLayerOutput(x, self_weights, cross_weights), past

    def _causal(self, mask: Tensor | None, x: Tensor, offset: int) -> Tensor | None:
        # MaskedSelfAttention is causal by itself.
        if isinstance(self.self_attention, MaskedSelfAttention):
            return mask
        return _restricted(mask, x, offset, getattr(self.self_attention, "num_heads", None))

    def extra_repr(self) -> str:
        """Shows norm_first in the printed module."""
        return f"norm_first={self.norm_first}"


@leaf
def _restricted(mask: Tensor | None, x: Tensor, offset: int, num_heads: int | None) -> Tensor | None:
    """The mask, without later positions, for an attention that is not causal by itself."""
    if x.size(1) == 1:  # the last position alone may attend to all others
        return mask
    check_mask(mask, x.size(0), x.size(1), offset + x.size(1), num_heads)
    causal = causal_mask(x.size(1), offset=offset, device=x.device)
    return causal if mask is None else mask & causal


class TransformerDecoder(nn.Module):
    """Stack of decoder layers with a final norm.

    Args:
        dim: D.
        depth: number of layers.
        memory_dim: features of the encoder's sequence; defaults to ``dim``.
        layer: creates each layer, called as ``layer(dim, memory_dim=memory_dim, drop_path=rate)``;
            :class:`DecoderLayer`, or a ``functools.partial`` of it.
        drop_path: rate of the last layer; the rates rise linearly from 0 in the first layer.
        norm: creates the final norm; ``None`` for a stack of post-norm layers, which needs none.

    Raises:
        ValueError: ``depth`` is not positive, ``drop_path`` lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need"; Huang et al. 2016, "Deep Networks with Stochastic Depth".

    Example:
        >>> import torch
        >>> decoder = TransformerDecoder(64, depth=2, memory_dim=32)
        >>> memory = torch.randn(2, 5, 32)
        >>> decoder(torch.randn(2, 3, 64), memory).hidden.shape
        torch.Size([2, 3, 64])
        >>> output, state = decoder.step(torch.randn(2, 1, 64), decoder.start(memory))
        >>> output.hidden.shape, len(state)
        (torch.Size([2, 1, 64]), 2)
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        memory_dim: int | None = None,
        *,
        layer: Callable[..., DecoderLayer] = DecoderLayer,
        drop_path: float = 0.0,
        norm: Callable[[int], nn.Module] | None = nn.LayerNorm,
    ) -> None:
        super().__init__()
        rates = drop_path_rates(depth, drop_path)
        self.layers = nn.ModuleList(layer(dim, memory_dim=memory_dim, drop_path=rate) for rate in rates)
        self.norm = None if norm is None else norm(dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        need_weights: bool = False,
    ) -> DecoderOutput:
        """Applies the layers; arguments as for :meth:`DecoderLayer.forward`."""
        outputs = []
        for layer in self.layers:
            outputs.append(layer(x, memory, mask, memory_mask, need_weights=need_weights))
            x = outputs[-1].hidden
        return self._finish(outputs, need_weights=need_weights)

    def start(self, memory: Tensor) -> tuple[DecoderLayerState, ...]:
        """Projects the encoder's sequence for every layer, once for all steps; see :meth:`DecoderLayer.start`."""
        return tuple(cast(DecoderLayer, layer).start(memory) for layer in self.layers)

    def step(
        self,
        x: Tensor,
        state: tuple[DecoderLayerState, ...],
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        need_weights: bool = False,
    ) -> tuple[DecoderOutput, tuple[DecoderLayerState, ...]]:
        """Decodes the next position, or the next few, through every layer; see :meth:`DecoderLayer.step`."""
        outputs, states = [], []
        for layer, before in zip(self.layers, state, strict=True):
            output, after = cast(DecoderLayer, layer).step(x, before, mask, memory_mask, need_weights=need_weights)
            x = output.hidden
            outputs.append(output)
            states.append(after)
        return self._finish(outputs, need_weights=need_weights), tuple(states)

    def step_beams(
        self,
        x: Tensor,
        pasts: Sequence[Cache | Memory | None] | None,
        memories: Sequence[Memory],
        ancestry: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        offset: int,
        need_weights: bool = False,
    ) -> tuple[DecoderOutput, tuple[Cache | Memory, ...]]:
        """Decodes the next position of K hypotheses per sequence through every layer.

        Arguments as for :meth:`DecoderLayer.step_beams`, with one past and one memory per layer.
        """
        outputs, grown = [], []
        pasts = [None] * len(self.layers) if pasts is None else pasts
        for layer, past, memory in zip(self.layers, pasts, memories, strict=True):
            output, after = cast(DecoderLayer, layer).step_beams(
                x, past, memory, ancestry, memory_mask, offset=offset, need_weights=need_weights
            )
            x = output.hidden
            outputs.append(output)
            grown.append(after)
        return self._finish(outputs, need_weights=need_weights), tuple(grown)

    def _finish(self, outputs: list[DecoderLayerOutput], *, need_weights: bool) -> DecoderOutput:
        hidden, self_weights, cross_weights = zip(*outputs, strict=True)
        last = hidden[-1] if self.norm is None else self.norm(hidden[-1])
        return DecoderOutput(last, self_weights, cross_weights) if need_weights else DecoderOutput(last, None, None)
