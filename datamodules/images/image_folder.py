"""Any folder of classes, or a zip of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torchvision.transforms import v2

from datamodules.files.file_tree import FileTree
from datamodules.images.augmentation import Augmentation, RandomFlip
from datamodules.images.classification import ClassificationDataModule, choose_transform
from datamodules.images.image_dataset import ImageSource
from datamodules.images.image_files import first_few, sound_images
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import SPLIT_NAMES, SPLITS, Split

ClassFiles = dict[str, list[str]]


class ImageFolderDataModule(ClassificationDataModule):
    """Images in folders that are named after their classes, or a zip of such folders.

    ::

        root/class/…/image         or         root/train/class/…/image
                                              root/val/class/…/image     (or valid, validation)
                                              root/test/class/…/image

    Splits that are missing are cut from the training images. A zip is read in place; in either, a single folder
    around everything is looked through. Every file below a class folder should be an image that Pillow reads; all
    are looked at once, before training starts.

    Args:
        root: the folder or the zip.
        image_size: height and width, or one number, of the network's input; 224 when left out.
        batch_size: images in a batch, on each device.
        augmentation: transforms of training images, see :func:`augment`; a random crop, resized, and mirroring when
            left out, none when empty.
        bad_files: what to do about files that are no sound images: name them in one ``error``, or ``skip`` them and
            say how many in the summary.
        cache: keep all images in memory, cut to the input's size: much faster for sets that fit.
        val_share: share of the training images that is kept for validation where there is no such folder.
        test_share: share of all training images that is kept for the test where there is no such folder.
        split_seed: decides which images are kept.
        num_workers: processes that make batches.
        transform: the whole way from an image to the network's input, in place of ``image_size``.

    Raises:
        FileNotFoundError: there is nothing at ``root``.
        ValueError: it is neither a folder nor a sound zip, has no class folders, or one only; a class has no image;
            the splits have different classes; or, once loaded, files are bad.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        ...     (root / name).mkdir()
        ...     for number in range(10):
        ...         Image.new("RGB", (40, 30), colour).save(root / name / f"{number}.png")
        >>> colours = ImageFolderDataModule(root, image_size=16, batch_size=4, num_workers=0)
        >>> colours.setup()
        >>> colours.class_names, [len(colours.dataset(split)) for split in ("train", "val", "test")]
        (['green', 'red'], [14, 2, 4])
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        augmentation: list[Augmentation] | None = None,
        bad_files: Literal["error", "skip"] = "error",
        cache: bool = False,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        num_workers: int = 2,
        transform: ImageTransform | None = None,
    ) -> None:
        transform = choose_transform(ImageTransform(224), image_size, transform)
        if augmentation is None:
            augmentation = [v2.RandomResizedCrop(transform.image_size, scale=(0.35, 1.0), antialias=True), RandomFlip()]
        super().__init__(
            transform,
            augmentation,
            batch_size=batch_size,
            num_workers=num_workers,
            val_share=val_share,
            test_share=test_share,
            split_seed=split_seed,
        )
        if bad_files not in ("error", "skip"):
            raise ValueError(f"bad_files must be 'error' or 'skip', got {bad_files!r}")
        self._bad_files = bad_files
        self._cache = cache
        self._tree = FileTree(root)
        self._files = find_classes(self._tree)
        self._class_names = sorted(self._files["train"])

    @property
    def class_names(self) -> list[str]:
        """The names of the folders, sorted."""
        return list(self._class_names)

    @property
    def title(self) -> str:
        """The name of the folder or zip."""
        return self._tree.root.name

    def load(self) -> Mapping[Split, ImageSource]:
        """Looks at every file once, and keeps the images where ``cache`` says so."""
        bad: list[str] = []
        sources = {split: self._load_split(split, bad) for split in SPLITS if split in self._files}
        if bad:
            shown = first_few(bad)
            if self._bad_files == "error":
                raise ValueError(
                    f"root={str(self._tree.root)!r}: {len(bad):,} of its files are no sound images; replace or remove "
                    "them, or leave them out with bad_files='skip':\n" + "\n".join(shown)
                )
            self.notes = [f"Skipped {len(bad):,} files that are no sound images:", *shown]
        counts = sources["train"].labels.bincount(minlength=self.num_classes).tolist()
        empty = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        if empty:
            raise ValueError(f"root={str(self._tree.root)!r}: no sound image is left of the classes {empty}")
        return sources

    def _load_split(self, split: Split, bad: list[str]) -> ImageSource:
        """The sound images of a split; what is wrong with the others is appended to ``bad``."""
        files = [file for name in self.class_names for file in self._files[split][name]]
        labels = [label for label, name in enumerate(self.class_names) for _ in self._files[split][name]]
        keep = self.transform if self._cache else None
        source, problems = sound_images(self._tree, files, torch.tensor(labels), keep)
        bad.extend(problems.values())
        return source


