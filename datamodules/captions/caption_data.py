"""Base of the DataModules for captioned images."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.captions.caption_batch import CaptionBatch, CaptionDataset
from datamodules.data_module import DataModule, check_at_least
from datamodules.images.augmentation import Augmentation
from datamodules.images.image_dataset import ImageReader
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import Split
from datamodules.text.token_batches import TokenBatchSampler, TokenBudget, resumable_loader
from datamodules.tokenizers.tokenizer import Tokenizer
from datamodules.tokenizers.tokenizer_trainers import TokenizerTrainer, Word

# Limits of a plot: characters per line, lines per caption, captions per image.
_CHARACTERS, _LINES, _CAPTIONS = 40, 4, 5


class CaptionedImages(NamedTuple):
    """Images and their captions.

    Attributes:
        reader: the images.
        names: names of the images, in the reader's order; unique within a data set.
        captions: captions of each image, at least one.
    """

    reader: ImageReader
    names: Sequence[str]
    captions: Sequence[Sequence[str]]


class CaptionDataModule(DataModule[CaptionedImages, CaptionDataset, CaptionBatch]):
    """Base of all DataModules for captioned images; subclass it to bring your own images to any captioner here.

    A subclass defines :meth:`load`. Batches are :class:`CaptionBatch`, with captions of similar lengths. In training
    an item is a caption with its image, so that an epoch contains an image as often as it has captions; in evaluation
    it is an image with all its captions. Training batches are shuffled by seed and epoch; a run that is resumed within
    an epoch continues with the batches that it has not seen.

    Args:
        transform: transform from a raw image to the network's input.
        augmentation: augmentation of the training images, before the transform; see :func:`augment`.
        tokenizer: trainer of the tokenizer, on the training captions; if omitted, :class:`Word` in lower case with
            words that occur at least twice.
        batch_size: B, per device.
        max_length: maximum number of tokens of a training caption, without the special ones; longer ones are removed.
            If omitted, any number.
        num_workers: worker processes of each loader; 0 loads in the main process.
        seed: seed of the order of the training captions.

    Attributes:
        transform: as given.
        batch_size: as given; Lightning's tuner may change it.
        notes: lines to append to the summary.

    Raises:
        ValueError: a number is out of range.

    Example:
        Your own images:

        >>> from datamodules import TensorImages
        >>> class Plain(CaptionDataModule):
        ...     def load(self):
        ...         shades = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
        ...         captions = [["all black", "nothing but black"], ["all white"]]
        ...         return {"train": CaptionedImages(TensorImages(shades, torch.arange(2)), ["0", "1"], captions)}
        >>> plain = Plain(ImageTransform(8, channels=1), tokenizer=Word(), batch_size=2)
        >>> print(plain.summary())
        Plain: 2 images as 1x8x8; a vocabulary of 9 tokens
        ┏━━━━━━━┳━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┓
        ┃ split ┃ images ┃ captions ┃ batches ┃ tokens ┃ unknown ┃ padding ┃
        ┡━━━━━━━╇━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━┩
        │ train │      2 │        3 │       2 │     13 │  0.00 % │   0.0 % │
        └───────┴────────┴──────────┴─────────┴────────┴─────────┴─────────┘
        >>> sorted(batch.images.shape for batch in plain.train_dataloader())
        [torch.Size([1, 1, 8, 8]), torch.Size([2, 1, 8, 8])]
    """

    def __init__(
        self,
        transform: ImageTransform,
        augmentation: Sequence[Augmentation] = (),
        *,
        tokenizer: TokenizerTrainer | None = None,
        batch_size: int = 64,
        max_length: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_workers=num_workers, seed=seed)
        check_at_least(1, batch_size=batch_size, max_length=max_length)
        self.transform = transform
        self.batch_size = batch_size
        self._augmentation = tuple(augmentation)
        self._tokenizer = tokenizer or Word(lower=True, min_frequency=2)
        self._max_length = max_length

    def tokenizer_texts(self) -> Sequence[str]:
        """Texts to train the tokenizer on: the training captions."""
        return [caption for several in self.loaded["train"].captions for caption in several]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.transform.image_size

    @cached_property
    def target_tokenizer(self) -> Tokenizer:
        """Tokenizer of the captions; trained on first use."""
        return self._tokenizer.train(self.tokenizer_texts())

    def training_references(self) -> list[list[str]]:
        """All captions of each training image, those above ``max_length`` included."""
        return self.dataset("train").captions

    def use_features(self, split: Split, features: Tensor | None, mirrored: Tensor | None = None) -> None:
        """Puts precomputed features in place of the images of a split, in existing loaders too.

        Args:
            split: the split.
            features: (images, D, rows, columns), features of the images, in the order of ``dataset(split).names``;
                ``None`` to use the images again.
            mirrored: (images, D, rows, columns), features of the mirrored images; each batch then takes one or the
                other at random, image by image.

        Raises:
            ValueError: there is no such split, or the shapes do not match.

        Example:
            >>> from datamodules import DigitGridDataModule
            >>> data = DigitGridDataModule(train_size=9, batch_size=3)
            >>> data.use_features("train", torch.zeros(9, 16, 4, 4))
            >>> next(iter(data.train_dataloader())).features.shape
            torch.Size([3, 16, 4, 4])
        """
        # In place: Lightning may have built the loader before a callback has computed the features.
        self.dataset(split).set_features(features, mirrored)

    def loader(self, split: Split) -> DataLoader[CaptionBatch]:
        """Loader of a split: each training caption once, shuffled by seed and epoch, or each image; can be resumed."""
        dataset = self.dataset(split)
        return resumable_loader(dataset, dataset.lengths, self._budget(split), self.num_workers, self.trainer)

    def describe(self) -> tuple[str, Table]:
        """Headline and a table of images, captions, batches, tokens, unknown tokens and padding by split."""
        table = Table("split", "images", "captions", "batches", "tokens", "unknown", "padding")
        for column in table.columns[1:]:
            column.justify = "right"
        for split, dataset in self.datasets.items():
            rows = dataset.caption_rows
            sampler = TokenBatchSampler(dataset.lengths, self._budget(split))
            counts = (len(dataset.names), len(rows), len(sampler), len(rows.flat))
            fractions = (f"{rows.fraction_of(self.target_tokenizer.unk_id):.2%}", f"{sampler.padding_fraction():.1%}")
            table.add_row(split, *(f"{count:,}" for count in counts), *(text.replace("%", " %") for text in fractions))
        total = sum(len(dataset.names) for dataset in self.datasets.values())
        shape = "x".join(str(side) for side in (self.transform.channels, *self.image_size))
        vocabulary = f"a vocabulary of {len(self.target_tokenizer):,} tokens"
        return f"{self.title}: {total:,} images as {shape}; {vocabulary}", table

    def make_datasets(self) -> Mapping[Split, CaptionDataset]:
        """See :meth:`DataModule.make_datasets`; removes training captions above ``max_length``."""
        return {split: self._dataset(split, images) for split, images in self.loaded.items()}

    def plot(self, batch: CaptionBatch, hypotheses: Sequence[str] | None = None, *, limit: int = 16) -> Figure:
        """Plots a batch as a grid of images, each with its captions below it.

        Args:
            batch: a batch of one of the loaders.
            hypotheses: B generated captions, shown above their images.
            limit: maximum number of images.

        Returns:
            The figure; ``figure.savefig(path)`` saves it.

        Raises:
            ValueError: the batch has features in place of images, and names an image that this data set lacks.
        """
        images = self._named_images(batch.names[:limit]) if batch.images is None else batch.images[:limit]
        images = self.transform.denormalize(images.detach().cpu())
        below = [
            "\n".join(_wrapped(f"– {text}") for text in several[:_CAPTIONS]) for several in batch.references[:limit]
        ]
        above = [_wrapped(text) for text in hypotheses[:limit]] if hypotheses is not None else [""] * len(images)
        columns = math.ceil(math.sqrt(len(images)))
        rows = math.ceil(len(images) / columns)
        lines = max(f"{upper}\n{lower}".count("\n") for upper, lower in zip(above, below, strict=True)) + 1
        figure = Figure(figsize=(2.6 * columns, (2.5 + 0.15 * lines) * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes[len(images) :]:
            axis.set_axis_off()
        for axis, image, upper, lower in zip(axes, images, above, below, strict=False):
            axis.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0.0, vmax=1.0)
            axis.set(xticks=[], yticks=[])
            # A caption with two dollar signs is not a formula.
            axis.set_title(upper, fontsize="small", parse_math=False)
            axis.set_xlabel(lower, fontsize="x-small", parse_math=False)
        return figure

    def _named_images(self, names: Sequence[str]) -> Tensor:
        """Images by their names, (b, C, H, W)."""
        known = {
            name: (dataset, number) for dataset in self.datasets.values() for number, name in enumerate(dataset.names)
        }
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"batch: {self.title} has no image {unknown[0]!r}; plot a batch of its own loaders")
        return torch.cat([dataset.images(torch.tensor([number])) for dataset, number in map(known.__getitem__, names)])

    def _dataset(self, split: Split, images: CaptionedImages) -> CaptionDataset:
        if split != "train":
            return CaptionDataset(*images, self.target_tokenizer, self.transform)
        dataset = CaptionDataset(
            *images,
            self.target_tokenizer,
            self.transform,
            self._augmentation,
            each_caption=True,
            max_length=self._max_length,
        )
        total = sum(map(len, images.captions))
        if len(dataset) < total:
            removed = f"{total - len(dataset):,} of {total:,} captions removed"
            self.notes.append(f"train: {removed}, longer than {self._max_length} tokens")
        return dataset

    def _budget(self, split: Split) -> TokenBudget:
        # By the number of images only: captions are small compared to images.
        return TokenBudget(sys.maxsize, split == "train", self.seed, max_pairs=self.batch_size)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _CHARACTERS, max_lines=_LINES, placeholder=" …")
