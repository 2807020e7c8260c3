"""SimAM: places that stand out from their channel count more; there is nothing to learn."""

from __future__ import annotations

from torch import Tensor

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention
from attention_blocks.feature_maps.pooling import mean_of


class SimAM(FeatureMapAttention):
    """Multiplies each place of each channel by how far it is from the channel's mean.

    ::

        d = (x - mean)²;   v = Σ d / (H W - 1);   gate = σ(d / (4 (v + λ)) + 1/2)

    A map of one place has no variance; its gate is σ(1/2).

    Args:
        channels: C; nothing depends on it.
        variance_floor: λ, what is added to the variance; the authors' 1e-4.

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
            raise ValueError(f"variance_floor must be positive, since an even map varies by 0, got {variance_floor}")
        self.variance_floor = variance_floor

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, H, W), between σ(1/2) and 1."""
        distance = (x - mean_of(x, (2, 3))).square()
        # The sum over one less than the places; of one place, there is nothing to sum.
        places = x.size(2) * x.size(3)
        variance = mean_of(distance, (2, 3)) * (places / max(places - 1, 1))
        return (distance / (4 * (variance + self.variance_floor)) + 0.5).sigmoid()
