"""One map of many: the mean over heads, and rollout through all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Map = TypeVar("Map", Tensor, Tensor | None)


def mean_map(weights: Map) -> Map:
    """One map of a block with heads: their mean."""
    return weights.mean(dim=1) if weights is not None and weights.ndim == 4 else weights


def attention_rollout(maps: Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """Multiplies the maps of all layers, each averaged over its heads and mixed with the residual path.

    ::

        A_l = residual · I + (1 - residual) · mean over heads of map l
        rollout = A_L · … · A_2 · A_1

    Args:
        maps: one a layer, from the input up, (B, N, T, T) or (B, T, T), rows summing to 1.
        residual: share of the residual path.

    Returns:
        (B, T, T); row t says where place t of the last layer looked, and sums to 1.

    Raises:
        ValueError: there is no map, or the residual share is outside [0, 1].

    References:
        Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".

    Example:
        >>> attention_rollout([torch.full((1, 2, 3, 3), 1 / 3)] * 4).sum(-1)
        tensor([[1.0000, 1.0000, 1.0000]])
    """
    if not maps:
        raise ValueError("maps is empty; pass one map a layer")
    if not 0.0 <= residual <= 1.0:
        raise ValueError(f"residual is a share and must lie in [0, 1], got {residual}")
    rollout = _with_residual(maps[0], residual)
    for layer in maps[1:]:
        rollout = _with_residual(layer, residual) @ rollout
    return rollout


def _with_residual(layer: Tensor, residual: float) -> Tensor:
    layer = mean_map(layer)
    identity = torch.eye(layer.size(-1), dtype=layer.dtype, device=layer.device)
    return residual * identity + (1.0 - residual) * layer
