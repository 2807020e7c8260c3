"""What every set of captioned images shares: its tokenizer, its loaders, its summary and its plots."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.captions.caption_batch import CaptionBatch, CaptionDataset
from datamodules.images.augmentation import Augmentation
from datamodules.images.image_dataset import ImageReader
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import SPLITS, Split
from datamodules.summary_text import summary_text
from datamodules.text.token_batches import TokenBatchSampler, TokenBudget, resumable_loader
from datamodules.tokenizers.tokenizer import Tokenizer
from datamodules.tokenizers.tokenizer_trainers import TokenizerTrainer, Word

# What a plot shows of long captions, and of images with many.
_LETTERS, _LINES, _CAPTIONS = 40, 4, 5


class CaptionedImages(NamedTuple):
    """Images and their captions.

    Attributes:
        reader: the images.
        names: of the images, in the reader's order; no name twice in a set.
        captions: of each image, one or more.
    """

    reader: ImageReader
    names: Sequence[str]
    captions: Sequence[Sequence[str]]


class CaptionedImagesDataModule(LightningDataModule):
    """Base of every set of captioned images; subclass it to bring your own to any system that describes images.

    A subclass gives :meth:`load`. Batches are :class:`CaptionBatch`, of captions of like lengths. In training an item
    is one caption with its image, so that an epoch shows an image as often as it has captions; in evaluation it is an
    image with all its captions. The training batches are shuffled by seed and epoch, and a run that is cut inside an
    epoch goes on with the batches that it had not seen.

    Args:
        transform: makes an image the network's input.
        augmentation: for training images only, before the transform, see :func:`augment`.
        tokenizer: makes the tokenizer from the training captions; when left out, whole words in lower case that occur
            twice or more.
        batch_size: B, on each device.
        max_length: training captions of more tokens, begin and end not counted, are left out; none are when left out.
        num_workers: processes that make batches; 0 makes them in the training process.
        seed: decides the order of the training captions.

    Attributes:
        transform: as given.
        batch_size: as given; Lightning's tuner may change it.
        notes: what the summary should say besides.

    Raises:
        ValueError: a number is out of its range.

    Example:
        A set of one's own:

        >>> from datamodules import TensorImages
        >>> class Plain(CaptionedImagesDataModule):
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
        super().__init__()
        for name, number in (("batch_size", batch_size), ("max_length", max_length)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be 1 or more, got {number}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 (none) or more, got {num_workers}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.transform = transform
        self.batch_size = batch_size
        self.notes: list[str] = []
        self._augmentation = tuple(augmentation)
        self._tokenizer = tokenizer or Word(lower=True, min_frequency=2)
        self._max_length = max_length
        self._num_workers = num_workers
        self._seed = seed

    def load(self) -> Mapping[Split, CaptionedImages]:
        """The images of each split, ``train`` among them; called once, when they are first needed."""
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def tokenizer_texts(self) -> Sequence[str]:
        """What the tokenizer is made from: the training captions, unless a subclass has better."""
        return [caption for several in self._images["train"].captions for caption in several]

    @property
    def title(self) -> str:
        """What the summary calls the set."""
        return type(self).__name__

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.transform.image_size

    @cached_property
    def target_tokenizer(self) -> Tokenizer:
        """Turns captions into numbers; trained when first asked for."""
        return self._tokenizer.train(self.tokenizer_texts())

    def setup(self, stage: str | None = None) -> None:
        """Loads the images and makes the captions' numbers; says what was loaded when ``stage`` is ``fit``."""
        self._datasets  # noqa: B018 # made when first asked for
        if stage == "fit":
            rank_zero_info(self.summary())

    def dataset(self, split: Split) -> CaptionDataset:
        """The images of one split.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self._datasets:
            raise ValueError(f"{self.title} has no split {split!r}, only {list(self._datasets)}; give {split}")
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[CaptionBatch]:
        """Every caption once, shuffled by seed and epoch; its place in the epoch is kept in checkpoints."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[CaptionBatch] | list[DataLoader[CaptionBatch]]:
        """Every image once, in order of its first caption's length; no loader where there is no such split."""
        return self._loader("val") if "val" in self._datasets else []

    def test_dataloader(self) -> DataLoader[CaptionBatch]:
        """Every image once, in order of its first caption's length."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[CaptionBatch]:
        """The test images."""
        return self._loader("test")

    def summary(self) -> str:
        """What was loaded, as a table: images, captions, batches, unknown tokens and padding; and the notes."""
        table = Table("split", "images", "captions", "batches", "tokens", "unknown", "padding")
        for column in table.columns[1:]:
            column.justify = "right"
        for split, dataset in self._datasets.items():
            rows = dataset.caption_rows
            sampler = TokenBatchSampler(dataset.lengths, self._budget(shuffle=split == "train"))
            unknown = float((rows.flat == self.target_tokenizer.unk_id).sum()) / len(rows.flat)
            counts = (len(dataset.names), len(rows), len(sampler), len(rows.flat))
            shares = (f"{unknown:.2%}", f"{sampler.padding_share():.1%}")
            table.add_row(split, *(f"{count:,}" for count in counts), *(share.replace("%", " %") for share in shares))
        total = sum(len(dataset.names) for dataset in self._datasets.values())
        shape = "x".join(str(side) for side in (self.transform.channels, *self.image_size))
        title = f"{self.title}: {total:,} images as {shape}; a vocabulary of {len(self.target_tokenizer):,} tokens"
        return summary_text(title, table, self.notes)

    def plot(self, batch: CaptionBatch, hypotheses: Sequence[str] | None = None, *, limit: int = 16) -> Figure:
        """Draws a batch as a grid of images, each with its captions under it.

        Args:
            batch: as a loader gives it.
            hypotheses: B captions that a network wrote; each shown over its image.
            limit: draw no more images than this.

        Returns:
            The figure; ``figure.savefig(path)`` writes it.

        Raises:
            ValueError: the batch has features in place of images, and names an image that is not of this set.
        """
        images = self._pictures(batch.names[:limit]) if batch.images is None else batch.images[:limit]
        images = self.transform.denormalize(images.detach().cpu())
        under = [
            "\n".join(_wrapped(f"– {text}") for text in several[:_CAPTIONS]) for several in batch.references[:limit]
        ]
        over = [_wrapped(text) for text in hypotheses[:limit]] if hypotheses is not None else [""] * len(images)
        columns = math.ceil(math.sqrt(len(images)))
        rows = math.ceil(len(images) / columns)
        lines = max(f"{above}\n{below}".count("\n") for above, below in zip(over, under, strict=True)) + 1
        figure = Figure(figsize=(2.6 * columns, (2.5 + 0.15 * lines) * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes[len(images) :]:
            axis.set_axis_off()
        for axis, image, above, below in zip(axes, images, over, under, strict=False):
            axis.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0.0, vmax=1.0)
            axis.set(xticks=[], yticks=[])
            # A caption with two dollars in it is no formula.
            axis.set_title(above, fontsize="small", parse_math=False)
            axis.set_xlabel(below, fontsize="x-small", parse_math=False)
        return figure

    def _pictures(self, names: Sequence[str]) -> Tensor:
        """Images by their names, (b, C, H, W)."""
        places = {
            name: (dataset, number) for dataset in self._datasets.values() for number, name in enumerate(dataset.names)
        }
        unknown = [name for name in names if name not in places]
        if unknown:
            raise ValueError(f"batch: {self.title} has no image {unknown[0]!r}; plot a batch of its own loaders")
        return torch.cat([dataset.images(torch.tensor([number])) for dataset, number in map(places.__getitem__, names)])

    @cached_property
    def _images(self) -> dict[Split, CaptionedImages]:
        images = self.load()
        return {split: images[split] for split in SPLITS if split in images}

    @cached_property
    def _datasets(self) -> dict[Split, CaptionDataset]:
        return {split: self._dataset(split, images) for split, images in self._images.items()}

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
            left_out = f"{total - len(dataset):,} of {total:,} captions left out"
            self.notes.append(f"train: {left_out}, longer than {self._max_length} tokens")
        return dataset

    def _budget(self, *, shuffle: bool) -> TokenBudget:
        # By images alone: captions are short beside what an image takes.
        return TokenBudget(sys.maxsize, shuffle, self._seed, max_pairs=self.batch_size)

    def _loader(self, split: Split, *, shuffle: bool = False) -> DataLoader[CaptionBatch]:
        dataset = self.dataset(split)
        budget = self._budget(shuffle=shuffle)
        return resumable_loader(dataset, dataset.lengths, budget, self._num_workers, self.trainer)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _LETTERS, max_lines=_LINES, placeholder=" …")
