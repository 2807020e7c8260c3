"""Luong attention: three scores, global or local."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.sequence.additive import AdditiveAttention
from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory, check_attend, check_project
from attention_blocks.sequence.scores import single_head_attention

LuongScore = Literal["dot", "general", "concat"]
LuongWindow = Literal["global", "local-m", "local-p"]


class LuongAttention(Attention):
    """Luong attention with one of three scores, global or in a window around an aligned position.

    ::

        dot      score(q, k) = q · k
        general  score(q, k) = q · W k
        concat   score(q, k) = v · tanh(W [q; k])

        global   over all keys
        local-m  over |s - t| <= D: the query at position t is aligned with the key at the same position
        local-p  over |s - p| <= D with p = S · sigmoid(v_p · tanh(W_p q)); weights are multiplied by
                 exp(-(s - p)² / 2σ²), σ = D/2, and, as in the paper, not normalised again

    S is the number of keys that the query may attend to, which is the length of the sequence under a padding mask.

    Args:
        query_dim: D_q.
        key_dim: D_k; defaults to ``query_dim``, which it must equal for "dot".
        score: "dot", "general" or "concat".
        window: "global", "local-m" (monotonic) or "local-p" (predictive).
        radius: D, number of positions on each side of the aligned one in a local window.

    Raises:
        ValueError: different sizes for "dot", an unknown score or window, or a radius below 1.

    References:
        Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation", sections 3.1 and 3.2.

    Example:
        >>> import torch
        >>> attention = LuongAttention(8, 6, score="general", window="local-p", radius=2)
        >>> attention(torch.randn(2, 3, 8), torch.randn(2, 9, 6), need_weights=True).weights.shape
        torch.Size([2, 3, 9])
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int | None = None,
        *,
        score: LuongScore = "general",
        window: LuongWindow = "global",
        radius: int = 10,
    ) -> None:
        super().__init__(query_dim, key_dim)
        if score not in get_args(LuongScore):
            raise ValueError(f"score must be one of {', '.join(get_args(LuongScore))}, got {score!r}")
        if window not in get_args(LuongWindow):
            raise ValueError(f"window must be one of {', '.join(get_args(LuongWindow))}, got {window!r}")
        if score == "dot" and self.key_dim != query_dim:
            raise ValueError(
                f"key_dim ({key_dim}) must equal query_dim ({query_dim}) for score='dot'; use score='general'"
            )
        if radius < 1:
            raise ValueError(f"radius must be 1 or more, got {radius}")
        self.score = score
        self.window = window
        self.radius = radius
        self.key_proj = nn.Linear(self.key_dim, query_dim, bias=False) if score == "general" else None
        # W [q; k] is one matrix times q plus one times k, which is the additive score.
        self.concat = AdditiveAttention(query_dim, self.key_dim) if score == "concat" else None
        self.position_hidden = nn.Linear(query_dim, query_dim, bias=False) if window == "local-p" else None
        self.position_proj = nn.Linear(query_dim, 1, bias=False) if window == "local-p" else None

    @property
    def uses_positions(self) -> bool:
        """True for local-m alone, which aligns a query by its position; local-p predicts the aligned position."""
        return self.window == "local-m"

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        """Keys prepared for the score: k, W k, or k projected to the hidden layer; see :meth:`Attention.project`."""
        check_project(key, value, self.key_dim)
        value = key if value is None else value
        if self.concat is not None:
            return self.concat.project(key, value)
        return Memory(key if self.key_proj is None else self.key_proj(key), value)

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """See :meth:`Attention.attend`; local-m aligns the first query with the key at position ``offset``."""
        mask = check_attend(query, memory, mask, self.query_dim, key_sizes=(self.query_dim,))
        if self.window == "global":
            return self._attend(query, memory, mask, need_weights=need_weights)
        if self.position_hidden is None or self.position_proj is None:
            mask = _near_position(query, memory.key, mask, self.radius, offset)
            return self._attend(query, memory, mask, need_weights=need_weights)
        relative = self.position_proj(torch.tanh(self.position_hidden(query)))  # (B, T_q, 1)
        distance = _distances(relative, memory.key, mask)  # (B, T_q, T_k)
        weights = self._attend(query, memory, _both(mask, distance.abs() <= self.radius), need_weights=True).weights
        weights = cast(Tensor, weights) * torch.exp(-distance.square() / (2 * (self.radius / 2) ** 2))
        return AttentionOutput(weights.to(memory.value.dtype) @ memory.value, weights if need_weights else None)

    def _attend(self, query: Tensor, memory: Memory, mask: Tensor | None, *, need_weights: bool) -> AttentionOutput:
        """Scores, softmax and context under a mask that includes the window."""
        if self.concat is not None:
            return self.concat(query, memory, mask=mask, need_weights=need_weights)
        return single_head_attention(query, memory, mask, scale=1.0, need_weights=need_weights)

    def extra_repr(self) -> str:
        """Shows score and window in the printed module."""
        return f"score={self.score!r}, window={self.window!r}" + (
            "" if self.window == "global" else f", radius={self.radius}"
        )


@leaf
def _both(mask: Tensor | None, window: Tensor) -> Tensor:
    return window if mask is None else mask & window


@leaf
def _near_position(query: Tensor, key: Tensor, mask: Tensor | None, radius: int, offset: int) -> Tensor:
    """Mask of the keys within the radius of each query's own position, (…, T_q, T_k)."""
    aligned = torch.arange(query.size(1), device=query.device)[:, None] + offset  # (T_q, 1)
    positions = torch.arange(key.size(1), device=query.device)  # (T_k,)
    return _both(mask, (positions - aligned).abs() <= radius)


@leaf
def _distances(relative: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Distance of each key from the predicted position, (B, T_q, T_k).

    Args:
        relative: logits of the predicted position, as a fraction of the length, (B, T_q, 1).
        key: (B, T_k, D_k).
        mask: (…, T_q, T_k), or ``None``.
    """
    # Positions in the hundreds need more digits than half precision has.
    relative = relative.to(torch.promote_types(relative.dtype, torch.float32)).sigmoid()
    length = key.size(1) if mask is None else mask.sum(-1, keepdim=True)
    return torch.arange(key.size(1), device=key.device) - relative * length
