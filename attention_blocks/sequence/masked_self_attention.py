"""Masked self-attention: each place looks at itself and at what came before; with a cache for decoding."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attention_blocks.sequence.attention import AttentionOutput, Memory
from attention_blocks.sequence.cache import Cache
from attention_blocks.sequence.masks import check_mask, window_mask
from attention_blocks.sequence.self_attention import SelfAttention


class MaskedSelfAttention(SelfAttention):
    """Causal multi-head self-attention, over everything before or over a sliding window.

    ::

        window = None   ■ · · ·        window = 2   ■ · · ·
                        ■ ■ · ·                     ■ ■ · ·
                        ■ ■ ■ ·                     · ■ ■ ·
                        ■ ■ ■ ■                     · · ■ ■

    A further mask narrows the causal one. :meth:`step` decodes one token, or a few, from a cache which the caller
    keeps; what it returns equals what a single call on the whole sequence gives at the same places.

    Args:
        query_dim: D, the feature size of the sequence.
        key_dim: as ``query_dim`` when left out.
        num_heads: as in :class:`MultiHeadAttention`, like all that follow.
        num_kv_heads: fewer heads of keys and values make the cache as much smaller.
        head_dim: feature size of a head.
        bias: whether the four maps have one.
        dropout: share of the weights dropped in training.
        norm: makes the norm of each query and key head.
        rotary: makes rotary positions.
        score_bias: makes what is added to the scores.
        window: how many places each place may see, itself among them; all before it when left out.

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
            raise ValueError(f"window counts the places seen, itself among them, and must be 1 or more, got {window}")
        self.window = window

    @property
    def uses_positions(self) -> bool:
        """Always: what comes later is not seen."""
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
        """See :meth:`Attention.attend`; the query at position ``offset + t`` sees the keys up to that position."""
        queries, keys = query.size(1), memory.key.size(-2)
        mask = check_mask(mask, query.size(0), queries, keys)
        whole = mask is None and self.window is None
        # A branch and a plain True: under dynamic shapes the comparison itself is a symbol, which SDPA refuses.
        if whole and offset == 0 and queries == keys:
            return self._attend(query, memory, None, causal=True, need_weights=need_weights, offset=offset)
        # The newest query alone sees everything: a decoding step without a window needs no mask.
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
            query: what follows what the cache holds, (B, T_q, D).
            cache: what the last step returned; ``None`` at the start.
            mask: boolean, True = may attend, broadcastable to (B, T_q, cached + T_q).
            need_weights: also return the maps, (B, N, T_q, cached + T_q).

        Returns:
            The output, and the cache for the next step.
        """
        offset = 0 if cache is None else cache.key.size(-2)
        memory = self.project(query, offset=offset)
        if cache is not None:
            memory = cache.append(memory)
        return self.attend(query, memory, mask, need_weights=need_weights, offset=offset), memory

    @property
    def shares_past(self) -> bool:
        """Whether :meth:`step_beams` can be asked: not with a window or a bias, which count places of one sequence."""
        return self.window is None and self.score_bias is None

    def step_beams(
        self, query: Tensor, cache: Cache | None, ancestry: Tensor | None, *, offset: int, need_weights: bool = False
    ) -> tuple[AttentionOutput, Cache]:
        """Decodes the next token of K hypotheses of each sequence, whose pasts lie side by side in one cache.

        A beam drops hypotheses and goes on from others at every step. Their keys and values stay where they are;
        what moves is ``ancestry``, which says to whose past each place belongs.

        Args:
            query: (B, K, D), one place of each hypothesis, all at one position.
            cache: what the last step returned; ``None`` at the start.
            ancestry: boolean, (B, K, S + K): which of the S places in the cache, and of the K new ones behind them,
                are the hypothesis's own past and present; ``None`` where all are, there being one hypothesis.
            offset: the position of the new places in their sequences.
            need_weights: also return the maps, (B, N, K, S + K).

        Returns:
            The output for (B, K), and the cache for the next step, K places longer.

        Raises:
            ValueError: a window or a bias of the scores, or shapes that do not fit.
        """
        if not self.shares_past:
            raise ValueError("a window or score_bias counts places of one sequence; decode its hypotheses with step()")
        batch, beams, features = query.shape
        # Each new place is a sequence of its own, so that all get the same position; then they are laid side by side.
        own = self.project(query.reshape(-1, 1, features), offset=offset)
        key, value = (part.view(batch, beams, *part.shape[1:]).transpose(1, -2).squeeze(1) for part in own)
        cache = Cache.start(Memory(key, value)) if cache is None else cache.append(Memory(key, value))
        mask = check_mask(ancestry, batch, beams, cache.length)
        output = self._attend(
            query, cache.memory, mask, causal=False, need_weights=need_weights, offset=offset, together=True
        )
        return output, cache
