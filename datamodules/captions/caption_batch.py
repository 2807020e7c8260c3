"""Captioned images, and the batches that are made of them."""

from __future__ import annotations

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

# Images that are looked at in one go where all are: enough for one gather, little enough to hold in memory twice.
_PIECE = 256


class CaptionBatch(NamedTuple):
    """What a system that describes images trains on.

    Attributes:
        images: (B, C, H, W) float32, the network's input; ``None`` where features were computed before.
        features: (B, D, rows, columns), what a frozen backbone makes of the images, where that was computed before;
            else ``None``.
        captions: (B, T) int64, each row the beginning of sentence, its tokens, the end, then padding. In training one
            caption of the image; in evaluation its first one.
        caption_lengths: (B,) int64, beginning and end counted.
        references: for each image all its captions, as they were read.
        names: of the images, B of them.
    """

    images: Tensor | None
    features: Tensor | None
    captions: Tensor
    caption_lengths: Tensor
    references: list[list[str]]
    names: list[str]


class CaptionDataset(Dataset[CaptionBatch]):
    """Captioned images that come as batches: an item is the :class:`CaptionBatch` of a list of their numbers.

    Args:
        reader: the images.
        names: of the images, in the reader's order.
        captions: of each image, one or more.
        tokenizer: turns captions into numbers.
        transform: makes the network's input.
        augmentation: applied before the transform, see :func:`augment`.
        each_caption: an item for each caption of an image, for training, where a tokenizer that has dropout cuts it
            anew each time; else one for each image.
        max_length: captions of more tokens, begin and end not counted, are no items; for training only.

    Attributes:
        names: as given.
        captions: as given.
        lengths: (n, 2) int64 of n items, for :class:`TokenBatchSampler`: 0, since the images are all of one size, and
            the numbers of the caption with its beginning and end.
        caption_rows: the numbers of all captions; in training of those that are not too long.
        features: (images, D, rows, columns), what a frozen backbone makes of :meth:`image_batches`, to be set from
            outside; batches then carry their share of it, and no images.
        mirrored_features: the same of the mirror images; where it is set as well, a batch carries for each of its
            images the one or the other, by chance.

    Raises:
        ValueError: not as many captions as names, an image without any, or only captions that are too long.

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
            raise ValueError(f"captions: {len(bare):,} images have none, the first is {bare[0]!r}; leave them out")
        texts = [text for several in captions for text in several]
        rows = TokenRows.encoded(tokenizer, texts, begin=True)
        counts = torch.tensor([len(several) for several in captions], dtype=torch.int64)
        image = torch.arange(len(names)).repeat_interleave(counts)
        if each_caption and max_length is not None:
            kept = (rows.lengths - 2 <= max_length).nonzero().squeeze(1)
            if not len(kept):
                raise ValueError(f"max_length={max_length} leaves none of the {len(rows):,} captions; raise it")
            rows, image, texts = rows.select(kept), image[kept], [texts[place] for place in kept.tolist()]
        self.reader = reader
        self.names = list(names)
        self.captions = [list(several) for several in captions]
        self.tokenizer = tokenizer
        self.transform = transform
        self.augmentation = tuple(augmentation)
        self.caption_rows = rows
        self.features: Tensor | None = None
        self.mirrored_features: Tensor | None = None
        self._image = image  # of each caption
        self._texts = texts
        self._items = torch.arange(len(rows)) if each_caption else counts.cumsum(0) - counts  # which captions
        self._drop = each_caption and tokenizer.dropout > 0.0
        self.lengths = torch.stack([torch.zeros_like(self._items), rows.lengths[self._items]], dim=1)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, indices: Sequence[int] | int) -> CaptionBatch:
        """The batch of these items, in this order; one number makes a batch of one."""
        places = self._items[torch.tensor([indices] if isinstance(indices, int) else list(indices))]
        rows, chosen = self.caption_rows, places
        if self._drop:
            texts = [self._texts[place] for place in places]
            rows = TokenRows.encoded(self.tokenizer, texts, begin=True, dropout=True)
            chosen = torch.arange(len(places))
        image = self._image[places]
        return CaptionBatch(
            self._read(image, self.augmentation) if self.features is None else None,
            self._seen(image),
            rows.padded(chosen, self.tokenizer.pad_id),
            rows.lengths[chosen],
            [self.captions[number] for number in image],
            [self.names[number] for number in image],
        )

    def images(self, numbers: Tensor) -> Tensor:
        """Some images as evaluation has them, (b, C, H, W) float32.

        Args:
            numbers: (b,) int64, which, in the order of :attr:`names`.
        """
        return self._read(numbers)

    def image_batches(self, batch_size: int) -> Iterator[Tensor]:
        """Every image once, in order, as evaluation has it: (b, C, H, W) float32 each, ``batch_size`` at most."""
        return map(self.images, torch.split(torch.arange(len(self.names)), batch_size))

    def content_key(self) -> str:
        """A name for what :meth:`image_batches` gives: the same for the same images and transform only."""
        pieces = torch.split(torch.arange(len(self.names)), _PIECE)
        digests = (hashlib.sha256(image).hexdigest() for piece in pieces for image in self.reader.contents(piece))
        return content_key(chain([repr(self.transform)], digests))

    def _seen(self, numbers: Tensor) -> Tensor | None:
        """The features of images, if there are any."""
        if self.features is None:
            return None
        seen = self.features[numbers]
        if self.mirrored_features is not None:
            mirrored = torch.rand(len(numbers)) < 0.5
            seen[mirrored] = self.mirrored_features[numbers[mirrored]]
        return seen

    def _read(self, numbers: Tensor, augmentation: Sequence[Augmentation] = ()) -> Tensor:
        pieces = [self.transform.fit(augment(piece, augmentation)) for piece in self.reader.read(numbers)]
        return self.transform.normalize(torch.cat(pieces))
