"""Batch norm for sequences."""

from __future__ import annotations

from torch import Tensor, nn

from attention_blocks.normalised import normalised


class SequenceBatchNorm(nn.Module):
    """Batch norm of each feature over all positions of all sequences of the batch.

    In training, padding is included in the statistics, and the output of a position depends on the rest of the batch.
    In evaluation, and for a single position, the running statistics are used, and positions are independent, as with
    the other norms.

    Args:
        dim: D.
        eps: added to the variance.
        momentum: weight of the current batch in the running statistics.

    Attributes:
        norm: the ``nn.BatchNorm1d`` inside, which ``nn.SyncBatchNorm.convert_sync_batchnorm`` finds and replaces.

    References:
        Ioffe and Szegedy 2015, "Batch Normalization"; Yao et al. 2021, "Leveraging Batch Normalization for Vision
        Transformers".

    Example:
        >>> import torch
        >>> y = SequenceBatchNorm(3)(torch.randn(2, 5, 3))
        >>> torch.allclose(y.mean((0, 1)), torch.zeros(3), atol=1e-6)
        True
    """

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each feature.

        Args:
            x: (B, T, D).

        Returns:
            (B, T, D).
        """
        return normalised(self.norm, x.flatten(0, -2)).view_as(x)
