"""Fixed sine-cosine positions of a feature map of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.positions.sinusoidal import angles


class SinCosPosition2d(nn.Module):
    """Adds sines and cosines of column and row to a feature map whose features come last.

    The features consist of four equal parts, as in the code of MAE::

        sin(column · ω) | cos(column · ω) | sin(row · ω) | cos(row · ω),    ω_i = base^(-i / (D / 4))

    Args:
        dim: D, a multiple of 4.
        grid: ignored, since feature maps may have any size; accepted so that the constructor is that of
            :class:`LearnedPosition2d`.
        base: sets the longest wavelength, 2π · base rows or columns.

    Raises:
        ValueError: ``dim`` is not a positive multiple of 4, ``base`` is not positive.

    References:
        Chen et al. 2021, "An Empirical Study of Training Self-Supervised Vision Transformers" (MoCo v3);
        He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners" (MAE).

    Example:
        >>> import torch
        >>> SinCosPosition2d(4)(torch.zeros(1, 1, 2, 4))
        tensor([[[[0.0000, 1.0000, 0.0000, 1.0000],
                  [0.8415, 0.5403, 0.0000, 1.0000]]]])
    """

    def __init__(self, dim: int, grid: tuple[int, int] | None = None, *, base: float = 10000.0) -> None:
        super().__init__()
        if dim < 4 or dim % 4:
            raise ValueError(f"dim must be a positive multiple of 4, sine and cosine of column and row, got {dim}")
        if base <= 0:
            raise ValueError(f"base must be positive, got {base}")
        self.dim = dim
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Adds the encoding of each location.

        Args:
            x: (B, H, W, D).

        Returns:
            (B, H, W, D), in the dtype of ``x``.

        Raises:
            ValueError: ``x`` is not (B, H, W, dim).
        """
        return x + _waves(x, self.dim, self.base)

    def extra_repr(self) -> str:
        """Shows the size in the printed module."""
        return f"{self.dim}, base={self.base:g}"


@leaf
def _waves(x: Tensor, dim: int, base: float) -> Tensor:
    """Encodings of the locations of a feature map, (H, W, D)."""
    if x.ndim != 4 or x.size(3) != dim:
        raise ValueError(f"x must have shape (B, H, W, {dim}), features last, got {tuple(x.shape)}")
    height, width = x.size(1), x.size(2)
    columns = angles(width, dim // 4, base=base, like=x).expand(height, -1, -1)  # (H, W, D / 4)
    rows = angles(height, dim // 4, base=base, like=x)[:, None].expand(-1, width, -1)  # (H, W, D / 4)
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=-1).to(x.dtype)
