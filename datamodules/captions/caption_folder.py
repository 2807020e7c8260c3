"""Captioned images of one's own: a folder or a zip, and a file of captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import torch

from datamodules.captions.caption_data import CaptionedImages, CaptionedImagesDataModule
from datamodules.captions.caption_sources import CaptionSource
from datamodules.files.file_tree import FileTree
from datamodules.images.augmentation import Augmentation
from datamodules.images.image_files import first_few, sound_images
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import SPLITS, Split, stratified_split
from datamodules.tokenizers.tokenizer_trainers import TokenizerTrainer

_IMAGE_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class HeldOut:
    """How much is kept from training where the captions do not say which images are for validation and for the test.

    Args:
        val: share of the training images, once those for the test are cut off; 0 for none.
        test: share of the training images; 0 for none.

    Raises:
        ValueError: a share is out of its range.

    Example:
        >>> HeldOut(test=1.0)
        Traceback (most recent call last):
        ValueError: test must lie in [0, 1), got 1.0
    """

    val: float = 0.05
    test: float = 0.05

    def __post_init__(self) -> None:
        for name, share in (("val", self.val), ("test", self.test)):
            if not 0.0 <= share < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {share}")


TWENTIETHS = HeldOut()


@dataclass
class _Image:
    """An image that captions speak of."""

    name: str
    file: str
    split: Split | None
    captions: list[str] = field(default_factory=list)


class CaptionDataModule(CaptionedImagesDataModule):
    r"""Images in a folder or a zip, and a file that says what they show.

    All images are looked at once, before training starts. Several captions of an image come one a step in training,
    and all together as references in evaluation. Where the captions do not say which images are for validation and
    for the test, these are cut off by image: all captions of an image stay on one side.

    Args:
        captions: where the captions come from.
        root: the folder or the zip that the images are in, however deep: the captions give a file by its name, or by
            the end of its path. Relative paths of caption files start here, or beside the zip.
        tokenizer: makes the tokenizer from the training captions; when left out, whole words in lower case that occur
            twice or more.
        transform: the way from an image to the network's input; 224x224 pixels with mean and deviation 0.5 when left
            out.
        augmentation: transforms of training images, see :func:`augment`; none when left out, for what is mirrored or
            cropped may no longer show what its caption says.
        batch_size: images in a batch, on each device.
        max_length: training captions of more tokens, begin and end not counted, are left out; none are when ``None``.
        bad_files: what to do about images that are missing or not sound, captions that cannot be used, and whatever
            else does not fit together: name them in one ``error``, or ``skip`` them and say how many in the summary.
            Images without a caption are always skipped.
        cache: keep all images in memory, cut to the input's size: much faster for sets that fit.
        held_out: shares of the images to keep where the captions name no such split.
        num_workers: processes that make batches.
        seed: decides the order of the training captions, and which images are kept for validation and the test.

    Raises:
        FileNotFoundError: there is nothing at ``root``.
        ValueError: it is neither a folder nor a sound zip; a number is out of its range; or, once loaded, something
            does not fit together.

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
        >>> data = CaptionDataModule(CaptionTable("captions.csv"), root, batch_size=4, num_workers=0)
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
        bad_files: Literal["error", "skip"] = "error",
        cache: bool = False,
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
        if bad_files not in ("error", "skip"):
            raise ValueError(f"bad_files must be 'error' or 'skip', got {bad_files!r}")
        self._captions = captions
        self._bad_files = bad_files
        self._cache = cache
        self._held_out = held_out
        self._tree = FileTree(root)

    @property
    def title(self) -> str:
        """The name of the folder or zip."""
        return self._tree.root.name

    def load(self) -> Mapping[Split, CaptionedImages]:
        """Reads the captions, looks at every image once, and keeps the images where ``cache`` says so."""
        problems: list[str] = []
        found = self._captioned(problems)
        captioned = {image.file for image in found}
        loaded = {}
        for split, images in self._parts(found).items():
            files = [image.file for image in images]
            keep = self.transform if self._cache else None
            reader, bad = sound_images(self._tree, files, torch.arange(len(files)), keep)
            problems.extend(bad.values())
            sound = [image for image in images if image.file not in bad]
            if sound:
                loaded[split] = CaptionedImages(
                    reader, [image.name for image in sound], [image.captions for image in sound]
                )
        self._tell(problems, [file for file in self._tree.files if _is_image(file) and file not in captioned])
        if "train" not in loaded:
            raise ValueError(
                f"root={str(self._tree.root)!r}: no captioned image is left to train on; look at the splits that the "
                f"captions name, or hold out less than {self._held_out}" + "".join(f"\n{note}" for note in self.notes)
            )
        return loaded

    def _captioned(self, problems: list[str]) -> list[_Image]:
        """The images that are there and captioned, in the order of their first captions."""
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
                    problems.append(f"{record.place}: there is no image {record.image!r}")
                elif len(found[record.image]) > 1:
                    several = " and ".join(map(repr, found[record.image]))
                    problems.append(f"{record.place}: {record.image!r} may be {several}; give more of its path")
            if len(found[record.image]) != 1:
                continue
            [file] = found[record.image]
            image = images.setdefault(file, _Image(record.image, file, record.split))
            if image.split == record.split:
                image.captions.append(record.caption)
            else:
                problems.append(f"{record.place}: {record.image!r} is in {image.split!r} already, not {record.split!r}")
        return list(images.values())

    def _parts(self, found: Sequence[_Image]) -> dict[Split, list[_Image]]:
        """The images of each split, those that are missing cut from the training images."""
        parts: dict[Split, list[_Image]] = {}
        for image in found:
            parts.setdefault(image.split or "train", []).append(image)
        shares: dict[Split, float] = {"test": self._held_out.test, "val": self._held_out.val}
        for split, share in shares.items():
            if split not in parts and "train" in parts and share > 0.0:
                images = parts["train"]
                # One class of images, since they have none.
                rest, held = stratified_split(torch.zeros(len(images), dtype=torch.int64), share, self._seed)
                parts["train"], parts[split] = (
                    [images[index] for index in indices.tolist()] for indices in (rest, held)
                )
        return {split: parts[split] for split in SPLITS if parts.get(split)}

    def _tell(self, problems: Sequence[str], bare: Sequence[str]) -> None:
        """Says what cannot be used, as ``bad_files`` wishes, and which images have no captions."""
        if problems and self._bad_files == "error":
            raise ValueError(
                f"root={str(self._tree.root)!r}: {len(problems):,} of its images and captions cannot be used; correct "
                "them, or leave them out with bad_files='skip':\n" + "\n".join(first_few(problems))
            )
        if problems:
            self.notes += [f"Skipped {len(problems):,} images or captions:", *first_few(problems)]
        if bare:
            self.notes += [f"Skipped {len(bare):,} images without a caption:", *first_few(bare)]


def _ending_in(name: str, files: Sequence[str]) -> list[str]:
    """Those paths that are the name, or else end in it."""
    whole = str(PurePosixPath(name))
    return [file for file in files if file == whole] or [file for file in files if file.endswith(f"/{whole}")]


def _is_image(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in _IMAGE_ENDINGS