def find_classes(tree: FileTree) -> dict[Split, ClassFiles]:
    """The files of each class in each split that a folder or zip has.

    Raises:
        ValueError: see :class:`ImageFolderDataModule`.
    """
    subfolders: dict[str, list[str]] = defaultdict(list)
    for folder in tree.folders:
        above, _, name = folder.rpartition("/")
        subfolders[above].append(name)

    def path(*parts: str) -> str:
        return "/".join(part for part in parts if part)

    def is_split(folder: str) -> bool:
        # A folder of that name that holds images is a class: trains, say.
        return folder.casefold() in SPLIT_NAMES and bool(subfolders[path(top, folder)])

    where = f"root={str(tree.root)!r}"
    top = ""
    while len(subfolders[top]) == 1 and not is_split(subfolders[top][0]) and subfolders[path(top, subfolders[top][0])]:
        top = path(top, subfolders[top][0])
    split_folders: dict[Split, str] = {}
    for folder in filter(is_split, subfolders[top]):
        split = SPLIT_NAMES[folder.casefold()]
        if split in split_folders:
            raise ValueError(
                f"{where} has two folders for {split!r}: {split_folders[split]!r} and {folder!r}; keep one"
            )
        split_folders[split] = folder
    if split_folders and "train" not in split_folders:
        raise ValueError(f"{where} has {list(split_folders.values())} but no 'train' folder with class folders in it")
    flat = [name for name in subfolders[top] if split_folders and name.casefold() in SPLIT_NAMES and not is_split(name)]
    if flat:
        raise ValueError(f"{where}: {flat} have no class folders; sort their images into some, or move them elsewhere")
    files: dict[Split, ClassFiles] = {}
    for split, folder in (split_folders or {"train": ""}).items():
        files[split] = _files_by_class(tree, path(top, folder), subfolders[path(top, folder)])
    _check_classes(files, where)
    return files


def _files_by_class(tree: FileTree, folder: str, classes: Sequence[str]) -> ClassFiles:
    prefix = f"{folder}/" if folder else ""
    found: ClassFiles = {name: [] for name in classes}
    for file in tree.files:
        if file.startswith(prefix):
            name, slash, _ = file[len(prefix) :].partition("/")
            if slash:
                found[name].append(file)
    return found


def _check_classes(files: Mapping[Split, ClassFiles], where: str) -> None:
    classes = files["train"]
    if not classes:
        raise ValueError(f"{where} has no class folders; put the images of each class into a folder of its own")
    if len(classes) == 1:
        raise ValueError(f"{where} has one class only, {next(iter(classes))!r}; there must be two to tell apart")
    empty = sorted(name for name, members in classes.items() if not members)
    if empty:
        raise ValueError(f"{where}: the class folders {empty} hold no image; fill or remove them")
    for split, others in files.items():
        if others.keys() != classes.keys():
            raise ValueError(
                f"{where}: the classes of 'train' and {split!r} differ; only in 'train': "
                f"{sorted(classes.keys() - others.keys())}, only in {split!r}: {sorted(others.keys() - classes.keys())}"
            )
