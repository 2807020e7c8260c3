"""Self-attention: a sequence looks at itself."""

from __future__ import annotations

from torch import Tensor

from attention_blocks.sequence.attention import AttentionOutput
from attention_blocks.sequence.multi_head import MultiHeadAttention


class SelfAttention(MultiHeadAttention):
    """Multi-head attention of a sequence over itself: ``SelfAttention(64)(x)``.

    Takes the arguments of :class:`MultiHeadAttention`. Keys may still be given, so that it stands wherever an
    :class:`Attention` does; without them the queries are the keys.

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
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
    ) -> AttentionOutput:
        """Attends from each place of the sequence to every place that the mask allows.

        Args:
            query: the sequence, (B, T, D).
            key: another sequence to look at instead, (B, T_k, D).
            value: its values; the keys serve when left out.
            mask: boolean, True = may attend, broadcastable to (B, T, T).
            need_weights: also return the maps, (B, N, T, T).
        """
        return super().forward(query, query if key is None else key, value, mask, need_weights=need_weights)
