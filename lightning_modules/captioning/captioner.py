"""Image to text: what every captioner shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import Metric

from attention_blocks.evaluating import evaluating
from datamodules.captions.caption_batch import CaptionBatch
from datamodules.images.image_transform import ImageTransform, RawImage
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.captioning.caption_network import CaptionNetwork
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.metrics.caption_metrics import CaptionBLEU, RougeL
from lightning_modules.metrics.cider import CIDErD, DocumentFrequencies
from lightning_modules.metrics.diversity import DistinctNGrams, VocabularyUse
from lightning_modules.metrics.meteor import METEOR
from lightning_modules.plots.figures import NoAttentionError, words_over_image
from lightning_modules.system.system import adamw
from lightning_modules.text.self_critical import CaptionObjective, Likelihood, words_and_end
from lightning_modules.text.text_decoder import Encoded
from lightning_modules.text.text_generator import TextGenerator


class Captioner(TextGenerator):
    """Describes images; the network decides how.

    Args:
        target_tokenizer: of the captions; linked to the data by the command line.
        transform: makes a raw image the network's input; linked to the data by the command line.
        network: makes the network as ``network(V, (height, width), channels)``.
        objective: what is trained for, :class:`Likelihood` of the given captions when left out, or
            :class:`SelfCritical`.
        max_length: tokens that a caption has at most.
        strategy: how captions are written in tests, predictions and :meth:`caption`; validation writes greedily.
        optimizer: makes the optimiser.
        lr_scheduler: makes the schedule.
        layer_decay: the share of the rate at which the backbone learns.

    Raises:
        ValueError: ``max_length`` is not positive.
    """

    network: CaptionNetwork

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        transform: ImageTransform,
        network: Callable[[int, tuple[int, int], int], CaptionNetwork],
        objective: CaptionObjective | None = None,
        max_length: int = 40,
        strategy: DecodingStrategy | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__(
            target_tokenizer,
            network(len(target_tokenizer), transform.image_size, transform.channels),
            strategy=strategy,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            layer_decay=layer_decay,
        )
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more, got {max_length}")
        self.objective = Likelihood() if objective is None else objective
        self.objective.check(self.network)
        self.transform = transform
        self._max_length = max_length

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """Logits, (B, T, V); see :meth:`CaptionNetwork.forward`."""
        return self.network(images, captions)

    def layers(self) -> Sequence[nn.Module]:
        """The backbone, as one layer."""
        return [self.network.backbone]

    def features(self, batch: CaptionBatch) -> Tensor:
        """The backbone's map of a batch, (B, D, rows, columns), unless it was computed before."""
        return self.network.backbone(batch.images) if batch.features is None else batch.features

    def encode(self, batch: CaptionBatch) -> Encoded:
        """See :meth:`TextGenerator.encode`."""
        return self.network.encode(self.features(batch))

    def target(self, batch: CaptionBatch) -> Tensor:
        """See :meth:`TextGenerator.target`."""
        return batch.captions

    def references(self, batch: CaptionBatch) -> list[list[str]]:
        """See :meth:`TextGenerator.references`."""
        return batch.references

    def loss(self, batch: CaptionBatch) -> Tensor:
        """See :class:`CaptionObjective`."""
        return self.objective.loss(self, batch)

    def text_metrics(self) -> dict[str, Metric]:
        """BLEU-1 to 4, ROUGE-L, METEOR and CIDEr-D of what is written, and how varied it is."""
        metrics: dict[str, Metric] = {f"bleu{order}": CaptionBLEU(order) for order in range(1, 5)}
        metrics |= {"rouge_l": RougeL(), "meteor": METEOR(), "cider_d": CIDErD()}
        return {**metrics, "distinct2": DistinctNGrams(2), "words_used": VocabularyUse()}

    @cached_property
    def training_frequencies(self) -> DocumentFrequencies:
        """Of how many of the images that are trained on a caption has an n-gram, its end counted as a word."""
        captions = self.trainer.train_dataloader.dataset.captions  # type: ignore[union-attr]
        return DocumentFrequencies.of(captions, words_and_end)

    def length_limit(self, batch: CaptionBatch) -> int:
        """See :meth:`TextGenerator.length_limit`."""
        return self._max_length

    def prepare(self, images: Sequence[RawImage] | Tensor) -> CaptionBatch:
        """Raw images, or a batch that is transformed already, as a batch without captions, on the network's device."""
        batch = self.transform.batch(images).to(self.device)
        nothing = torch.zeros(len(batch), 0, dtype=torch.int64, device=self.device)
        return CaptionBatch(batch, None, nothing, nothing.sum(1), [[] for _ in batch], [""] * len(batch))

    def export_inputs(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, str], ...]]:
        """See :meth:`System.export_inputs`."""
        captions = torch.randint(len(self.target_tokenizer), (2, 5))
        captions[:, 0] = self.target_tokenizer.bos_id
        images = torch.randn(2, self.transform.channels, *self.transform.image_size)
        return (images, captions), ({0: "batch"}, {0: "batch", 1: "caption_length"})

    def caption(
        self,
        images: Sequence[RawImage] | Tensor,
        strategy: DecodingStrategy | None = None,
        *,
        batch_size: int = 64,
    ) -> list[str]:
        """Describes raw images.

        Args:
            images: PIL images, arrays (H, W[, C]), tensors (C, H, W) or paths, of any size; or one tensor,
                (B, C, H, W), of transformed images.
            strategy: how captions are written; the system's own when left out.
            batch_size: how many images at once.

        Returns:
            A caption an image.

        Raises:
            ValueError: there is no image, or one cannot be read; ``batch_size`` is below 1.
            TypeError: the images are not in a list.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.transform.check(images)
        captions: list[str] = []
        with evaluating(self), torch.inference_mode():
            for start in range(0, len(images), batch_size):
                captions += self.texts(self.write(self.prepare(images[start : start + batch_size]), strategy))
        return captions

    def plot(self, images: Sequence[RawImage] | Tensor) -> Figure:
        """Draws each image once a word, with where the network looked for that word over it.

        Args:
            images: raw images, or a batch that is transformed already, (B, C, H, W).

        Raises:
            NoAttentionError: the decoder has none.
            ValueError: there is no image.
        """
        if not self.decoder.attends:
            raise NoAttentionError(f"{type(self.decoder).__name__} has no attention, so nothing shows where it looked")
        batch = self.prepare(images)
        with evaluating(self), torch.inference_mode():
            features = self.features(batch)
            best = [found[0] for found in self.write(batch, need_weights=True, memory=self.network.encode(features))]
        maps = [cast(Tensor, one.weights).view(-1, *features.shape[-2:]) for one in best]
        words = [self.target_tokenizer.tokens(self.target_tokenizer.content(one.tokens)) for one in best]
        return words_over_image(self.transform.denormalize(cast(Tensor, batch.images)), maps, words)
