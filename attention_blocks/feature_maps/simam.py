"""SimAM: parameter-free attention by the distance of each value from the mean of its channel."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention
from attention_blocks.feature_maps.pooling import mean_of
from attention_blocks.kernels import leaf


class SimAM(FeatureMapAttention):
    """Multiplies each value by a gate that grows with its distance from the mean of its channel.

    ::

        d = (x - mean)²;   v = Σ d / (H W - 1);   gate = σ(d / (4 (v + λ)) + 1/2)

    A 1 x 1 feature map has no variance; its gate is σ(1/2).

    Args:
        channels: C.
        variance_floor: λ, added to the variance; 1e-4 in the authors' code.

    Raises:
        ValueError: ``variance_floor`` is not positive.

    References:
        Yang et al. 2021, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks".

    Example:
        >>> import torch
        >>> SimAM(channels=32).gate(torch.randn(2, 32, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """

    def __init__(self, channels: int, variance_floor: float = 1e-4) -> None:
        super().__init__(channels)
        if variance_floor <= 0:
            raise ValueError(
                f"variance_floor must be positive, since a constant map has variance 0, got {variance_floor}"
            )
        self.variance_floor = variance_floor

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, H, W), between σ(1/2) and 1."""
        return _gate(x, self.variance_floor)


@leaf
def _gate(x: Tensor, variance_floor: float) -> Tensor:
    # In half precision the squares of a wide map overflow.
    wide = x if x.dtype == torch.float64 else x.float()
    distance = (wide - mean_of(wide, (2, 3))).square()  # (B, C, H, W)
    count = x.size(2) * x.size(3)
    variance = mean_of(distance, (2, 3)) * (count / max(count - 1, 1))  # unbiased, (B, C, 1, 1)
    return (distance / (4 * (variance + variance_floor)) + 0.5).sigmoid().to(x.dtype)
