"""What the networks of all captioners share: a backbone, its map as a sequence of places, a decoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attention_blocks import SinCosPosition2d
from attention_blocks.kernels import Linear, dropout
from lightning_modules.backbones.image_features import map_size
from lightning_modules.text.text_decoder import Encoded, TextDecoder

Backbone = Callable[[tuple[int, int], int], nn.Module]
GridPosition = Callable[[int, tuple[int, int]], nn.Module]


class GridEmbedding(nn.Module):
    """A backbone's map as the sequence of places that a decoder reads.

    ::

        (B, features, rows, columns) ─ norm ─ linear ─ + positions ─ dropout ─▶ (B, rows · columns, D)

    The norm takes up what differs between backbones; the positions tell left from right.

    Args:
        features: of the backbone's map.
        dim: D.
        grid: rows and columns of the backbone's map.
        position: makes the positions as ``position(dim, grid)``.
        dropout: share dropped.

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
        self.proj = Linear(features, dim)
        self.position = position(dim, grid)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """(B, features, rows, columns) to (B, rows · columns, D)."""
        places = self.position(self.proj(self.norm(features.permute(0, 2, 3, 1)))).flatten(1, 2)
        return dropout(places, self.dropout, self.training)


class CaptionNetwork(nn.Module):
    """Base of the networks that look at an image and write about it.

    Attributes:
        backbone: from images, (B, C, H, W), to a map of features, (B, D, rows, columns).
        decoder: what writes.
    """

    backbone: nn.Module
    decoder: TextDecoder

    def encode(self, features: Tensor) -> Encoded:
        """What the decoder reads of a backbone's map, (B, D, rows, columns)."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(features)")

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """Logits of each next token, (B, T, V), of captions that are known, (B, T)."""
        return self.decoder.output(self.decoder(captions, self.encode(self.backbone(images))))


def shown_to(
    backbone: Backbone, image_size: tuple[int, int], in_channels: int
) -> tuple[nn.Module, int, tuple[int, int]]:
    """A backbone, the features of its map, and the map's rows and columns."""
    made = backbone(image_size, in_channels)
    features, rows, columns = map_size(made, image_size, in_channels)
    return made, features, (rows, columns)
