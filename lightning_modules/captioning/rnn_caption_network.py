"""Caption networks with an RNN: Show and Tell; Show, Attend and Tell."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from attention_blocks import Attention
from lightning_modules.backbones.image_features import ResNetFeatures
from lightning_modules.captioning.caption_network import Backbone, CaptionNetwork, GridEmbedding, build_backbone
from lightning_modules.text.gated_decoder import GatedDecoder
from lightning_modules.text.rnn_text_decoder import FixedVectorDecoder, RNNSizes, RNNTextDecoder
from lightning_modules.text.text_decoder import Encoded

DEFAULT_SIZES = RNNSizes(cell="lstm")


class RNNCaptionNetwork(CaptionNetwork):
    """A backbone, and an RNN that describes its feature map.

    ::

        image ─ backbone ─ locations ─┬─ each of them ─▶ attention, with a new context for every word, or none
                                      └─ their mean ─ bridge ─▶ first state of the decoder ─▶ words

    Args:
        vocab_size: V.
        image_size: height and width of the images.
        in_channels: C of the images.
        backbone: creates the backbone as ``backbone(image_size, in_channels)``; see :class:`TimmFeatures`.
        attention: creates the attention as ``attention(H, H)``; without attention the decoder sees the image before
            the first word only.
        sizes: of the RNN; each location of the image has H features too.

    References:
        Vinyals et al. 2015, "Show and Tell"; Xu et al. 2015, "Show, Attend and Tell".

    Example:
        >>> import torch
        >>> from attention_blocks import AdditiveAttention
        >>> network = RNNCaptionNetwork(12, (32, 32), 1, attention=AdditiveAttention, sizes=RNNSizes(8, 16))
        >>> network(torch.randn(2, 1, 32, 32), torch.tensor([[2, 4, 5], [2, 7, 6]])).shape
        torch.Size([2, 3, 12])
    """

    decoder: RNNTextDecoder

    def __init__(
        self,
        vocab_size: int,
        image_size: tuple[int, int],
        in_channels: int,
        *,
        backbone: Backbone = ResNetFeatures,
        attention: Callable[[int, int], Attention] | None = None,
        sizes: RNNSizes = DEFAULT_SIZES,
    ) -> None:
        super().__init__()
        self.backbone, features, grid = build_backbone(backbone, image_size, in_channels)
        dim = sizes.hidden_dim
        self.locations = GridEmbedding(features, dim, grid, dropout=sizes.dropout)
        if attention is None:
            self.decoder = FixedVectorDecoder(vocab_size, dim, dim, sizes, every_step=False)
        else:
            self.decoder = GatedDecoder(vocab_size, dim, dim, sizes, attention=attention)

    def encode(self, features: Tensor) -> Encoded:
        """See :meth:`CaptionNetwork.encode`."""
        locations = self.locations(features)  # (B, rows · columns, H)
        return Encoded(locations, None, locations.mean(dim=1))
