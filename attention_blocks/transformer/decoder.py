"""The Transformer decoder: its layer and its stack, whole sequences at once or step by step from a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

from torch import Tensor, nn

from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory
from attention_blocks.sequence.cache import Cache
from attention_blocks.sequence.cross_attention import CrossAttention
from attention_blocks.sequence.masked_self_attention import MaskedSelfAttention
from attention_blocks.sequence.masks import causal_mask, check_mask, check_polarity
from attention_blocks.transformer.encoder import check_context_dim, check_features, drop_path_rates
from attention_blocks.transformer.feed_forward import FeedForward
from attention_blocks.transformer.residual import Residual


class DecoderLayerOutput(NamedTuple):
    """What a decoder layer returns.

    Attributes:
        hidden: (B, T, D).
        self_weights: the map of the self-attention, (B, N, T, T) or (B, T, T); ``None`` unless it was asked for.
        cross_weights: the map of the cross-attention, (B, N, T, T_k) or (B, T, T_k); ``None`` unless it was asked for.
    """

    hidden: Tensor
    self_weights: Tensor | None
    cross_weights: Tensor | None


class DecoderLayerState(NamedTuple):
    """What a decoder layer knows between two steps.

    Attributes:
        past: the places decoded so far, as the self-attention projects them; of length 0 at the start.
        memory: the encoder's sequence, as the cross-attention projects it.
    """

    past: Memory
    memory: Memory


class DecoderOutput(NamedTuple):
    """What a decoder returns.

    Attributes:
        hidden: (B, T, D).
        self_weights: every layer's self-attention map; ``None`` unless they were asked for.
        cross_weights: every layer's cross-attention map; ``None`` unless they were asked for.
    """

    hidden: Tensor
    self_weights: tuple[Tensor, ...] | None
    cross_weights: tuple[Tensor, ...] | None


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and a feed-forward network, each with its norm and residual connection.

    ::

        norm_first=True    x = x + self_attention(norm(x))            norm_first=False    x = norm(x + …)
        (pre-norm)         x = x + cross_attention(norm(x), memory)   (post-norm)
                           x = x + feed_forward(norm(x))

    :meth:`start` and :meth:`step` decode piece by piece; the caller keeps the state, and what comes out equals what
    one call on the whole sequence gives.

    Args:
        dim: D.
        memory_dim: features of the encoder's sequence; ``dim`` when left out.
        self_attention: makes the self-attention, as ``self_attention(dim, dim)``; any block whose context has D
            features. One that is not a :class:`MaskedSelfAttention` is given a causal mask.
        cross_attention: makes the cross-attention, as ``cross_attention(dim, memory_dim)``; any block whose context
            has D features.
        feed_forward: makes the feed-forward network, as ``feed_forward(dim)``.
        norm: makes each of the three norms, as ``norm(dim)``.
        norm_first: norms stand at the entry of each branch (pre-norm), or behind each sum (post-norm).
        dropout: share of each branch's features dropped in training.
        drop_path: share of the rows of the batch that skip a branch in training.
        layer_scale: factor of each branch's features at first, learned from there; none when left out.

    Raises:
        ValueError: an attention's context has another size, a share lies outside [0, 1).

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
        """Lets each place look at those before it, then at the encoder's sequence, then think by itself.

        Args:
            x: (B, T, D).
            memory: the encoder's sequence, (B, T_k, memory_dim).
            mask: narrows the causal mask; boolean, True = may attend, broadcastable to (B, T, T).
            memory_mask: boolean, True = may attend, broadcastable to (B, T, T_k).
            need_weights: also return both attention maps.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: a shape does not fit, or a mask looks as if True meant "ignore".
        """
        check_polarity(mask, x.size(1))
        check_polarity(memory_mask, x.size(1))
        check_features("memory", memory, self.cross_attention.key_dim)
        projected = self.cross_attention.project(memory)
        return self._decode(x, None, projected, mask, memory_mask, need_weights=need_weights)[0]

    def start(self, memory: Tensor) -> DecoderLayerState:
        """Projects the encoder's sequence, once for all steps.

        Args:
            memory: (B, T_k, memory_dim).

        Returns:
            The state that the first step needs.

        Raises:
            ValueError: the shape does not fit.
        """
        check_features("memory", memory, self.cross_attention.key_dim)
        # Only the block knows the shape of its own Memory: one place is projected and cut off again.
        place = self.self_attention.project(memory.new_zeros(memory.size(0), 1, self.dim))
        past = Memory(place.key[..., :0, :], place.value[..., :0, :])
        # Heads that come out of one map lie interleaved; each step reads them all, faster where each is in one piece.
        projected = Memory(*(part.contiguous() for part in self.cross_attention.project(memory)))
        return DecoderLayerState(past, projected)

    def step(
        self,
        x: Tensor,
        state: DecoderLayerState,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        need_weights: bool = False,
    ) -> tuple[DecoderLayerOutput, DecoderLayerState]:
        """Decodes the next place, or the next few.

        A beam's K hypotheses of one sentence share its memory, which is not copied: ``x`` then has a row a hypothesis,
        (B * K, 1, D), as has ``state.past``, while ``state.memory`` stays at B.

        Args:
            x: what follows what the state holds, (B, T, D).
            state: what :meth:`start` or the last step returned.
            mask: boolean, True = may attend, broadcastable to (B, T, past + T).
            memory_mask: boolean, True = may attend, broadcastable to (B, T, T_k); to (B, K, T_k) with a beam.
            need_weights: also return both attention maps.

        Returns:
            The output, and the state for the next step.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: a shape does not fit.
        """
        output, past = self._decode(x, state.past, state.memory, mask, memory_mask, need_weights=need_weights)
        return output, DecoderLayerState(past, state.memory)

    def step_beams(
        self,
        x: Tensor,
        cache: Cache | None,
        memory: Memory,
        ancestry: Tensor | None,
        memory_mask: Tensor | None = None,
        *,
        offset: int,
        need_weights: bool = False,
    ) -> tuple[DecoderLayerOutput, Cache]:
        """Decodes the next place of K hypotheses of each sentence, which share the memory and one cache of pasts.

        Args:
            x: (B, K, D), one place of each hypothesis.
            cache: what the last step returned; ``None`` at the start.
            memory: the encoder's sequence, as :meth:`start` projects it.
            ancestry: which places of the cache are whose; see :meth:`MaskedSelfAttention.step_beams`.
            memory_mask: boolean, True = may attend, broadcastable to (B, K, T_k).
            offset: the position of the new places in their sentences.
            need_weights: also return both attention maps.

        Returns:
            The output, with K for T, and the cache for the next step.

        Raises:
            ValueError: :attr:`shares_past` is false, or a shape does not fit.
        """
        check_features("x", x, self.dim)
        attention = self.self_attention
        if not (isinstance(attention, MaskedSelfAttention) and attention.shares_past):
            raise ValueError("only a MaskedSelfAttention without window and score_bias shares its past; use step()")
        after: list[Cache] = []

        def look_back(query: Tensor) -> AttentionOutput:
            output, grown = attention.step_beams(query, cache, ancestry, offset=offset, need_weights=need_weights)
            after.append(grown)
            return output

        def look_up(query: Tensor) -> AttentionOutput:
            return self.cross_attention.attend_beams(
                query, memory, memory_mask, need_weights=need_weights, offset=offset
            )

        return self._through(x, look_back, look_up), after[0]

    @property
    def shares_past(self) -> bool:
        """Whether :meth:`step_beams` can be asked."""
        return isinstance(self.self_attention, MaskedSelfAttention) and self.self_attention.shares_past

    def _decode(
        self,
        x: Tensor,
        past: Memory | None,
        memory: Memory,
        mask: Tensor | None,
        memory_mask: Tensor | None,
        *,
        need_weights: bool,
    ) -> tuple[DecoderLayerOutput, Memory]:
        check_features("x", x, self.dim)
        offset = 0 if past is None else past.key.size(-2)
        mask = self._causal(mask, x, offset)
        after: list[Memory] = []

        def look_back(query: Tensor) -> AttentionOutput:
            own = self.self_attention.project(query, offset=offset)
            after.append(own if past is None else past.append(own))
            return self.self_attention.attend(query, after[0], mask, need_weights=need_weights, offset=offset)

        def look_up(query: Tensor) -> AttentionOutput:
            if query.size(0) != memory.key.size(0):
                return self._cross_attend_beams(query, memory, memory_mask, need_weights, offset)
            return self.cross_attention.attend(query, memory, memory_mask, need_weights=need_weights, offset=offset)

        return self._through(x, look_back, look_up), after[0]

    def _through(
        self,
        x: Tensor,
        look_back: Callable[[Tensor], AttentionOutput],
        look_up: Callable[[Tensor], AttentionOutput],
    ) -> DecoderLayerOutput:
        """The layer's three branches, whatever the two attentions look at."""
        pre, post = self.norm_first, not self.norm_first
        context, self_weights = look_back(self.self_attention_norm(x) if pre else x)
        x = self.self_attention_residual(x, context)
        x = self.self_attention_norm(x) if post else x
        context, cross_weights = look_up(self.cross_attention_norm(x) if pre else x)
        x = self.cross_attention_residual(x, context)
        x = self.cross_attention_norm(x) if post else x
        hidden = self.feed_forward(self.feed_forward_norm(x) if pre else x)
        x = self.feed_forward_residual(x, hidden)
        x = self.feed_forward_norm(x) if post else x
        return DecoderLayerOutput(x, self_weights, cross_weights)

    def _cross_attend_beams(
        self, query: Tensor, memory: Memory, mask: Tensor | None, need_weights: bool, offset: int
    ) -> AttentionOutput:
        sentences = memory.key.size(0)
        if query.size(0) % sentences or query.size(1) != 1:
            raise ValueError(
                f"x must have the rows of the memory, or one place for each of K hypotheses a row, (B * K, 1, D) with "
                f"B={sentences}; got {tuple(query.shape)}"
            )
        beams = query.view(sentences, -1, query.size(2))
        context, weights = self.cross_attention.attend_beams(
            beams, memory, mask, need_weights=need_weights, offset=offset
        )
        # One row a hypothesis again; the heads, where there are any, come before the hypotheses.
        if weights is not None:
            weights = weights.movedim(-2, 1).flatten(0, 1).unsqueeze(-2)
        return AttentionOutput(context.reshape(query.size(0), 1, -1), weights)

    def _causal(self, mask: Tensor | None, x: Tensor, offset: int) -> Tensor | None:
        # MaskedSelfAttention sees to it by itself, and the newest place alone may see everything.
        if isinstance(self.self_attention, MaskedSelfAttention) or x.size(1) == 1:
            return mask
        check_mask(mask, x.size(0), x.size(1), offset + x.size(1))
        causal = causal_mask(x.size(1), offset=offset, device=x.device)
        return causal if mask is None else mask & causal

    def extra_repr(self) -> str:
        """Names the place of the norms in the printed module."""
        return f"norm_first={self.norm_first}"


