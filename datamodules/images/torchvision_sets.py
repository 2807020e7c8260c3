"""The classification sets of torchvision, by name."""

from __future__ import annotations

import difflib
import gzip
import shutil
import string
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from datamodules.images.augmentation import Augmentation, RandomFlip, RandomShift
from datamodules.images.classification import ClassificationDataModule, choose_transform
from datamodules.images.image_dataset import ImageSource, TensorImages
from datamodules.images.image_transform import ImageTransform, load_image
from datamodules.splits import Split

LabelledImages = Dataset[tuple[Image.Image, int]]
Splits = Mapping[Split, Mapping[str, object]]

_BY_FLAG: Splits = {"train": {"train": True}, "test": {"train": False}}
_IN_TWO: Splits = {"train": {"split": "train"}, "test": {"split": "test"}}
_IN_THREE: Splits = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_WHOLE: Splits = {"train": {}}

_DIGITS = tuple(string.digits)
_PHOTO = ImageTransform(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # ImageNet's, for want of their own


@dataclass(frozen=True)
class _Set:
    """What torchvision does not say about a set.

    Attributes:
        splits: the constructor's arguments for each split it has.
        transform: the images' own size, mean and deviation.
        names: of the classes, where they are known before the set is read.
        shift: the furthest, in pixels, that training images are shifted each way; without it they are of many sizes,
            and cropped at random.
        mirror: whether an image seen in a mirror is still of its class.
    """

    splits: Splits
    transform: ImageTransform
    names: tuple[str, ...] | None = None
    shift: int | None = None
    mirror: bool = True


_SETS = {
    "Caltech101": _Set(_WHOLE, _PHOTO),
    "Caltech256": _Set(_WHOLE, _PHOTO),
    "CIFAR10": _Set(
        _BY_FLAG,
        ImageTransform(32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        shift=4,
    ),
    "CIFAR100": _Set(
        _BY_FLAG, ImageTransform(32, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)), shift=4
    ),
    "Country211": _Set({**_IN_TWO, "val": {"split": "valid"}}, _PHOTO),
    "DTD": _Set(_IN_THREE, _PHOTO),
    "EMNIST": _Set(
        {"train": {"split": "balanced", "train": True}, "test": {"split": "balanced", "train": False}},
        ImageTransform(28, channels=1, mean=0.1751, std=0.3332),
        # Small letters that look like their capitals are of one class with them.
        (*_DIGITS, *string.ascii_uppercase, *"abdefghnqrt"),
        shift=4,
        mirror=False,
    ),
    "EuroSAT": _Set(_WHOLE, replace(_PHOTO, size=64)),
    "FashionMNIST": _Set(_BY_FLAG, ImageTransform(28, channels=1, mean=0.2860, std=0.3530), shift=4),
    "FGVCAircraft": _Set(_IN_THREE, _PHOTO),
    "Flowers102": _Set(_IN_THREE, _PHOTO),
    "Food101": _Set(_IN_TWO, _PHOTO),
    "GTSRB": _Set(_IN_TWO, replace(_PHOTO, size=48), mirror=False),
    # Its validation images are what results are reported on.
    "Imagenette": _Set({"train": {"split": "train"}, "test": {"split": "val"}}, _PHOTO),
    "KMNIST": _Set(_BY_FLAG, ImageTransform(28, channels=1, mean=0.1918, std=0.3483), shift=4, mirror=False),
    "MNIST": _Set(_BY_FLAG, ImageTransform(28, channels=1, mean=0.1307, std=0.3081), _DIGITS, shift=4, mirror=False),
    "OxfordIIITPet": _Set({"train": {"split": "trainval"}, "test": {"split": "test"}}, _PHOTO),
    "QMNIST": _Set(_BY_FLAG, ImageTransform(28, channels=1, mean=0.1307, std=0.3081), _DIGITS, shift=4, mirror=False),
    "RenderedSST2": _Set(_IN_THREE, _PHOTO, ("negative", "positive"), mirror=False),
    "SEMEION": _Set(_WHOLE, ImageTransform(16, channels=1), _DIGITS, shift=2, mirror=False),
    "STL10": _Set(
        _IN_TWO,
        ImageTransform(96, mean=(0.4467, 0.4398, 0.4066), std=(0.2603, 0.2566, 0.2713)),
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        shift=12,
    ),
    "SUN397": _Set(_WHOLE, _PHOTO),
    "SVHN": _Set(
        _IN_TWO,
        ImageTransform(32, mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)),
        _DIGITS,
        shift=4,
        mirror=False,
    ),
    "USPS": _Set(_BY_FLAG, ImageTransform(16, channels=1, mean=0.2469, std=0.2989), _DIGITS, shift=2, mirror=False),
}

