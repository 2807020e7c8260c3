"""Additive attention: a small network scores each query against each key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks.kernels import additive_scores
from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory, check_attend, check_project
from attention_blocks.sequence.scores import masked_softmax


class AdditiveAttention(Attention):
    """Attention whose score is computed by a network with one hidden layer.

    ::

        score(q, k) = v · tanh(W q + U k)

    ``U k`` is computed once per sequence, in :meth:`project`. Without weights the hidden layer is computed in parts,
    see :func:`~attention_blocks.kernels.additive_scores`; with weights it is held in memory.

    Args:
        query_dim: D_q.
        key_dim: D_k; defaults to ``query_dim``.
        hidden_dim: size of the hidden layer; defaults to ``query_dim``.

    Attributes:
        score_weight: v, (hidden_dim,).

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
        self.query_proj = nn.Linear(query_dim, hidden_dim, bias=False)
        self.key_proj = nn.Linear(self.key_dim, hidden_dim, bias=False)
        self.score_weight = nn.Parameter(torch.empty(hidden_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws v uniformly, with the bounds of a linear layer from the hidden layer to one score."""
        bound = self.score_weight.numel() ** -0.5
        nn.init.uniform_(self.score_weight, -bound, bound)

    @property
    def uses_positions(self) -> bool:
        """False: the score depends on query and key alone."""
        return False

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        """Keys projected to the hidden layer, (B, T_k, hidden_dim); see :meth:`Attention.project`."""
        check_project(key, value, self.key_dim)
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
        mask = check_attend(query, memory, mask, self.query_dim, key_sizes=(self.score_weight.size(0),))
        query = self.query_proj(query)  # (B, T_q, hidden_dim)
        scores = additive_scores(query, memory.key, self.score_weight, in_parts=not need_weights)  # (B, T_q, T_k)
        weights = masked_softmax(scores, mask)
        return AttentionOutput(weights.to(memory.value.dtype) @ memory.value, weights if need_weights else None)
