"""Transformer captioners: over the map of a CNN, or over the patches of a ViT."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from datamodules.images.image_transform import ImageTransform
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.captioning.transformer_caption_network import TransformerCaptionNetwork
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.system.system import adamw
from lightning_modules.text.self_critical import CaptionObjective


class TransformerCaptioner(Captioner):
    """Describes images with a Transformer; all arguments are those of :class:`Captioner`."""

    network: TransformerCaptionNetwork

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        transform: ImageTransform,
        network: Callable[[int, tuple[int, int], int], TransformerCaptionNetwork] = TransformerCaptionNetwork,
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
            network,
            objective,
            max_length,
            strategy,
            optimizer,
            lr_scheduler,
            layer_decay,
        )
