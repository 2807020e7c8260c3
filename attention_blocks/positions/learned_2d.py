"""Learned positions of a feature map, resampled for feature maps of another size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks.kernels import leaf

# Whether a call is exported; before torch 2.7, whether it is exported or compiled.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def resample_table(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resamples a table of positions to another grid: bicubic, antialiased, in float32 or wider.

    Args:
        table: (rows, columns, D).
        grid: rows and columns of the result.

    Returns:
        (rows, columns, D), in the dtype of ``table``.
    """
    wide = (
        table.to(torch.promote_types(table.dtype, torch.float32)).permute(2, 0, 1).unsqueeze(0)
    )  # (1, D, rows, columns)
    resampled = F.interpolate(wide, size=grid, mode="bicubic", antialias=True)
    return resampled.squeeze(0).permute(1, 2, 0).to(table.dtype)


class LearnedPosition2d(nn.Module):
    """Adds a learned vector to each location of a feature map whose features come last.

    For a feature map of another grid, the table is resampled at each call. A table of another grid that is loaded by
    ``load_state_dict`` is resampled once, to this module's grid.

    Args:
        dim: D.
        grid: rows and columns of the table.

    Attributes:
        table: (rows, columns, D), drawn from a truncated normal distribution of standard deviation 0.02.

    Raises:
        ValueError: a size is not positive.

    References:
        Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.2 and appendix D.4.

    Example:
        >>> import torch
        >>> position = LearnedPosition2d(8, grid=(4, 4))
        >>> position(torch.randn(2, 4, 4, 8)).shape, position(torch.randn(2, 6, 3, 8)).shape
        (torch.Size([2, 4, 4, 8]), torch.Size([2, 6, 3, 8]))
    """

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = grid
        if min(dim, rows, columns) < 1:
            raise ValueError(f"dim and grid must be positive, got dim={dim}, grid={(rows, columns)}")
        self.table = nn.Parameter(torch.empty(rows, columns, dim))
        self.reset_parameters()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the table."""
        return self.table.size(0), self.table.size(1)

    def reset_parameters(self) -> None:
        """Draws a new table."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that an optimiser should not decay: the table."""
        return {"table"}

    def forward(self, x: Tensor) -> Tensor:
        """Adds the vector of each location.

        Args:
            x: (B, H, W, D).

        Returns:
            (B, H, W, D).

        Raises:
            ValueError: ``x`` is not (B, H, W, dim).
        """
        return x + _vectors(x, self.table)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        loaded = state_dict.get(f"{prefix}table")
        # A table of another feature size is left to the parent, which raises.
        if loaded is not None and loaded.shape[2:] == self.table.shape[2:] and loaded.shape != self.table.shape:
            state_dict[f"{prefix}table"] = resample_table(loaded, self.grid)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Shows the sizes in the printed module."""
        return f"{self.table.size(2)}, grid={self.grid}"


@leaf
def _vectors(x: Tensor, table: Tensor) -> Tensor:
    """Vectors of the locations of a feature map, (H, W, D)."""
    rows, columns, dim = table.shape
    if x.ndim != 4 or x.size(3) != dim:
        raise ValueError(f"x must have shape (B, H, W, {dim}), features last, got {tuple(x.shape)}")
    # A comparison would make an exported program refuse either the table's grid or all others. For its own grid, the
    # resampled table is the same.
    if not _is_exporting() and (x.size(1), x.size(2)) == (rows, columns):
        return table
    return resample_table(table, (x.size(1), x.size(2)))
