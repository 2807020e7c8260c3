"""Multi-head self-attention."""

from __future__ import annotations

from torch import Tensor

from attention_blocks.sequence.attention import AttentionOutput, Memory
from attention_blocks.sequence.multi_head import MultiHeadAttention


class SelfAttention(MultiHeadAttention):
    """Multi-head attention of a sequence over itself: ``SelfAttention(64)(x)``.

    Arguments as for :class:`MultiHeadAttention`. Like any :class:`Attention` it accepts keys; they default to the
    queries.

    References:
        Vaswani et al. 2017, "Attention Is All You Need".

    Example:
        >>> import torch
        >>> SelfAttention(64, num_heads=4)(torch.randn(2, 5, 64)).context.shape
        torch.Size([2, 5, 64])
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | Memory | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """Attends from each position of the sequence to every position that the mask allows.

        Args:
            query: the sequence, (B, T, D).
            key: another sequence to attend to, (B, T_k, D), or a projected one; defaults to ``query``.
            value: values of the other sequence, (B, T_k, D_v); defaults to ``key``.
            mask: boolean, True = may attend, broadcastable to (B, T, T).
            need_weights: also return the attention map, (B, N, T, T).
            offset: position of the first query, if the other sequence is a projected one.

        Raises:
            TypeError: the mask is not boolean, or there is a value besides a projected sequence.
            ValueError: a shape does not fit.
        """
        key = query if key is None else key
        return super().forward(query, key, value, mask, need_weights=need_weights, offset=offset)
