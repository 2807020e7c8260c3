"""Transformer captioners, over a CNN's feature map or a ViT's patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datamodules.images.image_transform import ImageTransform
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.captioning.transformer_caption_network import TransformerCaptionNetwork


class TransformerCaptioner(Captioner):
    """Describes images with a Transformer.

    Args:
        target_tokenizer: tokenizer of the captions.
        transform: turns a raw image into the network's input.
        network: creates the network as ``network(vocab_size, (height, width), channels)``.
        **arguments: those of :class:`Captioner`.
    """

    network: TransformerCaptionNetwork

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        transform: ImageTransform,
        network: Callable[[int, tuple[int, int], int], TransformerCaptionNetwork] = TransformerCaptionNetwork,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(target_tokenizer, transform, network, **arguments)
