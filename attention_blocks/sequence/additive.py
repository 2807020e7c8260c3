"""Additive attention: a small network scores each query against each key."""

from __future__ import annotations

from torch import Tensor

from attention_blocks.kernels import Linear, additive_scores, is_shared, plain_scores, product
from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory
from attention_blocks.sequence.masks import check_mask
from attention_blocks.sequence.scores import masked_softmax


class AdditiveAttention(Attention):
    """Attention whose score is computed by a network with one hidden layer.

    ::

        score(q, k) = v · tanh(W q + U k)

    ``U k`` is computed once per sequence, in :meth:`project`. Without weights the hidden layer is computed in parts,
    see :func:`~attention_blocks.kernels.additive_scores`; with weights it is held in memory, except in training inside
    :func:`~attention_blocks.kernels.unrolled`.

    Args:
        query_dim: D_q.
        key_dim: D_k; defaults to ``query_dim``.
        hidden_dim: size of the hidden layer; defaults to ``query_dim``.

    Raises:
        ValueError: a size is not positive.

    References:
        Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", appendix A.1.2.

    Example:
        >>> import torch
        >>> attention = AdditiveAttention(query_dim=8, key_dim=6)
        >>> memory = attention.project(torch.randn(2, 5, 6))
        >>> attention.attend(torch.randn(2, 1, 8), memory).context.shape
        torch.Size([2, 1, 6])
    """

    def __init__(self, query_dim: int, key_dim: int | None = None, *, hidden_dim: int | None = None) -> None:
        super().__init__(query_dim, key_dim)
        hidden_dim = query_dim if hidden_dim is None else hidden_dim
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim must be a positive feature size, got {hidden_dim}")
        self.query_proj = Linear(query_dim, hidden_dim, bias=False)
        self.key_proj = Linear(self.key_dim, hidden_dim, bias=False)
        self.score_proj = Linear(hidden_dim, 1, bias=False)

    @property
    def uses_positions(self) -> bool:
        """False: the score depends on query and key alone."""
        return False

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        """Keys projected to the hidden layer, (B, T_k, hidden_dim); see :meth:`Attention.project`."""
        return Memory(self.key_proj(key), key if value is None else value)

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """See :meth:`Attention.attend`."""
        mask = check_mask(mask, query.size(0), query.size(1), memory.key.size(1))
        query = self.query_proj(query)  # (B, T_q, hidden_dim)
        score = plain_scores if need_weights and not is_shared(memory.key, query) else additive_scores
        weights = masked_softmax(score(query, memory.key, self.score_proj.weight), mask)  # (B, T_q, T_k)
        context = product(weights.to(memory.value.dtype), memory.value)
        return AttentionOutput(context, weights if need_weights else None)
