"""Images in a folder or zip with one folder per class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torchvision.transforms import v2

from datamodules.data_module import BadInput, check_bad_input, skipped
from datamodules.files.file_tree import FileTree
from datamodules.images.augmentation import Augmentation, RandomFlip
from datamodules.images.classification import TENTH_AND_FIFTH, ClassificationDataModule, choose_transform
from datamodules.images.image_dataset import ImageSource
from datamodules.images.image_files import sound_images
from datamodules.images.image_transform import ImageTransform
from datamodules.splits import SPLIT_NAMES, SPLITS, HeldOut, Split

ClassFiles = dict[str, list[str]]


class ImageFolderDataModule(ClassificationDataModule):
    """Images in a folder or zip with one folder per class.

    ::

        root/class/…/image         or         root/train/class/…/image
                                              root/val/class/…/image     (or valid, validation)
                                              root/test/class/…/image

    Missing splits are cut from the training images. A zip is read in place, and a single folder around everything is
    skipped. Every file below a class folder should be an image that Pillow can read; all are read once, before training
    starts.

    Args:
        root: the folder or zip.
        image_size: height and width of the network's input, or one number for a square; defaults to 224.
        batch_size: B, per device.
        augmentation: augmentation of the training images, see :func:`augment`; if omitted, a random crop, resized, and
            mirroring; none if empty.
        bad_input: ``"error"`` raises one error that lists the files that are not readable images; ``"skip"`` skips them
            and lists them in the summary.
        in_memory: whether to keep all images in memory, resized: much faster for data sets that fit.
        held_out: fractions of the training images to hold out if there is no validation or test folder.
        seed: seed of the held-out splits.
        num_workers: worker processes of each loader.
        transform: transform from a raw image to the network's input; replaces ``image_size``.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: ``root`` is neither a folder nor a valid zip, or has less than two class folders; a class has no
            image; the splits have different classes; or, when loaded, files are not readable images.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        ...     (root / name).mkdir()
        ...     for number in range(10):
        ...         Image.new("RGB", (40, 30), colour).save(root / name / f"{number}.png")
        >>> colours = ImageFolderDataModule(root, image_size=16, batch_size=4, num_workers=0)
        >>> colours.class_names, [len(colours.dataset(split)) for split in ("train", "val", "test")]
        (['green', 'red'], [14, 2, 4])
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        augmentation: list[Augmentation] | None = None,
        bad_input: BadInput = "error",
        in_memory: bool = False,
        held_out: HeldOut = TENTH_AND_FIFTH,
        seed: int = 0,
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
            held_out=held_out,
            seed=seed,
        )
        self._bad_input = check_bad_input(bad_input)
        self._in_memory = in_memory
        self._tree = FileTree(root)
        self._files = find_classes(self._tree)
        self._class_names = sorted(self._files["train"])

    @property
    def class_names(self) -> list[str]:
        """Names of the class folders, sorted."""
        return list(self._class_names)

    @property
    def title(self) -> str:
        """Name of the folder or zip."""
        return self._tree.root.name

    def load(self) -> Mapping[Split, ImageSource]:
        """Reads every file once; keeps the images if ``in_memory`` is set.

        Raises:
            ValueError: files are not readable images and ``bad_input`` is ``"error"``, or a class has none.
        """
        root = f"root={str(self._tree.root)!r}"
        bad: list[str] = []
        sources = {split: self._load_split(split, bad) for split in SPLITS if split in self._files}
        self.notes += skipped(bad, "files that are not readable images", root, self._bad_input)
        counts = sources["train"].labels.bincount(minlength=self.num_classes).tolist()
        empty = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        if empty:
            raise ValueError(f"{root} has no readable image of the classes {empty}; add some, or remove their folders")
        return sources

    def _load_split(self, split: Split, bad: list[str]) -> ImageSource:
        """Readable images of a split; the problems of the others are appended to ``bad``."""
        files = [file for name in self.class_names for file in self._files[split][name]]
        labels = [label for label, name in enumerate(self.class_names) for _ in self._files[split][name]]
        keep = self.transform if self._in_memory else None
        source, problems = sound_images(self._tree, files, torch.tensor(labels), keep)
        bad.extend(problems.values())
        return source


def find_classes(tree: FileTree) -> dict[Split, ClassFiles]:
    """Files of each class in each split of a folder or zip.

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
        # A folder of that name with images in it is a class: photos of trains, for example.
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
        raise ValueError(f"{where}: {flat} have no class folders; sort their images by class, or move them elsewhere")
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
        raise ValueError(f"{where} has no class folders; put the images of each class into their own folder")
    if len(classes) == 1:
        raise ValueError(f"{where} has only one class, {next(iter(classes))!r}; a classifier needs two or more")
    empty = sorted(name for name, members in classes.items() if not members)
    if empty:
        raise ValueError(f"{where}: the class folders {empty} have no images; fill or remove them")
    for split, others in files.items():
        if others.keys() != classes.keys():
            raise ValueError(
                f"{where}: the classes of 'train' and {split!r} differ; only in 'train': "
                f"{sorted(classes.keys() - others.keys())}, only in {split!r}: {sorted(others.keys() - classes.keys())}"
            )
