"""LayerScale: a learned factor for each feature of a residual branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiplies each feature by a learned factor.

    Args:
        dim: D.
        init: initial value of every factor; small, so that a deep stack starts near the identity.

    Attributes:
        gamma: (D,), the factors.

    Raises:
        ValueError: ``dim`` is not positive.

    References:
        Touvron et al. 2021, "Going deeper with Image Transformers" (CaiT), section 2.

    Example:
        >>> import torch
        >>> LayerScale(2, init=0.5)(torch.tensor([1.0, 4.0])).detach()
        tensor([0.5000, 2.0000])
    """

    def __init__(self, dim: int, init: float = 1e-5) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be a positive feature size, got {dim}")
        self.init = init
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets every factor to its initial value."""
        nn.init.constant_(self.gamma, self.init)

    def forward(self, x: Tensor) -> Tensor:
        """Scales the features.

        Args:
            x: (..., D).

        Returns:
            (..., D).
        """
        return x * self.gamma

    def extra_repr(self) -> str:
        """Shows the size in the printed module."""
        return f"{self.gamma.size(0)}, init={self.init:g}"
