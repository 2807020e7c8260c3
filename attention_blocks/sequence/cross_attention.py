"""Multi-head cross-attention."""

from __future__ import annotations

from attention_blocks.sequence.multi_head import MultiHeadAttention


class CrossAttention(MultiHeadAttention):
    """Multi-head attention of one sequence over another, such as a decoder over its encoder or words over an image.

    :class:`MultiHeadAttention` under another name, with the same arguments. Project the other sequence once and
    attend to it at every step.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3.

    Example:
        >>> import torch
        >>> attention = CrossAttention(query_dim=64, key_dim=32, num_heads=4)
        >>> memory = attention.project(torch.randn(2, 9, 32))
        >>> for step in range(3):
        ...     context, _ = attention.attend(torch.randn(2, 1, 64), memory)
        >>> context.shape
        torch.Size([2, 1, 64])
    """
