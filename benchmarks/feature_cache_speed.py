"""Captioner training: steps per second with cached features of the frozen backbone over computing them in each step.

The RNN and Transformer captioners of the Flickr8k recipes with EfficientNet-Lite0; 64 images of 224 pixels, captions of
14 tokens, float32 and bf16-mixed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from rich.table import Table

from attention_blocks import AdditiveAttention
from benchmarks.timing import ratio, take_turns
from benchmarks.training import training_step
from datamodules.captions.caption_batch import CaptionBatch
from datamodules.images.image_transform import ImageTransform
from datamodules.tokenizers.tokenizer_trainers import Word
from lightning_modules.backbones.image_features import TimmFeatures
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.captioning.rnn_caption_network import RNNCaptionNetwork
from lightning_modules.captioning.rnn_captioner import RNNCaptioner
from lightning_modules.captioning.transformer_caption_network import TransformerCaptionNetwork
from lightning_modules.captioning.transformer_captioner import TransformerCaptioner
from lightning_modules.text.rnn_text_decoder import RNNSizes

VOCABULARY, CAPTIONS, WORDS = 4_460, 64, 14


def measure(quick: bool) -> Table:
    """Goal: above 1.0. A step computes loss and gradients and updates the weights with AdamW."""
    table = Table("captioner", "precision", "steps/s, cached over computed", "seconds per step, computed")
    tokenizer = Word().train(str(number) for number in range(VOCABULARY) for _ in range(2))
    backbone = partial(TimmFeatures, name="tf_efficientnet_lite0")
    transform = ImageTransform(64 if quick else 224)
    sizes = RNNSizes(256, 512, cell="lstm", dropout=0.5)
    systems: dict[str, Captioner] = {
        "RNN, additive attention": RNNCaptioner(
            tokenizer,
            transform,
            partial(RNNCaptionNetwork, backbone=backbone, attention=AdditiveAttention, sizes=sizes),
        ),
        "Transformer": TransformerCaptioner(
            tokenizer, transform, partial(TransformerCaptionNetwork, backbone=backbone, dropout=0.3)
        ),
    }
    count = 2 if quick else CAPTIONS
    images = torch.randn(count, 3, *transform.image_size)
    captions = torch.randint(4, VOCABULARY, (count, WORDS))
    for name, system in systems.items():
        with torch.no_grad():
            features = system.eval().network.backbone(images)
        lengths, names = torch.full((count,), WORDS), [""] * count
        computed = CaptionBatch(images, None, captions, lengths, [[]] * count, names, list(range(count)))
        batches = {"computed": computed, "cached": computed._replace(images=None, features=features)}
        for mixed in (False, True):
            seconds = take_turns(
                {kind: make_step(system, batch, mixed) for kind, batch in batches.items()}, 3 if quick else 7
            )
            table.add_row(
                name,
                "bf16-mixed" if mixed else "float32",
                str(ratio(seconds["computed"], seconds["cached"])),
                f"{sorted(seconds['computed'])[len(seconds['computed']) // 2]:.2f}",
            )
    return table


def make_step(system: Captioner, batch: CaptionBatch, mixed: bool) -> Callable[[], None]:
    """Training step of all parameters but those of the backbone, which is frozen as by :class:`FreezeBackbone`."""
    system.train().network.backbone.requires_grad_(False).eval()
    optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=1e-5)
    return training_step(lambda: system.objective.loss(system, batch), optimizer, mixed=mixed)
