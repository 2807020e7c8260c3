"""RMSNorm: layer norm without the mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.kernels import leaf


class RMSNorm(nn.Module):
    """Scales the features of each position to a root mean square of 1, then by learned factors.

    ::

        y = x / sqrt(mean(x²) + eps) · weight

    The mean is taken in float32 or wider, under autocast and in half-precision models too.

    Args:
        dim: D.
        eps: added to the mean square.

    Attributes:
        weight: (D,), initially ones.

    Raises:
        ValueError: ``dim`` or ``eps`` is not positive.

    References:
        Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".

    Example:
        >>> RMSNorm(2)(torch.tensor([1.0, 7.0])).detach()
        tensor([0.2000, 1.4000])
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be a positive feature size, got {dim}")
        if eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the factors to ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each position.

        Args:
            x: (..., D).

        Returns:
            (..., D), in the dtype of ``x``.
        """
        return _normalised(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Shows the size in the printed module."""
        return f"{self.weight.size(0)}, eps={self.eps:g}"


@leaf
def _normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, weight = x.to(dtype), weight.to(dtype)
    # F.rms_norm is new in torch 2.4.
    if hasattr(F, "rms_norm"):
        return F.rms_norm(wide, weight.shape, weight, eps).to(x.dtype)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)
