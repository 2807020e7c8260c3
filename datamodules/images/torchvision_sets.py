"""The image classification data sets of torchvision, by name."""

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
from datamodules.images.classification import TENTH_AND_FIFTH, ClassificationDataModule, choose_transform
from datamodules.images.image_dataset import ImageSource, TensorImages
from datamodules.images.image_transform import ImageTransform, load_image
from datamodules.splits import HeldOut, Split

LabelledImages = Dataset[tuple[Image.Image, int]]
Splits = Mapping[Split, Mapping[str, object]]

_BY_FLAG: Splits = {"train": {"train": True}, "test": {"train": False}}
_IN_TWO: Splits = {"train": {"split": "train"}, "test": {"split": "test"}}
_IN_THREE: Splits = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_WHOLE: Splits = {"train": {}}

_DIGITS = tuple(string.digits)
_PHOTO = ImageTransform(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # mean and std of ImageNet


@dataclass(frozen=True)
class _Set:
    """Facts about a data set that torchvision does not provide.

    Attributes:
        splits: constructor arguments for each split that it has.
        transform: own size, mean and standard deviation of the images.
        names: names of the classes, if they are known before the data set is read.
        shift: maximum shift of training images, in pixels each way; ``None`` for images of many sizes, which are
            cropped at random instead.
        mirror: whether a mirrored image still belongs to its class.
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
        # Lower-case letters that look like their capitals share a class with them.
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
    # Results are reported on its validation images.
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

# Data sets whose uncompressed files torchvision keeps in root/name/raw, under the names of the packed ones.
_IDX_SETS = ("FashionMNIST", "KMNIST", "MNIST")
# Installed by Debian's package dataset-fashion-mnist.
_INSTALLED = {"FashionMNIST": Path("/usr/share/datasets/fashion-mnist")}


class TorchvisionDataModule(ClassificationDataModule):
    """An image classification data set of torchvision, with the splits that it has.

    Missing splits are cut from the training images. Data sets that torchvision holds in memory (the MNIST family,
    CIFAR, SVHN, STL10, USPS, SEMEION) are batched by a single gather; the others are read image by image, which is
    faster with ``num_workers``.

    Args:
        name: torchvision's name of the data set: MNIST, FashionMNIST, KMNIST, QMNIST, EMNIST (its balanced split),
            USPS, SEMEION, CIFAR10, CIFAR100, SVHN, STL10, EuroSAT, GTSRB, Imagenette, Flowers102, OxfordIIITPet,
            Food101, FGVCAircraft, DTD, Caltech101, Caltech256, Country211, SUN397 or RenderedSST2.
        root: folder of the data set.
        download: whether to download the data set if it is not in ``root``.
        image_size: height and width to resize the images to, or one number for a square; defaults to the images' own
            size, and to 224 for photos of many sizes.
        batch_size: B, per device.
        augmentation: augmentation of the training images, see :func:`augment`; none if empty. If omitted, small images
            are shifted by up to an eighth of their side and photos are cropped at random and resized; both are
            mirrored, except for writing and signs.
        held_out: fractions of the training images to hold out if the data set has no validation or test split.
        seed: seed of the held-out splits.
        num_workers: worker processes of each loader.
        source: for MNIST, FashionMNIST and KMNIST, a folder with the ``.gz`` files of the data set, which are unpacked
            into ``root`` instead of a download. For FashionMNIST it defaults to the folder of Debian's package
            ``dataset-fashion-mnist``.
        transform: transform from a raw image to the network's input; replaces ``image_size``.

    Raises:
        ValueError: torchvision has no such classification data set.
        FileNotFoundError: ``source`` has no such files; or, when loaded, the data set is not in ``root`` and not
            downloaded.

    Example:
        >>> fashion = TorchvisionDataModule("FashionMNIST")
        >>> fashion.class_names[:3], fashion.transform.image_size
        (['T-shirt/top', 'Trouser', 'Pullover'], (28, 28))
        >>> TorchvisionDataModule("Fashion")
        Traceback (most recent call last):
        ValueError: name='Fashion' is not a known classification data set of torchvision; did you mean FashionMNIST?
    """

    def __init__(
        self,
        name: str = "FashionMNIST",
        root: str | Path = "data",
        download: bool = True,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        augmentation: list[Augmentation] | None = None,
        held_out: HeldOut = TENTH_AND_FIFTH,
        seed: int = 0,
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
            held_out=held_out,
            seed=seed,
        )
        self._name = name
        self._root = Path(root)
        self._download = download
        self._source = _find_source(name, source)
        self._class_names: list[str] | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; downloads and reads the data set first if its files hold them."""
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
        """Name of the data set."""
        return self._name

    def prepare_data(self) -> None:
        """Unpacks or downloads the data set if necessary; Lightning calls this in one process per machine."""
        if self._source is not None:
            _unpack(self._source, self._root / self._name / "raw")
        for split in self._set.splits:
            self._open(split, download=self._download)

    def load(self) -> Mapping[Split, ImageSource]:
        """The splits that the data set has."""
        if self.trainer is None:  # without a Trainer, which prepares the data
            self.prepare_data()
        return {split: _as_source(self._name, self._open(split)) for split in self._set.splits}

    def _open(self, split: Split, *, download: bool = False) -> LabelledImages:
        try:
            dataset: LabelledImages = getattr(torchvision.datasets, self._name)(
                str(self._root), download=download, **self._set.splits[split]
            )
        except (RuntimeError, OSError) as error:  # raised by torchvision for missing files and failed downloads
            what = "cannot be downloaded to" if download else "is not in"
            remedy = "check the connection" if download else "set download=True"
            raise FileNotFoundError(
                f"name={self._name!r}: the data set {what} root={str(self._root)!r} ({error}); {remedy}, or put its "
                "files there by hand"
            ) from error
        return dataset


class DatasetImages(ImageSource):
    """Images of a torchvision data set, read on demand.

    Args:
        dataset: data set of pairs of a PIL image and its class.
    """

    def __init__(self, dataset: LabelledImages) -> None:
        super().__init__(_labels(dataset))
        self.dataset = dataset

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        """See :meth:`ImageReader.read`; one image at a time, (1, C, H, W)."""
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
    raise ValueError(f"name={name!r} is not a known classification data set of torchvision; {hint}")


def _find_source(name: str, source: str | Path | None) -> Path | None:
    if source is None:
        installed = _INSTALLED.get(name)
        return installed if installed is not None and installed.is_dir() else None
    if name not in _IDX_SETS:
        raise ValueError(f"source={str(source)!r} can be given for {', '.join(_IDX_SETS)}, not for {name}; omit it")
    if not any(Path(source).glob("*-ubyte.gz")):
        raise FileNotFoundError(f"source={str(source)!r} has no files named *-ubyte.gz; check the path")
    return Path(source)


def _unpack(source: Path, raw: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    for packed in source.glob("*-ubyte.gz"):
        target = raw / packed.stem
        if not target.exists():
            # Atomic, in case of an interruption or of another process that does the same.
            with tempfile.TemporaryDirectory(dir=raw) as unfinished:
                file = Path(unfinished) / packed.stem
                with gzip.open(packed) as packed_file, file.open("wb") as plain_file:
                    shutil.copyfileobj(packed_file, plain_file)
                file.replace(target)


def _default_augmentation(known: _Set, transform: ImageTransform) -> list[Augmentation]:
    flip: list[Augmentation] = [RandomFlip()] if known.mirror else []
    if known.shift is None:
        return [v2.RandomResizedCrop(transform.image_size, scale=(0.35, 1.0), antialias=True), *flip]
    # Grey images have a black background, photos have not.
    return [RandomShift(known.shift, padding="zeros" if known.transform.channels == 1 else "reflect"), *flip]


def _labels(dataset: LabelledImages) -> Tensor:
    """(n,), class of each image, which torchvision keeps in an attribute of one of several names."""
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
    # EMNIST is stored transposed.
    return TensorImages((images.mT if name == "EMNIST" else images).contiguous(), _labels(dataset))
