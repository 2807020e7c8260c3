"""Sinusoidal positions, and the angles that sinusoidal, rotary and 2-d sine-cosine positions have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf


def angles(length: int, frequencies: int, *, base: float, like: Tensor, offset: int = 0) -> Tensor:
    """Angle of each wave at each position, ``position / base^(i / frequencies)`` in radians.

    They are computed at each call, from integers and in float32 or wider: a stored table would be rounded by
    ``module.half()``, and rounded angles of distant positions are noise.

    Args:
        length: T, number of positions.
        frequencies: number of waves, the i-th of wavelength 2π · base^(i / frequencies).
        base: upper limit of the wavelengths, over 2π.
        like: tensor whose device, and whose dtype if wider than float32, is used.
        offset: the first position.

    Returns:
        (T, frequencies).
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    positions = torch.arange(offset, offset + length, device=like.device).to(dtype)
    exponents = torch.arange(frequencies, device=like.device).to(dtype) / -frequencies
    return positions[:, None] * base**exponents


class SinusoidalPosition(nn.Module):
    """Adds sine and cosine waves of the position, for sequences of any length.

    ::

        PE(t, 2i)     = sin(t / base^(2i / D))
        PE(t, 2i + 1) = cos(t / base^(2i / D))

    Args:
        dim: D, an even feature size.
        base: sets the longest wavelength, 2π · base positions.
        interleaved: sines at even features and cosines at odd ones, as in the paper's formula. Otherwise all sines
            before all cosines, as in the code of the paper's authors and in Marian.

    Raises:
        ValueError: ``dim`` is odd or not positive, ``base`` is not positive.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5.

    Example:
        >>> position = SinusoidalPosition(4)
        >>> position(torch.zeros(1, 2, 4))
        tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
                 [0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    def __init__(self, dim: int, base: float = 10000.0, *, interleaved: bool = True) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"dim must be a positive even feature size, a sine and a cosine per wave, got {dim}")
        if base <= 0:
            raise ValueError(f"base must be positive, got {base}")
        self.dim = dim
        self.base = base
        self.interleaved = interleaved

    def forward(self, x: Tensor, *, offset: int = 0) -> Tensor:
        """Adds the encoding of each position.

        Args:
            x: (B, T, D).
            offset: position of the first vector of x, for a sequence that is processed in pieces.

        Returns:
            (B, T, D), in the dtype of ``x``.

        Raises:
            ValueError: the features of ``x`` are not ``dim``.
        """
        return x + _waves(x, self.dim, self.base, self.interleaved, offset)

    def extra_repr(self) -> str:
        """Shows the size in the printed module."""
        return f"{self.dim}, base={self.base:g}"


@leaf
def _waves(x: Tensor, dim: int, base: float, interleaved: bool, offset: int) -> Tensor:
    """Encodings of the positions of a sequence, (T, D)."""
    if x.size(-1) != dim:
        raise ValueError(f"x must have shape (B, T, {dim}), as dim={dim} was given; got {tuple(x.shape)}")
    waves = angles(x.size(-2), dim // 2, base=base, like=x, offset=offset)  # (T, D / 2)
    parts = [waves.sin(), waves.cos()]
    return (torch.stack(parts, dim=-1).flatten(-2) if interleaved else torch.cat(parts, dim=-1)).to(x.dtype)
