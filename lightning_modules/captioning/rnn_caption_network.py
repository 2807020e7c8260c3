"""Caption networks with an RNN: Show and Tell; Show, Attend and Tell."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from attention_blocks import Attention
from lightning_modules.backbones.image_features import ResNetFeatures
from lightning_modules.captioning.caption_network import Backbone, CaptionNetwork, GridEmbedding, shown_to
from lightning_modules.text.gated_decoder import GatedDecoder
from lightning_modules.text.rnn_text_decoder import FixedVectorDecoder, RNNSizes, RNNTextDecoder
from lightning_modules.text.text_decoder import Encoded

DEFAULT_SIZES = RNNSizes(cell="lstm")


class RNNCaptionNetwork(CaptionNetwork):
    """A backbone, and an RNN that writes about its map.

    ::

        image ─ backbone ─ places ─┬─ each of them ─▶ attention, with a fresh look for every word, or none
                                   └─ their mean ─ bridge ─▶ first state of the decoder ─▶ words

    Args:
        vocab_size: V.
        image_size: height and width of the images.
        in_channels: C of the images.
        backbone: makes the backbone as ``backbone(image_size, in_channels)``; see :class:`TimmFeatures`.
        attention: makes the attention as ``attention(H, H)``; without one the image is seen before the first word only.
        sizes: of the recurrent network; each place of the image has H features too.

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
        self.backbone, features, grid = shown_to(backbone, image_size, in_channels)
        dim = sizes.hidden_dim
        self.places = GridEmbedding(features, dim, grid, dropout=sizes.dropout)
        if attention is None:
            self.decoder = FixedVectorDecoder(vocab_size, dim, dim, sizes, every_step=False)
        else:
            self.decoder = GatedDecoder(vocab_size, dim, dim, sizes, attention=attention)

    def encode(self, features: Tensor) -> Encoded:
        """See :meth:`CaptionNetwork.encode`."""
        places = self.places(features)
        return Encoded(places, None, places.mean(dim=1))
