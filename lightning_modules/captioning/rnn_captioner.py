"""RNN captioners: Show and Tell; Show, Attend and Tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datamodules.images.image_transform import ImageTransform
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.captioning.rnn_caption_network import RNNCaptionNetwork


class RNNCaptioner(Captioner):
    """Describes images with an RNN, with any attention or without.

    Args:
        target_tokenizer: tokenizer of the captions.
        transform: turns a raw image into the network's input.
        network: creates the network as ``network(vocab_size, (height, width), channels)``.
        **arguments: those of :class:`Captioner`.

    References:
        Vinyals et al. 2015, "Show and Tell"; Xu et al. 2015, "Show, Attend and Tell", whose objective is
        :class:`DoublyStochastic`.
    """

    network: RNNCaptionNetwork

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        transform: ImageTransform,
        network: Callable[[int, tuple[int, int], int], RNNCaptionNetwork] = RNNCaptionNetwork,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(target_tokenizer, transform, network, **arguments)
