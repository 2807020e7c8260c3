"""Base of the DataModules for image classification."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.data_module import DataModule, check_at_least
from datamodules.images.augmentation import Augmentation
from datamodules.images.image_dataset import ImageBatch, ImageDataset, ImageSource
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import HeldOut, Split, stratified_split

_CLASSES_SHOWN = 12

TENTH_AND_FIFTH = HeldOut(val=0.1, test=0.2)


class ClassificationDataModule(DataModule[ImageSource, ImageDataset, ImageBatch]):
    """Base of all DataModules for image classification; subclass it to bring your own images to any classifier here.

    A subclass defines :attr:`class_names`, which must be known before the images are loaded, and :meth:`load`. Missing
    splits are cut from the training images, stratified by class; the split depends on ``seed`` only, so that all
    processes agree on it. Batches are ``(images, labels)``: (B, C, H, W) float32 and (B,) int64.

    Args:
        transform: transform from a raw image to the network's input.
        augmentation: augmentation of the training images, before the transform: each a :class:`BatchAugmentation`, or
            a transform of ``torchvision.transforms.v2`` for a single uint8 image; see :func:`augment`.
        batch_size: B, per device.
        num_workers: worker processes of each loader; 0 loads in the main process.
        held_out: fractions of the training images to hold out if there is no validation or test split.
        seed: seed of the held-out splits.

    Attributes:
        transform: as given.
        batch_size: as given; Lightning's tuner may change it.
        notes: lines to append to the summary.

    Raises:
        ValueError: ``batch_size``, ``num_workers`` or ``seed`` is out of range.

    Example:
        Your own images:

        >>> from datamodules import TensorImages
        >>> class Stripes(ClassificationDataModule):
        ...     @property
        ...     def class_names(self):
        ...         return ["across", "down"]
        ...     def load(self):
        ...         down = torch.tensor([0, 255], dtype=torch.uint8).repeat(20, 1, 8, 4)
        ...         images = torch.cat([down.mT, down])
        ...         return {"train": TensorImages(images, torch.arange(2).repeat_interleave(20))}
        >>> stripes = Stripes(ImageTransform(8, channels=1), batch_size=4, held_out=HeldOut(val=0.25, test=0.2))
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
        held_out: HeldOut = TENTH_AND_FIFTH,
        seed: int = 0,
    ) -> None:
        super().__init__(num_workers=num_workers, seed=seed)
        check_at_least(1, batch_size=batch_size)
        self.transform = transform
        self.batch_size = batch_size
        self._augmentation = tuple(augmentation)
        self._held_out = held_out

    @property
    def class_names(self) -> list[str]:
        """Name of each class, in the order of the labels; known before :meth:`setup`."""
        raise NotImplementedError(f"{type(self).__name__} must define class_names")

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.transform.image_size

    def make_datasets(self) -> Mapping[Split, ImageDataset]:
        """See :meth:`DataModule.make_datasets`; cuts the missing splits from the training images."""
        whole = {split: (source, torch.arange(len(source.labels))) for split, source in self.loaded.items()}
        return {
            split: ImageDataset(source, indices, self.transform, self._augmentation if split == "train" else ())
            for split, (source, indices) in self._held_out.fill(whole, self._cut).items()
        }

    def _cut(
        self, part: tuple[ImageSource, Tensor], fraction: float
    ) -> tuple[tuple[ImageSource, Tensor], tuple[ImageSource, Tensor]]:
        source, indices = part
        rest, held = stratified_split(source.labels[indices], fraction, self.seed)
        return (source, indices[rest]), (source, indices[held])

    def loader(self, split: Split) -> DataLoader[ImageBatch]:
        """Loader of a split; the training images are shuffled and augmented.

        The last training batch is dropped if it is not full, unless a process would be left without any batch.
        """
        dataset = self.dataset(split)
        processes = self.trainer.world_size if self.trainer is not None else 1
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=split == "train",
            drop_last=split == "train" and len(dataset) >= self.batch_size * processes,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_as_it_is,
        )

    def describe(self) -> tuple[str, Table]:
        """Headline and a table of the number of images by class and split."""
        counts = {split: data.labels.bincount(minlength=self.num_classes) for split, data in self.datasets.items()}
        table = Table("class")
        for split in counts:
            table.add_column(split, justify="right")
        for index, name in enumerate(self.class_names[:_CLASSES_SHOWN]):
            table.add_row(name, *(f"{count[index]:,}" for count in counts.values()))
        if self.num_classes > _CLASSES_SHOWN:
            others = (f"{count[_CLASSES_SHOWN:].sum():,}" for count in counts.values())
            table.add_row(f"({self.num_classes - _CLASSES_SHOWN:,} more)", *others)
        table.add_section()
        table.add_row("all", *(f"{count.sum():,}" for count in counts.values()))
        total = sum(int(count.sum()) for count in counts.values())
        shape = "x".join(str(side) for side in (self.transform.channels, *self.image_size))
        return f"{self.title}: {total:,} images of {self.num_classes:,} classes as {shape}", table

    def plot(self, batch: ImageBatch, predictions: Tensor | None = None, *, limit: int = 32) -> Figure:
        """Plots a batch as a grid of images, each under the name of its class.

        Args:
            batch: a batch of one of the loaders.
            predictions: (B,), predicted classes; shown next to the true ones, in red where they differ.
            limit: maximum number of images.

        Returns:
            The figure; ``figure.savefig(path)`` saves it.
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
    """The transform of a data set, resized to ``image_size`` or replaced by ``transform``.

    Args:
        default: transform of the data set.
        image_size: height and width of the network's input, or one number for a square.
        transform: transform that replaces the default.

    Raises:
        ValueError: both ``image_size`` and ``transform`` are given.
    """
    if transform is None:
        return default if image_size is None else dataclasses.replace(default, size=image_size)
    if image_size is not None:
        raise ValueError(f"image_size={image_size} and transform.size={transform.size} both set the size; give one")
    return transform


def _as_it_is(batch: object) -> object:
    return batch
