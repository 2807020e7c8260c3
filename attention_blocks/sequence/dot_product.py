"""Dot-product attention without parameters."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks.kernels import leaf
from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory, check_attend, check_project
from attention_blocks.sequence.scores import single_head_attention

Similarity = Literal["plain", "scaled", "cosine"]


class DotProductAttention(Attention):
    """Attention whose score is the dot product of query and key.

    ::

        plain    score(q, k) = q · k
        scaled   score(q, k) = q · k / sqrt(D)
        cosine   score(q, k) = q · k / (|q| |k|)

    Args:
        query_dim: D, the feature size of queries and keys.
        key_dim: must equal ``query_dim``, its default.
        similarity: "plain", "scaled" or "cosine".
        scale: factor of the score, an inverse temperature; cosine scores lie in [-1, 1] and often need about 10.

    Raises:
        ValueError: the sizes differ, or the similarity is unknown.

    References:
        Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation" (plain);
        Vaswani et al. 2017, "Attention Is All You Need" (scaled).

    Example:
        >>> import torch
        >>> attention = DotProductAttention(8)
        >>> context, weights = attention(torch.randn(2, 3, 8), torch.randn(2, 5, 8), need_weights=True)
        >>> context.shape, weights.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 3, 5]))
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int | None = None,
        *,
        similarity: Similarity = "scaled",
        scale: float = 1.0,
    ) -> None:
        super().__init__(query_dim, key_dim)
        if self.key_dim != query_dim:
            raise ValueError(
                f"key_dim ({key_dim}) must equal query_dim ({query_dim}) for a dot product; "
                "use LuongAttention(score='general') or MultiHeadAttention for different sizes"
            )
        if similarity not in get_args(Similarity):
            raise ValueError(f"similarity must be one of {', '.join(get_args(Similarity))}, got {similarity!r}")
        self.similarity = similarity
        self.scale = scale * query_dim**-0.5 if similarity == "scaled" else scale

    @property
    def uses_positions(self) -> bool:
        """False: the score depends on query and key alone."""
        return False

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        """Keys unchanged, or scaled to length 1 for the cosine; see :meth:`Attention.project`."""
        check_project(key, value, self.key_dim)
        value = key if value is None else value
        return Memory(_unit(key) if self.similarity == "cosine" else key, value)

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
        mask = check_attend(query, memory, mask, self.query_dim, key_sizes=(self.query_dim,))
        if self.similarity == "cosine":
            query = _unit(query)
        return single_head_attention(query, memory, mask, scale=self.scale, need_weights=need_weights)

    def extra_repr(self) -> str:
        """Shows the similarity in the printed module."""
        return f"{self.query_dim}, similarity={self.similarity!r}, scale={self.scale:g}"


@leaf
def _unit(x: Tensor) -> Tensor:
    # The default eps of normalize is 0 in float16, and zero padding would become 0/0.
    return F.normalize(x, dim=-1, eps=torch.finfo(x.dtype).eps)
