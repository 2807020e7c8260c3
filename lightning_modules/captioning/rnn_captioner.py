"""RNN captioners: Show and Tell, and Show, Attend and Tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from attention_blocks import Attention
from datamodules.images.image_transform import ImageTransform
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.backbones.image_features import ResNetFeatures
from lightning_modules.captioning.caption_network import Backbone
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.captioning.rnn_caption_network import DEFAULT_SIZES, RNNCaptionNetwork
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.system.system import adamw
from lightning_modules.text.rnn_text_decoder import RNNSizes
from lightning_modules.text.self_critical import CaptionObjective


class RNNCaptioner(Captioner):
    """Describes images with an RNN, with any attention or without; the other arguments are those of :class:`Captioner`.

    Args:
        target_tokenizer: of the captions.
        transform: makes a raw image the network's input.
        backbone: makes the backbone as ``backbone((height, width), channels)``: :class:`TimmFeatures` for any backbone
            of timm, :class:`ViTFeatures`, :class:`ResNetFeatures`, or one's own.
        attention: makes the attention as ``attention(query_dim, key_dim)``; ``None`` for Show and Tell.
        sizes: of the recurrent network.
        objective: what is trained for, :class:`Likelihood` of the given captions when left out; Show, Attend and Tell
            adds its ``doubly_stochastic``.
        max_length: tokens that a caption has at most.
        strategy: how captions are written in tests, predictions and :meth:`caption`; validation writes greedily.
        optimizer: makes the optimiser.
        lr_scheduler: makes the schedule.
        layer_decay: the share of the rate at which the backbone learns.

    References:
        Vinyals et al. 2015, "Show and Tell"; Xu et al. 2015, "Show, Attend and Tell".
    """

    network: RNNCaptionNetwork

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        transform: ImageTransform,
        backbone: Backbone = ResNetFeatures,
        attention: Callable[[int, int], Attention] | None = None,
        sizes: RNNSizes = DEFAULT_SIZES,
        objective: CaptionObjective | None = None,
        max_length: int = 40,
        strategy: DecodingStrategy | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__(
            target_tokenizer,
            transform,
            partial(RNNCaptionNetwork, backbone=backbone, attention=attention, sizes=sizes),
            objective,
            max_length,
            strategy,
            optimizer,
            lr_scheduler,
            layer_decay,
        )
