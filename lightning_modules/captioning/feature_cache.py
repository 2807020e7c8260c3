"""A frozen backbone sees each training image once, however many epochs there are."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from attention_blocks.evaluating import evaluating
from datamodules.captions.caption_batch import CaptionDataset
from lightning_modules.callbacks.freeze_backbone import FreezeBackbone
from lightning_modules.captioning.captioner import Captioner


class CacheFeatures(FreezeBackbone):
    """Freezes a captioner's backbone for good, and keeps what it makes of the training images in a file.

    The file is mapped into memory, so that it may be larger than that, and is named by the backbone's weights, the
    images and their transform: what is found again is what would be computed again. Validation and tests, which have
    pictures to draw, go through the backbone.

    Args:
        folder: for the files, which can be deleted when nothing is trained on them.
        batch_size: images that the backbone sees at once; a CPU is fastest with few.
        mirrored: keep what it makes of each image's mirror image too, in a second file; what is trained on is the one
            or the other, by chance. Not for captions that often tell left from right.

    Raises:
        ValueError: ``batch_size`` is not positive; or, once the training starts, the system is no captioner, its data
            have no captioned images, the images are augmented, which no cache could know, or another
            :class:`FreezeBackbone` is to thaw the backbone, or a file of features is damaged.

    Example:
        >>> CacheFeatures("features").epochs
        -1
    """

    def __init__(self, folder: str | Path = "feature_cache", batch_size: int = 8, *, mirrored: bool = False) -> None:
        super().__init__(epochs=-1)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.mirrored = mirrored
        self._filled: CaptionDataset | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the features, or finds them; the weights are on their device, and a checkpoint's if there is one."""
        find = getattr(trainer.datamodule, "dataset", None)  # type: ignore[attr-defined] # Lightning sets it
        dataset = find("train") if callable(find) else None
        if not isinstance(pl_module, Captioner) or not isinstance(dataset, CaptionDataset):
            raise ValueError(
                f"CacheFeatures needs a captioner and a DataModule of captioned images, got {type(pl_module).__name__} "
                f"and {type(dataset).__name__} as dataset('train')"
            )
        if dataset.augmentation or dataset.reader.changes:
            raise ValueError(
                "CacheFeatures keeps one look at each image, so give the data augmentation=[]; or mirrored=True here, "
                "which keeps two"
            )
        if any(isinstance(callback, FreezeBackbone) and callback is not self for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "CacheFeatures freezes the backbone for good, so another FreezeBackbone cannot thaw it; leave one out"
            )
        self._filled = dataset
        # Told once for both files: the images are read for it.
        key = weights_key(pl_module.network.backbone, dataset.content_key(), "features last")
        dataset.features = self._kept(trainer, pl_module, dataset, f"features-{key}.npy")
        if self.mirrored:
            name = f"features-{key}-mirrored.npy"
            dataset.mirrored_features = self._kept(trainer, pl_module, dataset, name, mirrored=True)

    def _kept(
        self, trainer: Trainer, system: Captioner, dataset: CaptionDataset, name: str, *, mirrored: bool = False
    ) -> Tensor:
        """What the backbone makes of all images or their mirror images, (images, D, rows, columns), in a file."""
        backbone, path = system.network.backbone, self.folder / name
        if trainer.local_rank == 0 and not path.is_file():
            with evaluating(backbone), torch.inference_mode():
                batches = (images.to(system.device) for images in dataset.image_batches(self.batch_size))
                seen = (images.flip(3) if mirrored else images for images in batches)
                # A place's features lie side by side, as whoever reads them place by place wants them, and no copy
                # turns them.
                write_rows(path, (backbone(images).permute(0, 2, 3, 1) for images in seen), len(dataset.names))
        trainer.strategy.barrier()
        return read_rows(path, len(dataset.names)).permute(0, 3, 1, 2)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the images back: what is trained next on the same data may have another backbone."""
        if self._filled is not None:
            self._filled.features = self._filled.mirrored_features = None
            self._filled = None


def weights_key(module: nn.Module, *more: str) -> str:
    """A name for a network with its weights: the same only where nothing of it differs.

    Args:
        module: the network.
        *more: what else the name depends on.
    """
    digest = hashlib.sha256("\n".join([repr(module), *more]).encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def read_rows(path: Path, count: int) -> Tensor:
    """What :func:`write_rows` wrote, mapped into memory.

    Args:
        path: of the file.
        count: rows that it has.

    Raises:
        ValueError: it is damaged, or cut short.
    """
    try:
        # Copy on write, since torch knows no tensors that cannot be written to.
        rows = np.load(path, mmap_mode="c")
        if len(rows) != count:
            raise ValueError(f"{len(rows)} rows, not {count}")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is made again") from error
    return torch.from_numpy(rows)


def write_rows(path: Path, parts: Iterable[Tensor], count: int) -> None:
    """Writes tensors one below the other as one ``.npy`` file, which appears whole or not at all.

    Args:
        path: of the file.
        parts: each some rows of what is written.
        count: rows of all together.
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
