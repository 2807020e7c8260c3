"""Causal multi-head self-attention with a cache for decoding."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attention_blocks.sequence.attention import AttentionOutput, Memory
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
    keeps, and gives the same result as one call on the whole sequence.

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
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """See :meth:`Attention.attend`; query t is at position ``offset + t`` and attends to the keys up to it."""
        queries, keys = query.size(1), memory.key.size(-2)
        mask = check_mask(mask, query.size(0), queries, keys)
        whole = mask is None and self.window is None
        # A branch with a literal True: under dynamic shapes the comparison itself is a symbol, which SDPA rejects.
        if whole and offset == 0 and queries == keys:
            return self._attend(query, memory, None, causal=True, need_weights=need_weights, offset=offset)
        # A single query at the last position attends to all keys: a decoding step without a window needs no mask.
        if not (whole and queries == 1 and offset == keys - 1):
            before = None if self.window is None else self.window - 1
            band = window_mask(queries, keys, before=before, after=0, offset=offset, device=query.device)
            mask = band if mask is None else mask & band
        return self._attend(query, memory, mask, causal=False, need_weights=need_weights, offset=offset)

    def step(
        self, query: Tensor, cache: Memory | None = None, mask: Tensor | None = None, *, need_weights: bool = False
    ) -> tuple[AttentionOutput, Memory]:
        """Decodes the next token, or the next few.

        Args:
            query: the positions that follow those in the cache, (B, T_q, D).
            cache: returned by the previous step; ``None`` at the start.
            mask: boolean, True = may attend, broadcastable to (B, T_q, cached + T_q).
            need_weights: also return the attention map, (B, N, T_q, cached + T_q).

        Returns:
            The output, and the cache for the next step.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: a shape does not fit.
        """
        offset = 0 if cache is None else cache.key.size(-2)
        memory = self.project(query, offset=offset)
        if cache is not None:
            memory = cache.append(memory)
        return self.attend(query, memory, mask, need_weights=need_weights, offset=offset), memory

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
        output = self._attend(
            query, cache.memory, mask, causal=False, need_weights=need_weights, offset=offset, same_position=True
        )
        return output, cache