class TransformerDecoder(nn.Module):
    """Decoder layers one behind the other, and a norm at the end.

    Args:
        dim: D.
        depth: how many layers.
        memory_dim: features of the encoder's sequence; ``dim`` when left out.
        layer: makes each layer, as ``layer(dim, memory_dim=memory_dim, drop_path=rate)``; :class:`DecoderLayer`, or a
            ``functools.partial`` of it.
        drop_path: the last layer's share of skipped branches; the first layer's is 0, between them it rises linearly.
        norm: makes the norm at the end; a stack of post-norm layers has none, ``norm=None``.

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
        """Runs the layers; arguments as :meth:`DecoderLayer.forward`."""
        outputs = []
        for layer in self.layers:
            outputs.append(layer(x, memory, mask, memory_mask, need_weights=need_weights))
            x = outputs[-1].hidden
        return self._finish(outputs, need_weights=need_weights)

    def start(self, memory: Tensor) -> tuple[DecoderLayerState, ...]:
        """Projects the encoder's sequence for every layer, once for all steps; as :meth:`DecoderLayer.start`."""
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
        """Decodes the next place, or the next few, through every layer; as :meth:`DecoderLayer.step`."""
        outputs, states = [], []
        for layer, before in zip(self.layers, state, strict=True):
            output, after = cast(DecoderLayer, layer).step(x, before, mask, memory_mask, need_weights=need_weights)
            x = output.hidden
            outputs.append(output)
            states.append(after)
        return self._finish(outputs, need_weights=need_weights), tuple(states)

    @property
    def shares_past(self) -> bool:
        """Whether :meth:`step_beams` can be asked."""
        return all(cast(DecoderLayer, layer).shares_past for layer in self.layers)

    def step_beams(
        self,
        x: Tensor,
        caches: tuple[Cache, ...] | None,
        memories: tuple[Memory, ...],
        ancestry: Tensor | None,
        memory_mask: Tensor | None = None,
        *,
        offset: int,
        need_weights: bool = False,
    ) -> tuple[DecoderOutput, tuple[Cache, ...]]:
        """Decodes the next place of K hypotheses through every layer; as :meth:`DecoderLayer.step_beams`."""
        outputs, after = [], []
        for index, layer in enumerate(self.layers):
            output, cache = cast(DecoderLayer, layer).step_beams(
                x,
                None if caches is None else caches[index],
                memories[index],
                ancestry,
                memory_mask,
                offset=offset,
                need_weights=need_weights,
            )
            x = output.hidden
            outputs.append(output)
            after.append(cache)
        return self._finish(outputs, need_weights=need_weights), tuple(after)

    def _finish(self, outputs: list[DecoderLayerOutput], *, need_weights: bool) -> DecoderOutput:
        hidden, self_weights, cross_weights = zip(*outputs, strict=True)
        last = hidden[-1] if self.norm is None else self.norm(hidden[-1])
        return DecoderOutput(last, self_weights, cross_weights) if need_weights else DecoderOutput(last, None, None)
