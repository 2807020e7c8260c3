"""The base of every system that describes images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.captions.caption_batch import CaptionBatch
from datamodules.images.image_transform import ImageTransform, RawImage
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.captioning.caption_network import CaptionNetwork
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.metrics.caption_metrics import CaptionBLEU, RougeL, caption_words
from lightning_modules.metrics.cider import CIDErD, DocumentFrequencies, cider_d
from lightning_modules.metrics.diversity import DistinctNGrams, VocabularyUse
from lightning_modules.metrics.meteor import METEOR
from lightning_modules.plots.figures import NoAttentionError, words_over_image
from lightning_modules.system.evaluation import evaluation_view
from lightning_modules.text.text_decoder import Encoded
from lightning_modules.text.text_generator import TextGenerator


def words_and_end(text: str) -> list[str]:
    """The words of a caption, and its end as one more word: a caption that breaks off ends as no reference does.

    Example:
        >>> words_and_end("A dog runs.")
        ['a', 'dog', 'runs', '<end>']
    """
    return [*caption_words(text), "<end>"]


class TrainingReferences(Protocol):
    """A DataModule that knows the references of its training data, as caption DataModules do."""

    def training_references(self) -> Sequence[Sequence[str]]:
        """All captions of each training image."""
        ...


class Captioner(TextGenerator):
    """Describes images with any network.

    Args:
        target_tokenizer: tokenizer of the captions; linked to the data by the command line.
        transform: turns a raw image into the network's input; linked to the data by the command line.
        network: creates the network as ``network(vocab_size, (height, width), channels)``.
        max_length: maximum number of tokens in a caption.
        **arguments: those of :class:`TextGenerator`; ``layer_decay`` scales the backbone's learning rate.

    Raises:
        ValueError: ``max_length`` is not positive.
    """

    network: CaptionNetwork

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        transform: ImageTransform,
        network: Callable[[int, tuple[int, int], int], CaptionNetwork],
        max_length: int = 40,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        built = network(len(target_tokenizer), transform.image_size, transform.channels)
        super().__init__(target_tokenizer, built, **arguments)
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more, got {max_length}")
        self.transform = transform
        self._max_length = max_length

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """Logits, (B, T, V); see :meth:`CaptionNetwork.forward`."""
        return self.network(images, captions)

    def layers(self) -> Sequence[nn.Module]:
        """The backbone, as one layer."""
        return [self.network.backbone]

    def features(self, batch: CaptionBatch) -> Tensor:
        """The backbone's feature map of a batch, (B, D, rows, columns), unless the batch holds it already."""
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

    def text_metrics(self) -> dict[str, Metric]:
        """BLEU-1 to 4, ROUGE-L, METEOR and CIDEr-D of the generated captions, and how varied these are."""
        metrics: dict[str, Metric] = {f"bleu{order}": CaptionBLEU(order) for order in range(1, 5)}
        metrics |= {"rouge_l": RougeL(), "meteor": METEOR(), "cider_d": CIDErD()}
        return {**metrics, "distinct2": DistinctNGrams(2), "words_used": VocabularyUse()}

    def rewards(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        """CIDEr-D of each caption, from 0 to 10; the end of a caption counts as a word, so that captions end properly.

        See :meth:`TextGenerator.rewards`.

        Raises:
            ValueError: the trainer has no DataModule with ``training_references()``, whose n-grams are counted.
        """
        return torch.tensor(cider_d(texts, references, self._frequencies, words_and_end), device=self.device)

    @cached_property
    def _frequencies(self) -> DocumentFrequencies:
        """The number of training images that have an n-gram in a caption."""
        data: TrainingReferences | None = getattr(self.trainer, "datamodule", None)
        if data is None or not callable(getattr(data, "training_references", None)):
            raise ValueError(
                f"objective={self.objective} needs the training captions; give the trainer a DataModule that has "
                f"training_references(), as CaptionDataModule does, got {type(data).__name__}"
            )
        return DocumentFrequencies.of(data.training_references(), words_and_end)

    def on_fit_start(self) -> None:
        """Forgets the n-gram frequencies of another training set."""
        super().on_fit_start()
        self.__dict__.pop("_frequencies", None)

    def length_limit(self, batch: CaptionBatch) -> int:
        """See :meth:`TextGenerator.length_limit`."""
        return self._max_length

    def prepare(self, images: Sequence[RawImage] | Tensor) -> CaptionBatch:
        """Raw images, or transformed ones, as a batch without captions, on the system's device."""
        batch = self.transform.batch(images).to(self.device)
        nothing = torch.zeros(len(batch), 0, dtype=torch.int64, device=self.device)
        indices = list(range(len(batch)))
        return CaptionBatch(batch, None, nothing, nothing.sum(1), [[] for _ in batch], [""] * len(batch), indices)

    def prediction_records(self, batch: CaptionBatch, predictions: Sequence[str]) -> list[dict[str, object]]:
        """The caption of each image, and the image's name."""
        rows = zip(predictions, batch.names, strict=True)
        return [{"caption": caption, "name": name} for caption, name in rows]

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
            strategy: defaults to the system's own.
            batch_size: images per batch.

        Returns:
            One caption per image.

        Raises:
            ValueError: there is no image, or one cannot be read; ``batch_size`` is below 1.
            TypeError: the images are not in a list.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.transform.check(images)
        captions: list[str] = []
        view = evaluation_view(self)
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                captions += view.texts(view.write(view.prepare(images[start : start + batch_size]), strategy))
        return captions

    def plot(self, images: Sequence[RawImage] | Tensor) -> Figure:
        """Draws one panel per generated word, with the attention map of that word over the image.

        Args:
            images: raw images, or a batch of transformed ones, (B, C, H, W).

        Raises:
            NoAttentionError: the decoder has no attention.
            ValueError: there is no image.
        """
        if not self.decoder.attends:
            raise NoAttentionError(f"{type(self.decoder).__name__} has no attention, so there is no map to draw")
        batch = self.prepare(images)
        view = evaluation_view(self)
        with torch.inference_mode():
            features = view.features(batch)
            best = [found[0] for found in view.write(batch, need_weights=True, memory=view.network.encode(features))]
        maps = [cast(Tensor, one.weights).view(-1, *features.shape[-2:]) for one in best]
        words = [self.target_tokenizer.tokens(self.target_tokenizer.content(one.tokens)) for one in best]
        return words_over_image(self.transform.denormalize(cast(Tensor, batch.images)), maps, words)
