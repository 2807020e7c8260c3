"""Data sets of captioned images, and their batches."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.files.disk_cache import content_key
from datamodules.images.augmentation import Augmentation, augment
from datamodules.images.image_dataset import ImageReader
from datamodules.images.image_transform import ImageTransform
from datamodules.text.text_batch import TokenRows
from datamodules.tokenizers.tokenizer import Tokenizer

# Images per read when all are read: enough for one gather, few enough to hold in memory twice.
_PIECE = 256


class CaptionBatch(NamedTuple):
    """Batch of captioned images.

    Attributes:
        images: (B, C, H, W) float32, transformed images; ``None`` if there are precomputed features.
        features: (B, D, rows, columns), precomputed feature maps of the images, if there are any; else ``None``.
        captions: (B, T_q) int64, token ids between beginning and end of sentence, then padding. In training, any
            caption of the image; in evaluation, its first one.
        caption_lengths: (B,) int64, number of tokens in each row, beginning and end included.
        references: all captions of each image.
        names: B names of the images.
        indices: B indices of the items in their data set.
    """

    images: Tensor | None
    features: Tensor | None
    captions: Tensor
    caption_lengths: Tensor
    references: list[list[str]]
    names: list[str]
    indices: list[int]


class CaptionDataset(Dataset[CaptionBatch]):
    """Data set of captioned images whose items are batches: ``dataset[[3, 1]]`` is the :class:`CaptionBatch` of two.

    Args:
        reader: the images.
        names: names of the images, in the reader's order.
        captions: captions of each image, at least one.
        tokenizer: tokenizer of the captions.
        transform: transform from a raw image to the network's input.
        augmentation: augmentation before the transform, see :func:`augment`.
        each_caption: whether an item is a caption, for training, rather than an image. A tokenizer with dropout then
            encodes the caption again for each batch.
        max_length: maximum number of tokens of an item's caption, without the special ones; used with
            ``each_caption`` only. If omitted, any number.

    Attributes:
        names: as given.
        captions: as given.
        lengths: (n, 2) int64 for n items, for :class:`TokenBatchSampler`: 0, since all images have the same size, and
            the number of the caption's tokens, special ones included.
        caption_rows: token ids of all captions; with ``each_caption``, of those within ``max_length``.
        features: (images, D, rows, columns), features that batches contain in place of images; see
            :meth:`with_features`.
        mirrored_features: likewise of the mirrored images.

    Raises:
        ValueError: the number of captions differs from that of the names, an image has no caption, or all captions
            exceed ``max_length``.

    Example:
        >>> from datamodules import TensorImages, Word
        >>> images = TensorImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2))
        >>> captions = [["a dog", "a brown dog"], ["two cats"]]
        >>> words = Word().train(text for texts in captions for text in texts)
        >>> dataset = CaptionDataset(images, ["1.jpg", "2.jpg"], captions, words, ImageTransform(16), each_caption=True)
        >>> batch = dataset[[1, 2]]
        >>> words.decode(batch.captions.tolist()), batch.images.shape
        (['a brown dog', 'two cats'], torch.Size([2, 3, 16, 16]))
        >>> batch.names, batch.references
        (['1.jpg', '2.jpg'], [['a dog', 'a brown dog'], ['two cats']])
    """

    def __init__(
        self,
        reader: ImageReader,
        names: Sequence[str],
        captions: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        transform: ImageTransform,
        augmentation: Sequence[Augmentation] = (),
        *,
        each_caption: bool = False,
        max_length: int | None = None,
    ) -> None:
        if len(captions) != len(names):
            raise ValueError(f"captions must be as many as the {len(names)} names, got {len(captions)}")
        bare = [name for name, texts in zip(names, captions, strict=True) if not texts]
        if bare:
            raise ValueError(f"captions: {len(bare):,} images have none, the first is {bare[0]!r}; remove them")
        texts = [text for several in captions for text in several]
        rows = TokenRows.encoded(tokenizer, texts, begin=True)
        counts = torch.tensor([len(several) for several in captions], dtype=torch.int64)
        image = torch.arange(len(names)).repeat_interleave(counts)
        if each_caption and max_length is not None:
            kept = (rows.lengths - 2 <= max_length).nonzero().squeeze(1)
            if not len(kept):
                raise ValueError(f"max_length={max_length} excludes all {len(rows):,} captions; raise it")
            rows, image, texts = rows.select(kept), image[kept], [texts[index] for index in kept.tolist()]
        self.reader = reader
        self.names = list(names)
        self.captions = [list(several) for several in captions]
        self.tokenizer = tokenizer
        self.transform = transform
        self.augmentation = tuple(augmentation)
        self.caption_rows = rows
        self._features: tuple[Tensor | None, Tensor | None] = (None, None)
        self._image = image  # (captions,), image of each caption
        self._texts = texts
        self._items = torch.arange(len(rows)) if each_caption else counts.cumsum(0) - counts  # (n,), caption of each
        self._drop = each_caption and tokenizer.dropout > 0.0
        self.lengths = torch.stack([torch.zeros_like(self._items), rows.lengths[self._items]], dim=1)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, indices: Sequence[int] | int) -> CaptionBatch:
        """Batch of the items with these indices, in this order; a single index gives a batch of one item."""
        chosen = [indices] if isinstance(indices, int) else list(indices)
        captions = self._items[torch.tensor(chosen, dtype=torch.int64)]  # (B,)
        rows, numbers = self.caption_rows, captions
        if self._drop:
            texts = [self._texts[caption] for caption in captions]
            rows = TokenRows.encoded(self.tokenizer, texts, begin=True, dropout=True)
            numbers = torch.arange(len(captions))
        image = self._image[captions]  # (B,)
        return CaptionBatch(
            self._read(image, self.augmentation) if self.features is None else None,
            self._features_of(image),
            rows.padded(numbers, self.tokenizer.pad_id),
            rows.lengths[numbers],
            [self.captions[number] for number in image],
            [self.names[number] for number in image],
            chosen,
        )

    @property
    def features(self) -> Tensor | None:
        """(images, D, rows, columns), features that batches contain in place of images."""
        return self._features[0]

    @property
    def mirrored_features(self) -> Tensor | None:
        """(images, D, rows, columns), features of the mirrored images."""
        return self._features[1]

    def with_features(self, features: Tensor | None, mirrored: Tensor | None = None) -> CaptionDataset:
        """The same data set with precomputed features in place of images; everything else is shared.

        Args:
            features: (images, D, rows, columns), features of the images of :meth:`image_batches`; ``None`` for images.
            mirrored: (images, D, rows, columns), features of the mirrored images; each batch then takes one or the
                other at random, image by image.

        Raises:
            ValueError: there is not one feature map per image, or ``mirrored`` does not match ``features``.

        Example:
            >>> from datamodules import TensorImages, Word
            >>> images = TensorImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2))
            >>> words = Word().train(["a dog", "a cat"])
            >>> dataset = CaptionDataset(images, ["1", "2"], [["a dog"], ["a cat"]], words, ImageTransform(16))
            >>> batch = dataset.with_features(torch.ones(2, 64, 4, 4))[[1]]
            >>> batch.images, batch.features.shape
            (None, torch.Size([1, 64, 4, 4]))
        """
        other = copy.copy(self)
        other.set_features(features, mirrored)
        return other

    def set_features(self, features: Tensor | None, mirrored: Tensor | None = None) -> None:
        """In-place form of :meth:`with_features`, for a data set that a loader holds already."""
        if features is not None and (features.ndim != 4 or len(features) != len(self.names)):
            raise ValueError(
                f"features must be ({len(self.names)}, D, rows, columns), one feature map per image, got "
                f"{tuple(features.shape)}"
            )
        if mirrored is not None and (features is None or mirrored.shape != features.shape):
            expected = None if features is None else tuple(features.shape)
            raise ValueError(f"mirrored must have the shape of features, {expected}, got {tuple(mirrored.shape)}")
        self._features = (features, mirrored)

    def images(self, numbers: Tensor) -> Tensor:
        """Transformed images without augmentation, (b, C, H, W) float32.

        Args:
            numbers: (b,) int64, indices of the images, in the order of :attr:`names`.
        """
        return self._read(numbers)

    def image_batches(self, batch_size: int) -> Iterator[Tensor]:
        """Each image once, in order and without augmentation, in pieces of (b, C, H, W) float32.

        Args:
            batch_size: maximum of b.
        """
        return map(self.images, torch.split(torch.arange(len(self.names)), batch_size))

    def content_key(self) -> str:
        """Key for files computed from :meth:`image_batches`: equal for equal images and transform only."""
        pieces = torch.split(torch.arange(len(self.names)), _PIECE)
        digests = (hashlib.sha256(image).hexdigest() for piece in pieces for image in self.reader.contents(piece))
        return content_key(chain([repr(self.transform)], digests))

    def _features_of(self, numbers: Tensor) -> Tensor | None:
        if self.features is None:
            return None
        chosen = self.features[numbers]  # (B, D, rows, columns)
        if self.mirrored_features is not None:
            mirrored = torch.rand(len(numbers)) < 0.5
            chosen[mirrored] = self.mirrored_features[numbers[mirrored]]
        return chosen

    def _read(self, numbers: Tensor, augmentation: Sequence[Augmentation] = ()) -> Tensor:
        pieces = [self.transform.resize_and_crop(augment(piece, augmentation)) for piece in self.reader.read(numbers)]
        return self.transform.normalize(torch.cat(pieces))