# Sets whose files torchvision keeps, unpacked, in root/name/raw under the names that the packages use.
_IDX_SETS = ("FashionMNIST", "KMNIST", "MNIST")
# Where Debian's package dataset-fashion-mnist puts its files.
_INSTALLED = {"FashionMNIST": Path("/usr/share/datasets/fashion-mnist")}


class TorchvisionDataModule(ClassificationDataModule):
    """A classification set of torchvision with the splits it comes with; others are cut from its training images.

    Sets that torchvision holds in memory (the MNIST family, CIFAR, SVHN, STL10, USPS, SEMEION) are batched by one
    gather; the others are read image by image, for which ``num_workers`` helps.

    Args:
        name: torchvision's name of the set: MNIST, FashionMNIST, KMNIST, QMNIST, EMNIST (its balanced split), USPS,
            SEMEION, CIFAR10, CIFAR100, SVHN, STL10, EuroSAT, GTSRB, Imagenette, Flowers102, OxfordIIITPet, Food101,
            FGVCAircraft, DTD, Caltech101, Caltech256, Country211, SUN397 or RenderedSST2.
        root: the folder that holds the set or will.
        download: fetch the set where it is not there yet.
        image_size: height and width, or one number, to resize the images to; their own when left out, 224 for photos
            of many sizes.
        batch_size: images in a batch, on each device.
        augmentation: transforms of training images, see :func:`augment`; none when empty. When left out: small images
            are shifted by up to an eighth of their side, photos cropped at random and resized; and mirrored, unless
            they show writing or signs.
        val_share: share of the training images that is kept for validation where the set has no such split.
        test_share: share of all images that is kept for the test where the set has no such split.
        split_seed: decides which images are kept.
        num_workers: processes that make batches.
        source: for MNIST, FashionMNIST and KMNIST, a folder with the ``.gz`` files of the set, to be unpacked into
            ``root`` in place of a download. When left out, FashionMNIST is looked for where Debian's package
            ``dataset-fashion-mnist`` puts it.
        transform: the whole way from an image to the network's input, in place of the set's own.

    Raises:
        ValueError: torchvision has no classification set of that name.
        FileNotFoundError: ``source`` has no such files; or, once the set is wanted, it is not in ``root`` and not
            downloaded.

    Example:
        >>> fashion = TorchvisionDataModule("FashionMNIST")
        >>> fashion.class_names[:3], fashion.transform.image_size
        (['T-shirt/top', 'Trouser', 'Pullover'], (28, 28))
        >>> TorchvisionDataModule("Fashion")
        Traceback (most recent call last):
        ValueError: name='Fashion' is no classification set of torchvision known here; did you mean FashionMNIST?
    """

    def __init__(
        self,
        name: str = "FashionMNIST",
        root: str | Path = "data",
        download: bool = True,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        augmentation: list[Augmentation] | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        num_workers: int = 0,
        source: str | Path | None = None,
        transform: ImageTransform | None = None,
    ) -> None:
        self._set = _find_set(name)
        transform = choose_transform(self._set.transform, image_size, transform)
        super().__init__(
            transform,
            _default_augmentation(self._set, transform) if augmentation is None else augmentation,
            batch_size=batch_size,
            num_workers=num_workers,
            val_share=val_share,
            test_share=test_share,
            split_seed=split_seed,
        )
        self._name = name
        self._root = Path(root)
        self._download = download
        self._source = _find_source(name, source)
        self._class_names: list[str] | None = None

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; of the sets that keep them in their files, these are fetched and read first."""
        if self._class_names is None:
            names = self._set.names or getattr(getattr(torchvision.datasets, self._name), "classes", None)
            if names is None:
                self.prepare_data()
                dataset = self._open("train")
                numbers = range(int(_labels(dataset).max()) + 1)
                names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or numbers
            self._class_names = [str(name) for name in names]
        return list(self._class_names)

    @property
    def title(self) -> str:
        """The name of the set."""
        return self._name

    def prepare_data(self) -> None:
        """Unpacks or downloads the set where it is not there yet; Lightning calls it in one process a machine."""
        if self._source is not None:
            _unpack(self._source, self._root / self._name / "raw")
        for split in self._set.splits:
            self._open(split, download=self._download)

    def load(self) -> Mapping[Split, ImageSource]:
        """The splits that the set comes with."""
        if self.trainer is None:  # on its own, without a Trainer that prepares the data
            self.prepare_data()
        return {split: _as_source(self._name, self._open(split)) for split in self._set.splits}

    def _open(self, split: Split, *, download: bool = False) -> LabelledImages:
        try:
            dataset: LabelledImages = getattr(torchvision.datasets, self._name)(
                str(self._root), download=download, **self._set.splits[split]
            )
        except (RuntimeError, OSError) as error:  # what torchvision raises for missing files and failed downloads
            what = "cannot be downloaded to" if download else "is not in"
            remedy = "check the connection" if download else "set download=True"
            raise FileNotFoundError(
                f"name={self._name!r}: the set {what} root={str(self._root)!r} ({error}); {remedy}, or put its files "
                "there by hand"
            ) from error
        return dataset


class DatasetImages(ImageSource):
    """The images of a torchvision data set, each read when it is needed.

    Args:
        dataset: gives a PIL image and a class for each index.
    """

    def __init__(self, dataset: LabelledImages) -> None:
        super().__init__(_labels(dataset))
        self.dataset = dataset

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """One after the other, (1, C, H, W) each."""
        for index in indices.tolist():
            yield load_image(self.dataset[index][0]).unsqueeze(0)


def _find_set(name: str) -> _Set:
    if name in _SETS:
        return _SETS[name]
    by_small = {known.casefold(): known for known in _SETS}
    near = difflib.get_close_matches(name.casefold(), by_small, n=3, cutoff=0.6)
    hint = (
        f"did you mean {' or '.join(by_small[match] for match in near)}?" if near else f"there are {', '.join(_SETS)}"
    )
    raise ValueError(f"name={name!r} is no classification set of torchvision known here; {hint}")


def _find_source(name: str, source: str | Path | None) -> Path | None:
    if source is None:
        installed = _INSTALLED.get(name)
        return installed if installed is not None and installed.is_dir() else None
    if name not in _IDX_SETS:
        raise ValueError(
            f"source={str(source)!r} can be given for {', '.join(_IDX_SETS)}, not for {name}; leave it out"
        )
    if not any(Path(source).glob("*-ubyte.gz")):
        raise FileNotFoundError(f"source={str(source)!r} holds no files named *-ubyte.gz; check the path")
    return Path(source)


def _unpack(source: Path, raw: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    for packed in source.glob("*-ubyte.gz"):
        target = raw / packed.stem
        if not target.exists():
            # Whole or not at all, whatever interrupts it and whoever does the same.
            with tempfile.TemporaryDirectory(dir=raw) as unfinished:
                file = Path(unfinished) / packed.stem
                with gzip.open(packed) as packed_file, file.open("wb") as plain_file:
                    shutil.copyfileobj(packed_file, plain_file)
                file.replace(target)


def _default_augmentation(known: _Set, transform: ImageTransform) -> list[Augmentation]:
    flip: list[Augmentation] = [RandomFlip()] if known.mirror else []
    if known.shift is None:
        return [v2.RandomResizedCrop(transform.image_size, scale=(0.35, 1.0), antialias=True), *flip]
    # Grey sets show things on black; photos have no such ground.
    return [RandomShift(known.shift, padding="zeros" if known.transform.channels == 1 else "reflect"), *flip]


def _labels(dataset: LabelledImages) -> Tensor:
    """The class of every image, which each family of torchvision's sets keeps under another name."""
    for attribute in ("targets", "labels", "_labels", "y"):
        if hasattr(dataset, attribute):
            return torch.as_tensor(getattr(dataset, attribute))
    samples: list[tuple[object, int]] = dataset._samples  # type: ignore[attr-defined]
    return torch.tensor([label for _, label in samples])


def _as_source(name: str, dataset: LabelledImages) -> ImageSource:
    values = getattr(dataset, "data", None)
    if values is None:
        return DatasetImages(dataset)
    images = torch.as_tensor(values)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.size(1) != 3:  # CIFAR has its channels last
        images = images.permute(0, 3, 1, 2)
    # EMNIST is kept with rows and columns exchanged.
    return TensorImages((images.mT if name == "EMNIST" else images).contiguous(), _labels(dataset))
