"""Cache of a frozen backbone's features of the training images."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from datamodules.captions.caption_batch import CaptionDataset
from lightning_modules.callbacks.freeze_backbone import FreezeBackbone
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.system.evaluation import evaluation_view


@runtime_checkable
class CaptionData(Protocol):
    """The part of a :class:`CaptionDataModule` that the cache needs."""

    def dataset(self, split: Literal["train"]) -> CaptionDataset:
        """Data set of the training split."""
        ...

    def use_features(self, split: Literal["train"], features: Tensor | None, mirrored: Tensor | None = None) -> None:
        """Puts precomputed features in place of the images."""
        ...


class CacheFeatures(FreezeBackbone):
    """Freezes a captioner's backbone for the whole training and caches its features of the training images on disk.

    The file is memory-mapped, so it may be larger than the memory, and it is named by a key of the backbone's weights,
    the images and their transform. Validation and test images, which are plotted, go through the backbone.

    Args:
        cache_dir: folder of the files; they can be deleted when no training uses them.
        batch_size: number of images per forward pass of the backbone; small batches are fastest on a CPU.
        mirrored: whether to cache features of the mirrored images too, in a second file; training then takes one or the
            other at random. Not for captions that often distinguish left from right.

    Raises:
        ValueError: ``batch_size`` is not positive; or, when training starts, the system is not a captioner, its
            DataModule is not a :class:`CaptionDataModule`, the images are augmented, another :class:`FreezeBackbone` is
            used, or a file is damaged.

    Example:
        >>> CacheFeatures("feature_cache").epochs
        -1
    """

    def __init__(self, cache_dir: str | Path = "feature_cache", batch_size: int = 8, *, mirrored: bool = False) -> None:
        super().__init__(epochs=-1)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.cache_dir = Path(cache_dir)
        self.batch_size = batch_size
        self.mirrored = mirrored
        self._data: CaptionData | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the features, or reads them; weights of a checkpoint are loaded and on their device by now."""
        data = trainer.datamodule  # type: ignore[attr-defined] # Lightning sets it
        if not isinstance(pl_module, Captioner) or not isinstance(data, CaptionData):
            raise ValueError(
                "CacheFeatures needs a captioner and a CaptionDataModule, got "
                f"{type(pl_module).__name__} and {type(data).__name__}"
            )
        dataset = data.dataset("train")
        if dataset.augmentation or dataset.reader.changes:
            raise ValueError(
                "CacheFeatures keeps one version of each image, so give the data augmentation=[]; or mirrored=True "
                "here, which keeps two"
            )
        if any(isinstance(callback, FreezeBackbone) and callback is not self for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "CacheFeatures freezes the backbone for the whole training, so another FreezeBackbone cannot unfreeze "
                "it; remove one"
            )
        # One key for both files, since all images are read for it.
        key = weights_key(pl_module.network.backbone, dataset.content_key(), "features last")
        features, mirrored = self._computed(trainer, pl_module, dataset, f"features-{key}.npy"), None
        if self.mirrored:
            mirrored = self._computed(trainer, pl_module, dataset, f"features-{key}-mirrored.npy", mirrored=True)
        data.use_features("train", features, mirrored)
        self._data = data

    def _computed(
        self, trainer: Trainer, system: Captioner, dataset: CaptionDataset, name: str, *, mirrored: bool = False
    ) -> Tensor:
        """Features of all images or mirrored images, (images, D, rows, columns), memory-mapped from a file."""
        backbone, path = evaluation_view(system.network.backbone), self.cache_dir / name
        if trainer.local_rank == 0 and not path.is_file():
            with torch.inference_mode():
                batches = (images.to(system.device) for images in dataset.image_batches(self.batch_size))
                seen = (images.flip(3) if mirrored else images for images in batches)
                # Stored as (images, rows, columns, D), so that a location's features are contiguous.
                write_rows(path, (backbone(images).permute(0, 2, 3, 1) for images in seen), len(dataset.names))
        trainer.strategy.barrier()
        return read_rows(path, len(dataset.names)).permute(0, 3, 1, 2)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the images: the next system on the same data may have another backbone."""
        if self._data is not None:
            self._data.use_features("train", None)
            self._data = None


def weights_key(module: nn.Module, *more: str) -> str:
    """Key of a network with its weights: equal only if structure and weights are equal.

    Args:
        module: the network.
        *more: further texts that the key depends on.
    """
    digest = hashlib.sha256("\n".join([repr(module), *more]).encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def read_rows(path: Path, count: int) -> Tensor:
    """Memory-maps a file of :func:`write_rows`.

    Args:
        path: path of the file.
        count: number of its rows.

    Raises:
        ValueError: the file is damaged or truncated.
    """
    try:
        # Copy on write, since torch has no read-only tensors.
        rows = np.load(path, mmap_mode="c")
        if len(rows) != count:
            raise ValueError(f"{len(rows)} rows, not {count}")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is computed again") from error
    return torch.from_numpy(rows)


def write_rows(path: Path, parts: Iterable[Tensor], count: int) -> None:
    """Writes concatenated tensors to a ``.npy`` file, atomically.

    Args:
        path: path of the file.
        parts: tensors to concatenate along their first dimension.
        count: total number of rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(number)
    try:
        rows: np.memmap | None = None
        start = 0
        for part in parts:
            values = part.float().cpu().numpy()
            if rows is None:
                rows = np.lib.format.open_memmap(scratch, "w+", np.float32, (count, *values.shape[1:]))
            rows[start : start + len(values)] = values
            start += len(values)
        if rows is not None:
            rows.flush()
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
