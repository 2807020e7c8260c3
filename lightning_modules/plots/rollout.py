"""Attention maps combined: the mean over heads, and rollout through all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Weights = TypeVar("Weights", Tensor, Tensor | None)


def mean_over_heads(weights: Weights) -> Weights:
    """Mean over heads of attention weights, (B, N, T_q, T_k) to (B, T_q, T_k); weights without heads are returned."""
    return weights.mean(dim=1) if weights is not None and weights.ndim == 4 else weights


def attention_rollout(maps: Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """Attention rollout: product of the attention maps of all layers, with the residual connections included.

    ::

        A_l = residual · I + (1 - residual) · mean over heads of the weights of layer l
        rollout = A_L · … · A_2 · A_1

    Args:
        maps: attention weights of each layer, from the input up, (B, N, T, T) or (B, T, T), rows summing to 1.
        residual: fraction of the residual connection.

    Returns:
        (B, T, T); row t is the attention of position t of the last layer to the input, and sums to 1.

    Raises:
        ValueError: ``maps`` is empty, or ``residual`` outside [0, 1].

    References:
        Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".

    Example:
        >>> attention_rollout([torch.full((1, 2, 3, 3), 1 / 3)] * 4).sum(-1)
        tensor([[1.0000, 1.0000, 1.0000]])
    """
    if not maps:
        raise ValueError("maps is empty; pass one map per layer")
    if not 0.0 <= residual <= 1.0:
        raise ValueError(f"residual is a fraction and must lie in [0, 1], got {residual}")
    rollout = _with_residual(maps[0], residual)  # (B, T, T)
    for layer in maps[1:]:
        rollout = _with_residual(layer, residual) @ rollout
    return rollout


def _with_residual(layer: Tensor, residual: float) -> Tensor:
    """Attention of a layer, (B, T, T), mixed with the identity."""
    layer = mean_over_heads(layer)
    identity = torch.eye(layer.size(-1), dtype=layer.dtype, device=layer.device)
    return residual * identity + (1.0 - residual) * layer
