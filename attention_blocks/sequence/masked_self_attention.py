"""Causal multi-head self-attention with a cache for decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.sequence.attention import AttentionOutput, Memory, Past, check_attend
from attention_blocks.sequence.cache import Cache
from attention_blocks.sequence.masks import check_mask, window_mask
from attention_blocks.sequence.self_attention import SelfAttention


class MaskedSelfAttention(SelfAttention):
    """Causal multi-head self-attention, over all earlier positions or over a sliding window.

    ::

        window = None   ■ · · ·        window = 2   ■ · · ·
                        ■ ■ · ·                     ■ ■ · ·
                        ■ ■ ■ ·                     · ■ ■ ·
                        ■ ■ ■ ■                     · · ■ ■

    A mask restricts the causal one further. :meth:`step` decodes one token or a few, from a cache that the caller
    keeps, and gives the same result as one call on the whole sequence. With a window the cache holds no more than the
    window.

    Args:
        query_dim: D, the feature size of the sequence.
        key_dim: defaults to ``query_dim``.
        num_heads: this and all following arguments but the last as in :class:`MultiHeadAttention`.
        num_kv_heads: number of heads of keys and values; fewer make the cache smaller.
        head_dim: feature size of a head.
        bias: whether the four linear layers have a bias.
        dropout: fraction of the weights dropped in training.
        norm: creates the norm of query and key heads.
        rotary: creates rotary positions.
        score_bias: creates the bias added to the scores.
        window: number of positions that each position attends to, including itself; defaults to all up to itself.

    Raises:
        ValueError: a window below 1, and as :class:`MultiHeadAttention`.

    References:
        Vaswani et al. 2017, "Attention Is All You Need"; Beltagy et al. 2020, "Longformer" (window).

    Example:
        >>> import torch
        >>> attention = MaskedSelfAttention(64, num_heads=4)
        >>> x = torch.randn(2, 3, 64)
        >>> cache, steps = None, []
        >>> for token in x.split(1, dim=1):
        ...     (context, _), cache = attention.step(token, cache)
        ...     steps.append(context)
        >>> torch.allclose(torch.cat(steps, dim=1), attention(x).context, atol=1e-5)
        True
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int | None = None,
        *,
        num_heads: int = 8,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
        rotary: Callable[[int], nn.Module] | None = None,
        score_bias: Callable[[int], nn.Module] | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(
            query_dim,
            key_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            bias=bias,
            dropout=dropout,
            norm=norm,
            rotary=rotary,
            score_bias=score_bias,
        )
        if window is not None and window < 1:
            raise ValueError(f"window counts positions, including the own one, and must be 1 or more, got {window}")
        self.window = window

    @property
    def uses_positions(self) -> bool:
        """True: later positions are masked."""
        return True

    def attend(
        self,
        query: Tensor,
        memory: Memory | Past,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """See :meth:`Attention.attend`; query t is at position ``offset + t`` and attends to the keys up to it.

        A :class:`Past` holds the last keys of its sequence; the mask may have a column for each of them, or for all.
        """
        mask = _last_columns(mask, memory)
        sizes = (self.num_kv_heads, self.head_dim)
        mask = check_attend(query, memory, mask, self.query_dim, key_sizes=sizes, num_heads=self.num_heads)
        dropped = _dropped(memory)
        mask, causal = _causal(query, memory.key, mask, self.window, offset - dropped)
        return self._attend(
            query, memory, mask, need_weights=need_weights, offset=offset, dropped=dropped, causal=causal
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor | Memory | Past | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """See :meth:`SelfAttention.forward`; no position attends to later ones."""
        mask = _last_columns(mask, key)
        # A Past has what a Memory has.
        return super().forward(query, cast(Memory, key), value, mask, need_weights=need_weights, offset=offset)

    def kept(self, memory: Memory) -> Memory:
        """The part of a memory that later positions can attend to: its last ``window - 1`` keys, or all."""
        if self.window is None:
            return memory
        first = max(0, memory.key.size(-2) - (self.window - 1))
        # Copied, since a view would hold the whole memory.
        return memory if first == 0 else Memory(*(part[..., first:, :].clone() for part in memory))

    def step(
        self, query: Tensor, past: Past | None = None, mask: Tensor | None = None, *, need_weights: bool = False
    ) -> tuple[AttentionOutput, Past]:
        """Decodes the next token, or the next few.

        Args:
            query: the next positions, (B, T_q, D).
            past: returned by the previous step; ``None`` at the start.
            mask: boolean, True = may attend, broadcastable to (B, T_q, past.position + T_q).
            need_weights: also return the attention map, (B, N, T_q, T_k), over the positions in the past and the new
                ones.

        Returns:
            The output, and the past for the next step.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: a shape does not fit.
        """
        offset = 0 if past is None else past.position
        memory = self.project(query, offset=offset)
        if past is not None:
            memory = Memory(past.key, past.value).append(memory)
        end = offset + query.size(1)
        output = self(query, Past(*memory, end), mask=mask, need_weights=need_weights, offset=offset)
        return output, Past(*self.kept(memory), end)

    @property
    def shares_past(self) -> bool:
        """Whether :meth:`step_beams` is available: not with a window or score bias, which depend on key positions."""
        return self.window is None and self.score_bias is None

    def step_beams(
        self, query: Tensor, cache: Cache | None, ancestry: Tensor | None, *, offset: int, need_weights: bool = False
    ) -> tuple[AttentionOutput, Cache]:
        """Decodes the next token of K hypotheses per sequence, whose pasts lie in one cache.

        A beam search drops hypotheses and continues others several times. Keys and values stay where they are in the
        cache; ``ancestry`` says which entries are the past of which hypothesis.

        Args:
            query: (B, K, D), the next position of each hypothesis.
            cache: returned by the previous step; ``None`` at the start.
            ancestry: boolean, (B, K, S + K): which of the S entries in the cache, and of the K new ones after them,
                belong to each hypothesis; ``None`` if all do, which requires K = 1.
            offset: position of the new tokens in their sequences.
            need_weights: also return the attention map, (B, N, K, S + K).

        Returns:
            The output, with K in place of T_q, and the cache for the next step, with S + K entries.

        Raises:
            ValueError: there is a window or score bias, or a shape does not fit.
        """
        if not self.shares_past:
            raise ValueError("a window or score_bias depends on key positions; decode each hypothesis with step()")
        batch, beams, features = query.shape
        # Projected as sequences of length 1, so that all get the same position; then the K entries of a sequence are
        # put next to each other.
        own = self.project(query.reshape(-1, 1, features), offset=offset)  # (B * K, N_kv, 1, D_head)
        key, value = (part.view(batch, beams, *part.shape[1:]).transpose(1, -2).squeeze(1) for part in own)
        cache = Cache.start(Memory(key, value)) if cache is None else cache.append(Memory(key, value))
        mask = check_mask(ancestry, batch, beams, cache.length)
        output = self._attend(query, cache.memory, mask, need_weights=need_weights, offset=offset, same_position=True)
        return output, cache


@leaf
def _dropped(memory: Memory | Past) -> int:
    """Number of positions of a sequence before the first key."""
    return memory.position - memory.key.size(-2) if isinstance(memory, Past) else 0


@leaf
def _last_columns(mask: Tensor | None, memory: Tensor | Memory | Past | None) -> Tensor | None:
    """A mask of all positions of a sequence, restricted to those that its past holds."""
    if mask is None or not isinstance(memory, Past) or mask.ndim == 0 or mask.size(-1) != memory.position:
        return mask
    return mask[..., memory.position - memory.key.size(-2) :]


@leaf
def _causal(
    query: Tensor, key: Tensor, mask: Tensor | None, window: int | None, offset: int
) -> tuple[Tensor | None, bool]:
    """The mask restricted to the window and the past, and whether the fused kernel's own causal mask does it instead.

    Args:
        query: (B, T_q, D).
        key: (B, N_kv, T_k, D_head).
        mask: the mask, or ``None``.
        window: number of positions that each position attends to, or ``None``.
        offset: position of the first query, if the first key is at position 0.
    """
    queries, keys = query.size(1), key.size(-2)
    whole = mask is None and window is None
    # Literals: under dynamic shapes the comparison itself is a symbol, which the fused kernel rejects.
    if whole and offset == 0 and queries == keys:
        return None, True
    # A single query at the last position attends to all keys: a decoding step without a window needs no mask.
    if whole and queries == 1 and offset == keys - 1:
        return None, False
    before = None if window is None else window - 1
    band = window_mask(queries, keys, before=before, after=0, offset=offset, device=query.device)
    return band if mask is None else mask & band, False
