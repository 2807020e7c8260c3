"""Captioned images of your own: a folder or zip of images, and a file of captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch

from datamodules.captions.caption_data import CaptionDataModule, CaptionedImages
from datamodules.captions.caption_sources import CaptionSource
from datamodules.data_module import BadInput, check_bad_input, skipped
from datamodules.files.file_tree import FileTree
from datamodules.images.augmentation import Augmentation
from datamodules.images.image_files import sound_images
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import HeldOut, Split, stratified_split
from datamodules.tokenizers.tokenizer_trainers import TokenizerTrainer

_IMAGE_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


TWENTIETHS = HeldOut(val=0.05, test=0.05)


@dataclass
class _Image:
    """An image with captions."""

    name: str
    file: str
    split: Split | None
    captions: list[str] = field(default_factory=list)


class CaptionFolderDataModule(CaptionDataModule):
    r"""Images in a folder or zip, and a file with their captions.

    All images are read once, before training starts. Missing splits are cut from the training images, so that all
    captions of an image are in one split.

    Args:
        captions: source of the captions.
        root: folder or zip with the images, at any depth: captions name an image by its file name or by the end of its
            path. Relative paths of caption files start here, or next to the zip.
        tokenizer: trainer of the tokenizer, on the training captions; if omitted, :class:`Word` in lower case with
            words that occur at least twice.
        transform: transform from a raw image to the network's input; if omitted, 224x224 pixels with mean and standard
            deviation 0.5.
        augmentation: augmentation of the training images, see :func:`augment`. Mirrored or cropped images may no
            longer match their captions.
        batch_size: B, per device.
        max_length: maximum number of tokens of a training caption, without the special ones; longer ones are removed.
            ``None`` for any number.
        bad_input: ``"error"`` raises one error that lists missing or unreadable images and unusable captions;
            ``"skip"`` skips them and lists them in the summary. Images without captions are always skipped.
        in_memory: whether to keep all images in memory, resized: much faster for data sets that fit.
        held_out: fractions of the training images to hold out if there are no validation or test captions.
        num_workers: worker processes of each loader.
        seed: seed of the order of the training captions and of the held-out splits.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: ``root`` is neither a folder nor a valid zip, or a number is out of range; or, when loaded, images
            or captions are unusable.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from datamodules import CaptionTable
        >>> root = Path(tempfile.mkdtemp())
        >>> rows = ["image,caption"]
        >>> for number in range(20):
        ...     Image.new("RGB", (40, 30)).save(root / f"{number}.png")
        ...     rows += [f"{number}.png,all is black", f"{number}.png,nothing but black"]
        >>> _ = (root / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
        >>> data = CaptionFolderDataModule(CaptionTable("captions.csv"), root, batch_size=4, num_workers=0)
        >>> [len(data.dataset(split)) for split in ("train", "val", "test")]
        [36, 1, 1]
    """

    def __init__(
        self,
        captions: CaptionSource,
        root: str | Path,
        tokenizer: TokenizerTrainer | None = None,
        transform: ImageTransform | None = None,
        augmentation: Sequence[Augmentation] = (),
        batch_size: int = 64,
        max_length: int | None = 100,
        bad_input: BadInput = "error",
        in_memory: bool = False,
        held_out: HeldOut = TWENTIETHS,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            transform or ImageTransform(224),
            augmentation,
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            num_workers=num_workers,
            seed=seed,
        )
        self._captions = captions
        self._bad_input = check_bad_input(bad_input)
        self._in_memory = in_memory
        self._held_out = held_out
        self._tree = FileTree(root)

    @property
    def title(self) -> str:
        """Name of the folder or zip."""
        return self._tree.root.name

    def load(self) -> Mapping[Split, CaptionedImages]:
        """Reads the captions and every image once; keeps the images if ``in_memory`` is set.

        Raises:
            FileNotFoundError: a file of captions is missing.
            ValueError: there is nothing to train on, or ``bad_input`` is ``"error"`` and something is unusable.
        """
        problems: list[str] = []
        found = self._captioned(problems)
        captioned = {image.file for image in found}
        loaded: dict[Split, CaptionedImages] = {}
        for split, images in self._parts(found).items():
            files = [image.file for image in images]
            keep = self.transform if self._in_memory else None
            reader, bad = sound_images(self._tree, files, torch.arange(len(files)), keep)
            problems.extend(bad.values())
            sound = [image for image in images if image.file not in bad]
            if sound:
                names, captions = [image.name for image in sound], [image.captions for image in sound]
                loaded[split] = CaptionedImages(reader, names, captions)
        root = f"root={str(self._tree.root)!r}"
        self.notes += skipped(problems, "unusable images or captions", root, self._bad_input)
        bare = [file for file in self._tree.files if _is_image(file) and file not in captioned]
        self.notes += skipped(bare, "images without a caption", root, "skip")
        if "train" not in loaded:
            raise ValueError(
                f"{root} has no captioned image left to train on; check the splits of the captions, or hold out less "
                f"than {self._held_out}" + "".join(f"\n{note}" for note in self.notes)
            )
        return loaded

    def _captioned(self, problems: list[str]) -> list[_Image]:
        """Existing images with captions, in the order of their first captions."""
        root = self._tree.root
        files: dict[str, list[str]] = defaultdict(list)
        for file in self._tree.files:
            files[PurePosixPath(file).name].append(file)
        found: dict[str, list[str]] = {}
        images: dict[str, _Image] = {}
        for record in self._captions.read(root if root.is_dir() else root.parent, problems.append):
            if record.image not in found:
                found[record.image] = _ending_in(record.image, files[PurePosixPath(record.image).name])
                if not found[record.image]:
                    problems.append(f"{record.where}: there is no image {record.image!r}")
                elif len(found[record.image]) > 1:
                    several = " and ".join(map(repr, found[record.image]))
                    problems.append(f"{record.where}: {record.image!r} matches {several}; give more of its path")
            if len(found[record.image]) != 1:
                continue
            [file] = found[record.image]
            image = images.setdefault(file, _Image(record.image, file, record.split))
            if image.split == record.split:
                image.captions.append(record.caption)
            else:
                problems.append(f"{record.where}: {record.image!r} is in {image.split!r} already, not {record.split!r}")
        return list(images.values())

    def _parts(self, found: Sequence[_Image]) -> dict[Split, list[_Image]]:
        """Images of each split; the missing splits are cut from the training images."""
        parts: dict[Split, list[_Image]] = {}
        for image in found:
            parts.setdefault(image.split or "train", []).append(image)
        return self._held_out.fill(parts, self._cut)

    def _cut(self, images: list[_Image], fraction: float) -> tuple[list[_Image], list[_Image]]:
        one_class = torch.zeros(len(images), dtype=torch.int64)
        rest, held = stratified_split(one_class, fraction, self.seed)
        return [images[index] for index in rest.tolist()], [images[index] for index in held.tolist()]


def _ending_in(name: str, files: Sequence[str]) -> list[str]:
    """Paths that equal the name, or otherwise those that end in it."""
    whole = str(PurePosixPath(name))
    return [file for file in files if file == whole] or [file for file in files if file.endswith(f"/{whole}")]


def _is_image(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in _IMAGE_ENDINGS
