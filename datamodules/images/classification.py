"""What every image set shares: its split, its loaders, its summary and its plots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.images.augmentation import Augmentation
from datamodules.images.image_dataset import ImageBatch, ImageDataset, ImageSource
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import SPLITS, Split, stratified_split
from datamodules.summary_text import summary_text

_CLASSES_SHOWN = 12


class ClassificationDataModule(LightningDataModule):
    """Base of every labelled image set; subclass it to bring your own to any classifier here.

    A subclass gives :attr:`class_names`, before anything is read, and :meth:`load`. What the set has no split for is
    cut from its training images: stratified, and by a seed of its own, so that every process cuts alike whatever was
    drawn before. Batches are ``(images, labels)``, (B, C, H, W) float32 and (B,) int64.

    Args:
        transform: makes an image the network's input.
        augmentation: for training images only, before the transform; a :class:`BatchAugmentation` or any transform
            of ``torchvision.transforms.v2`` that takes one uint8 image, see :func:`augment`.
        batch_size: B, on each device.
        num_workers: processes that make batches; 0 makes them in the training process.
        val_share: share of the training images that is kept for validation where the set has no such split.
        test_share: share of all images that is kept for the test where the set has no such split.
        split_seed: decides which images are kept.

    Attributes:
        transform: as given.
        batch_size: as given; Lightning's tuner may change it.
        notes: what the summary should say besides.

    Raises:
        ValueError: a size, number or share is out of its range.

    Example:
        A set of one's own:

        >>> from datamodules import TensorImages
        >>> class Stripes(ClassificationDataModule):
        ...     @property
        ...     def class_names(self):
        ...         return ["across", "down"]
        ...     def load(self):
        ...         down = torch.tensor([0, 255], dtype=torch.uint8).repeat(20, 1, 8, 4)
        ...         images = torch.cat([down.mT, down])
        ...         return {"train": TensorImages(images, torch.arange(2).repeat_interleave(20))}
        >>> stripes = Stripes(ImageTransform(8, channels=1), batch_size=4, val_share=0.25)
        >>> stripes.setup()
        >>> print(stripes.summary())
        Stripes: 40 images of 2 classes as 1x8x8
        ┏━━━━━━━━┳━━━━━━━┳━━━━━┳━━━━━━┓
        ┃ class  ┃ train ┃ val ┃ test ┃
        ┡━━━━━━━━╇━━━━━━━╇━━━━━╇━━━━━━┩
        │ across │    12 │   4 │    4 │
        │ down   │    12 │   4 │    4 │
        ├────────┼───────┼─────┼──────┤
        │ all    │    24 │   8 │    8 │
        └────────┴───────┴─────┴──────┘
        >>> images, labels = next(iter(stripes.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
    """

    def __init__(
        self,
        transform: ImageTransform,
        augmentation: Sequence[Augmentation] = (),
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 (none) or more, got {num_workers}")
        for name, share in (("val_share", val_share), ("test_share", test_share)):
            if not 0.0 <= share < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {share}")
        self.transform = transform
        self.notes: list[str] = []
        self._augmentation = tuple(augmentation)
        self.batch_size = batch_size
        self._num_workers = num_workers
        self._val_share = val_share
        self._test_share = test_share
        self._split_seed = split_seed
        self._datasets: dict[Split, ImageDataset] = {}

    @property
    def class_names(self) -> list[str]:
        """The name of each class, in the order of the labels; known before :meth:`setup`."""
        raise NotImplementedError(f"{type(self).__name__} must define class_names")

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.transform.image_size

    @property
    def title(self) -> str:
        """What the summary calls the set."""
        return type(self).__name__

    def load(self) -> Mapping[Split, ImageSource]:
        """The images of each split that the set comes with; called once, by :meth:`setup`."""
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def setup(self, stage: str | None = None) -> None:
        """Loads the set and cuts what splits it lacks; says what was loaded when ``stage`` is ``fit``."""
        if not self._datasets:
            sources = self.load()
            parts = {split: (source, torch.arange(len(source.labels))) for split, source in sources.items()}
            shares: dict[Split, float] = {"test": self._test_share, "val": self._val_share}
            for split, share in shares.items():
                if split not in parts and share > 0.0:
                    source, indices = parts["train"]
                    rest, held = stratified_split(source.labels[indices], share, self._split_seed)
                    parts["train"], parts[split] = (source, indices[rest]), (source, indices[held])
            self._datasets = {
                split: ImageDataset(*parts[split], self.transform, self._augmentation if split == "train" else ())
                for split in SPLITS
                if split in parts
            }
        if stage == "fit":
            rank_zero_info(self.summary())

    def dataset(self, split: Split) -> ImageDataset:
        """The images of one split.

        Raises:
            RuntimeError: :meth:`setup` was not called.
            ValueError: there is no such split.
        """
        if not self._datasets:
            raise RuntimeError(f"{self.title} is not loaded yet; call prepare_data() and setup() first")
        if split not in self._datasets:
            raise ValueError(f"{self.title} has no split {split!r}, only {list(self._datasets)}; give {split}_share")
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Shuffled and augmented; the last batch is left out when it is not full, unless it is the only one."""
        processes = self.trainer.world_size if self.trainer is not None else 1
        full = len(self.dataset("train")) >= self.batch_size * processes
        return self._loader("train", shuffle=True, drop_last=full)

    def val_dataloader(self) -> DataLoader[ImageBatch] | list[DataLoader[ImageBatch]]:
        """In order, all of them; no loader at all where ``val_share`` is 0 and the set has no such split."""
        return self._loader("val") if self._val_share or "val" in self._datasets else []

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """In order, all of them."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """The test images."""
        return self._loader("test")

    def _loader(self, split: Split, *, shuffle: bool = False, drop_last: bool = False) -> DataLoader[ImageBatch]:
        return DataLoader(
            self.dataset(split),
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_as_it_is,
        )

    def summary(self) -> str:
        """What was loaded, as a table: images of each class in each split, the input's shape, and the notes."""
        splits = [split for split in SPLITS if split in self._datasets]
        counts = {split: self.dataset(split).labels.bincount(minlength=self.num_classes) for split in splits}
        table = Table("class")
        for split in splits:
            table.add_column(split, justify="right")
        for index, name in enumerate(self.class_names[:_CLASSES_SHOWN]):
            table.add_row(name, *(f"{counts[split][index]:,}" for split in splits))
        if self.num_classes > _CLASSES_SHOWN:
            others = (f"{counts[split][_CLASSES_SHOWN:].sum():,}" for split in splits)
            table.add_row(f"({self.num_classes - _CLASSES_SHOWN:,} more)", *others)
        table.add_section()
        table.add_row("all", *(f"{counts[split].sum():,}" for split in splits))
        total = sum(int(count.sum()) for count in counts.values())
        shape = "x".join(str(side) for side in (self.transform.channels, *self.image_size))
        title = f"{self.title}: {total:,} images of {self.num_classes:,} classes as {shape}"
        return summary_text(title, table, self.notes)

    def plot(self, batch: ImageBatch, predictions: Tensor | None = None, *, limit: int = 32) -> Figure:
        """Draws a batch as a grid of images, each under the name of its class.

        Args:
            batch: as a loader gives it.
            predictions: (B,), the classes a network took the images for; shown beside the true ones, in red where
                they differ.
            limit: draw no more images than this.

        Returns:
            The figure; ``figure.savefig(path)`` writes it.
        """
        images, labels = batch
        images = self.transform.denormalize(images[:limit].detach().cpu())
        columns = math.ceil(math.sqrt(len(images)))
        rows = math.ceil(len(images) / columns)
        figure = Figure(figsize=(1.5 * columns, 1.7 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes:
            axis.set_axis_off()
        for index, (axis, image) in enumerate(zip(axes, images, strict=False)):
            axis.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0.0, vmax=1.0)
            label = self.class_names[int(labels[index])]
            if predictions is None:
                axis.set_title(label, fontsize="small")
            else:
                guess = self.class_names[int(predictions[index])]
                same = guess == label
                axis.set_title(label if same else f"{guess}, not {label}", fontsize="small", color="k" if same else "r")
        return figure


def choose_transform(
    default: ImageTransform, image_size: int | tuple[int, int] | None, transform: ImageTransform | None
) -> ImageTransform:
    """The set's own transform, at another size, or another one altogether.

    Raises:
        ValueError: both are given.
    """
    if transform is None:
        return default if image_size is None else dataclasses.replace(default, size=image_size)
    if image_size is not None:
        raise ValueError(f"image_size={image_size} and transform.size={transform.size} both say the size; give one")
    return transform


def _as_it_is(batch: object) -> object:
    return batch
