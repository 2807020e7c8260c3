"""The base of caption networks: a backbone, its feature map as a sequence of locations, a decoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attention_blocks import SinCosPosition2d
from attention_blocks.kernels import dropout
from lightning_modules.backbones.image_features import feature_map_size
from lightning_modules.text.text_decoder import Encoded, TextDecoder

Backbone = Callable[[tuple[int, int], int], nn.Module]
GridPosition = Callable[[int, tuple[int, int]], nn.Module]


class GridEmbedding(nn.Module):
    """A backbone's feature map as the sequence of locations that a decoder attends to.

    ::

        (B, features, rows, columns) ─ norm ─ linear ─ + positions ─ dropout ─▶ (B, rows · columns, D)

    The norm makes backbones alike in scale.

    Args:
        features: of the feature map.
        dim: D.
        grid: rows and columns of the feature map.
        position: creates the positions as ``position(dim, grid)``.
        dropout: dropout rate.

    Raises:
        ValueError: ``dropout`` outside [0, 1).

    Example:
        >>> import torch
        >>> GridEmbedding(8, 16, (2, 3))(torch.randn(2, 8, 2, 3)).shape
        torch.Size([2, 6, 16])
    """

    def __init__(
        self,
        features: int,
        dim: int,
        grid: tuple[int, int],
        *,
        position: GridPosition = SinCosPosition2d,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.norm = nn.LayerNorm(features)
        self.proj = nn.Linear(features, dim)
        self.position = position(dim, grid)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """(B, features, rows, columns) to (B, rows · columns, D)."""
        x = self.position(self.proj(self.norm(features.permute(0, 2, 3, 1))))  # (B, rows, columns, D)
        return dropout(x.flatten(1, 2), self.dropout, self.training)


class CaptionNetwork(nn.Module):
    """Base of the networks that describe images.

    Attributes:
        backbone: from images, (B, C, H, W), to a feature map, (B, D, rows, columns).
        decoder: generates the caption.
    """

    backbone: nn.Module
    decoder: TextDecoder

    def encode(self, features: Tensor) -> Encoded:
        """The decoder's memory of a feature map, (B, D, rows, columns)."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(features)")

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """Logits of each next token, (B, T, V), given the captions, (B, T) int64."""
        return self.decoder.output(self.decoder(captions, self.encode(self.backbone(images))))


def build_backbone(
    backbone: Backbone, image_size: tuple[int, int], in_channels: int
) -> tuple[nn.Module, int, tuple[int, int]]:
    """Creates a backbone; returns it with the features, and the rows and columns, of its feature map."""
    made = backbone(image_size, in_channels)
    features, rows, columns = feature_map_size(made, image_size, in_channels)
    return made, features, (rows, columns)
