"""Caption networks with a Transformer, over a CNN's feature map or a ViT's patches."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from attention_blocks import DecoderLayer, EncoderLayer, SinCosPosition2d, SinusoidalPosition, TransformerEncoder
from lightning_modules.backbones.image_features import ResNetFeatures
from lightning_modules.captioning.caption_network import (
    Backbone,
    CaptionNetwork,
    GridEmbedding,
    GridPosition,
    build_backbone,
)
from lightning_modules.text.text_decoder import Encoded
from lightning_modules.text.transformer_text_decoder import TransformerTextDecoder


class TransformerCaptionNetwork(CaptionNetwork):
    """A backbone, encoder layers over the locations of its feature map, and a Transformer decoder.

    ::

        image ─ backbone ─ locations + positions ─ encoder layers ──┐ keys, values of every cross-attention
                               words + positions ─ decoder layers ◀─┘ ─ output layer ─▶ logits

    Args:
        vocab_size: V.
        image_size: height and width of the images.
        in_channels: C of the images.
        backbone: creates the backbone as ``backbone(image_size, in_channels)``: a CNN, or :class:`ViTFeatures` for a
            network without any convolution.
        dim: D.
        depth: number of decoder layers.
        encoder_depth: number of encoder layers over the locations of the image; 0 if the backbone is a Transformer.
        encoder_layer: creates each encoder layer as ``encoder_layer(dim, drop_path=rate)``.
        decoder_layer: creates each decoder layer as ``decoder_layer(dim, memory_dim=dim, drop_path=rate)``.
        grid_position: creates the positions of the locations as ``grid_position(dim, (rows, columns))``.
        position: creates the positions of the words as ``position(dim)``.
        dropout: dropout rate of words and locations with their positions; the layers have their own.

    Raises:
        ValueError: ``encoder_depth`` is negative.

    References:
        Vaswani et al. 2017, "Attention Is All You Need"; Cornia et al. 2020, "Meshed-Memory Transformer for Image
        Captioning", whose baseline this is; Liu et al. 2021, "CPTR: Full Transformer
        Network for Image Captioning" (patches in place of a CNN).

    Example:
        >>> import torch
        >>> network = TransformerCaptionNetwork(12, (32, 32), 1, dim=16, depth=1)
        >>> network(torch.randn(2, 1, 32, 32), torch.tensor([[2, 4, 5], [2, 7, 6]])).shape
        torch.Size([2, 3, 12])
    """

    def __init__(
        self,
        vocab_size: int,
        image_size: tuple[int, int],
        in_channels: int,
        *,
        backbone: Backbone = ResNetFeatures,
        dim: int = 512,
        depth: int = 3,
        encoder_depth: int = 1,
        encoder_layer: Callable[..., EncoderLayer] = EncoderLayer,
        decoder_layer: Callable[..., DecoderLayer] = DecoderLayer,
        grid_position: GridPosition = SinCosPosition2d,
        position: Callable[[int], nn.Module] = SinusoidalPosition,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if encoder_depth < 0:
            raise ValueError(f"encoder_depth must be 0 (none) or more, got {encoder_depth}")
        self.backbone, features, grid = build_backbone(backbone, image_size, in_channels)
        self.locations = GridEmbedding(features, dim, grid, position=grid_position, dropout=dropout)
        self.encoder = TransformerEncoder(dim, encoder_depth, layer=encoder_layer) if encoder_depth else None
        self.decoder: TransformerTextDecoder = TransformerTextDecoder(
            vocab_size, dim=dim, depth=depth, layer=decoder_layer, position=position, dropout=dropout
        )

    def encode(self, features: Tensor) -> Encoded:
        """See :meth:`CaptionNetwork.encode`."""
        locations = self.locations(features)  # (B, rows · columns, D)
        return Encoded(locations if self.encoder is None else self.encoder(locations).hidden, None, None)
