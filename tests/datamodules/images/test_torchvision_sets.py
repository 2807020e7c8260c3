import bz2
import gzip
import inspect
import json
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from jsonargparse import ArgumentParser
from PIL import Image

from datamodules import ClassificationDataModule, HeldOut, ImageTransform, RandomFlip, RandomShift, TensorImages
from datamodules import TorchvisionDataModule as Sets
from datamodules.images.torchvision_sets import _INSTALLED, _SETS
from datamodules.splits import SPLITS

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (40, 28, 28), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 10


def idx(values: np.ndarray) -> bytes:
    """The format of the MNIST files: zero, zero, 8 for bytes, the rank; the shape; the values."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_idx(folder: Path, *, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 40), ("t10k", 20)):
        for kind, values in (("images-idx3", GREY[:count]), ("labels-idx1", LABELS[:count])):
            content = idx(values)
            name = f"{part}-{kind}-ubyte"
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def photo(path: Path, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def raw(data: ClassificationDataModule, split: str) -> np.ndarray:
    """Raw bytes of a split's images, recovered from the network's input."""
    dataset = data.dataset(split)  # type: ignore[arg-type]
    images, _ = dataset.__getitems__(range(len(dataset)))
    return (data.transform.denormalize(images) * 255).round().to(torch.uint8).numpy()


class TestSetsInMemory:
    @pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
    def test_mnist_and_its_family(self, name: str, tmp_path: Path) -> None:
        write_idx(tmp_path / name / "raw")
        data = Sets(name, tmp_path, download=False, augmentation=[])
        data.setup()
        assert isinstance(data.dataset("train").source, TensorImages)
        np.testing.assert_array_equal(raw(data, "test"), GREY[:20, None])
        np.testing.assert_array_equal(data.dataset("test").labels, LABELS[:20])
        assert data.dataset("val").labels.bincount().tolist() == [1] * 10
        kept = data.dataset("train").indices
        np.testing.assert_array_equal(raw(data, "train"), GREY[kept][:, None])
        assert len(kept) == 30

    def test_cifar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        flat = COLOUR.transpose(0, 3, 1, 2).reshape(40, -1)
        for batch in range(5):
            part = slice(8 * batch, 8 * batch + 8)
            (folder / f"data_batch_{batch + 1}").write_bytes(
                pickle.dumps({"data": flat[part], "labels": LABELS[part].tolist()})
            )
        (folder / "test_batch").write_bytes(pickle.dumps({"data": flat[:20], "labels": LABELS[:20].tolist()}))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"name {n}" for n in range(10)]}))
        data = Sets("CIFAR10", tmp_path, download=False)
        data.setup()
        np.testing.assert_array_equal(raw(data, "test"), COLOUR[:20].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(data.dataset("test").labels, LABELS[:20])

    def test_svhn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
        for split in ("train", "test"):
            labels = np.where(LABELS == 0, 10, LABELS)  # labels of the authors
            scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": COLOUR.transpose(1, 2, 3, 0), "y": labels[:, None]})
        data = Sets("SVHN", tmp_path, download=False)
        data.setup()
        np.testing.assert_array_equal(raw(data, "test"), COLOUR.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(data.dataset("test").labels, LABELS)

    def test_usps(self, tmp_path: Path) -> None:
        values = RANDOM.integers(0, 256, (20, 256), dtype=np.uint8)
        lines = [
            " ".join([str(1 + index % 10), *(f"{i + 1}:{value / 127.5 - 1:.6f}" for i, value in enumerate(row))])
            for index, row in enumerate(values)
        ]
        for name in ("usps.bz2", "usps.t.bz2"):
            (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
        data = Sets("USPS", tmp_path, download=False)
        data.setup()
        found = raw(data, "test").reshape(20, 256).astype(int)
        np.testing.assert_allclose(found, values, atol=1)  # torchvision rounds down
        np.testing.assert_array_equal(data.dataset("test").labels, np.arange(20) % 10)

    def test_emnist_is_transposed(self, tmp_path: Path) -> None:
        folder = tmp_path / "EMNIST" / "raw"
        folder.mkdir(parents=True)
        for part in ("train", "test"):
            (folder / f"emnist-balanced-{part}-images-idx3-ubyte").write_bytes(idx(GREY.transpose(0, 2, 1)))
            (folder / f"emnist-balanced-{part}-labels-idx1-ubyte").write_bytes(idx(LABELS))
        data = Sets("EMNIST", tmp_path, download=False)
        data.setup()
        np.testing.assert_array_equal(raw(data, "test"), GREY[:, None])
        assert data.class_names == torchvision.datasets.EMNIST.classes_split_dict["balanced"]

    def test_channels_and_size_by_argument(self, tmp_path: Path) -> None:
        write_idx(tmp_path / "MNIST" / "raw")
        data = Sets("MNIST", tmp_path, download=False, transform=ImageTransform(32, channels=3), batch_size=4)
        data.setup()
        images, _ = next(iter(data.train_dataloader()))
        assert images.shape == (4, 3, 32, 32)
        assert Sets("MNIST", image_size=14).transform == ImageTransform(14, channels=1, mean=0.1307, std=0.3081)


class TestSetsOfFiles:
    def test_food(self, tmp_path: Path) -> None:
        meta = {split: {name: [f"{name}/{n}" for n in range(5)] for name in ("pie", "cake")} for split in SPLITS}
        (tmp_path / "food-101" / "meta").mkdir(parents=True)
        for split in ("train", "test"):
            (tmp_path / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(meta[split]))
        for name in ("pie", "cake"):
            for number in range(5):
                photo(tmp_path / "food-101" / "images" / name / f"{number}.jpg", (20 + number, 30))
        data = Sets("Food101", tmp_path, download=False, image_size=16, batch_size=4)
        assert data.class_names == ["cake", "pie"]
        data.setup()
        images, _ = next(iter(data.train_dataloader()))
        assert images.shape == (4, 3, 16, 16)
        expected = data.transform(tmp_path / "food-101" / "images" / "pie" / "0.jpg")
        torch.testing.assert_close(data.dataset("test")[0][0], expected)
        assert data.class_names[int(data.dataset("test")[0][1])] == "pie"

    def test_a_data_set_without_splits_is_split_in_three(self, tmp_path: Path) -> None:
        for name in ("Forest", "River"):
            for number in range(10):
                photo(tmp_path / "eurosat" / "2750" / name / f"{number}.jpg", (64, 64))
        data = Sets("EuroSAT", tmp_path, download=False, held_out=HeldOut(0.25, 0.2))
        data.setup()
        assert [len(data.dataset(split)) for split in SPLITS] == [12, 4, 4]
        assert data.class_names == ["Forest", "River"]

    def test_a_set_without_names_is_numbered(self, tmp_path: Path) -> None:
        for name in ("00000", "00001"):
            for number in range(3):
                photo(tmp_path / "gtsrb" / "GTSRB" / "Training" / name / f"{number}.ppm", (25, 30))
                photo(tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / f"{name}{number}.ppm", (25, 30))
        rows = ["Filename;ClassId", *(f"{name}{n}.ppm;{int(name)}" for name in ("00000", "00001") for n in range(3))]
        (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("\n".join(rows))
        data = Sets("GTSRB", tmp_path, download=False)
        data.setup()
        assert data.class_names == ["0", "1"]
        assert data.dataset("test").labels.tolist() == [0, 0, 0, 1, 1, 1]


class TestFetching:
    def test_packed_files_replace_a_download(self, tmp_path: Path) -> None:
        source = write_idx(tmp_path / "packed", packed=True)
        data = Sets("FashionMNIST", tmp_path / "root", download=False, source=source)
        data.prepare_data()
        data.setup()
        np.testing.assert_array_equal(raw(data, "test"), GREY[:20, None])
        unpacked = sorted(path.name for path in (tmp_path / "root" / "FashionMNIST" / "raw").iterdir())
        assert unpacked == sorted(path.stem for path in source.iterdir())

    def test_the_package_of_debian_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = write_idx(tmp_path / "packed", packed=True)
        monkeypatch.setitem(_INSTALLED, "FashionMNIST", source)
        data = Sets("FashionMNIST", tmp_path / "root", download=False)
        data.setup()
        assert len(data.dataset("test")) == 20

    def test_a_source_without_the_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"source='.*' has no files named \*-ubyte.gz"):
            Sets("MNIST", source=tmp_path)
        with pytest.raises(ValueError, match=r"can be given for .*MNIST, not for SVHN"):
            Sets("SVHN", source=tmp_path)

    def test_missing_without_a_download(self, tmp_path: Path) -> None:
        data = Sets("KMNIST", tmp_path, download=False)
        with pytest.raises(FileNotFoundError, match=r"'KMNIST': .* is not in root='.*set download=True"):
            data.setup()

    def test_a_download_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: object) -> None:
            raise URLError("no route to host")

        monkeypatch.setattr(torchvision.datasets.KMNIST, "download", fail)
        with pytest.raises(
            FileNotFoundError, match=r"'KMNIST': .* cannot be downloaded.*no route to host.*check the connection"
        ):
            Sets("KMNIST", tmp_path).prepare_data()

    def test_a_trainer_prepares_the_data_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two processes never download at the same time."""
        write_idx(tmp_path / "MNIST" / "raw")
        data = Sets("MNIST", tmp_path)
        data.trainer = object()  # type: ignore[assignment]
        monkeypatch.setattr(data, "prepare_data", lambda: pytest.fail("prepared in setup"))
        data.setup()
        assert len(data.dataset("test")) == 20


class TestNames:
    @pytest.mark.parametrize("name", sorted(_SETS))
    def test_torchvision_accepts_our_arguments(self, name: str) -> None:
        signature = inspect.signature(getattr(torchvision.datasets, name))
        for arguments in _SETS[name].splits.values():
            bound = signature.bind("root", download=True, **arguments)
            assert bound.arguments["root"] == "root"

    @pytest.mark.parametrize(
        ("name", "first", "count"),
        [
            ("MNIST", "0", 10),
            ("FashionMNIST", "T-shirt/top", 10),
            ("KMNIST", "o", 10),
            ("CIFAR10", "airplane", 10),
            ("STL10", "airplane", 10),
            ("SVHN", "0", 10),
            ("EMNIST", "0", 47),
        ],
    )
    def test_classes_are_known_before_a_download(self, name: str, first: str, count: int, tmp_path: Path) -> None:
        data = Sets(name, tmp_path / "absent", download=False)
        assert data.class_names[0] == first
        assert data.num_classes == count

    @pytest.mark.parametrize(
        ("wrong", "near"), [("mnist", "MNIST"), ("Fashion-MNIST", "FashionMNIST"), ("CIFAR", "CIFAR10")]
    )
    def test_an_unknown_name_has_near_matches(self, wrong: str, near: str) -> None:
        with pytest.raises(ValueError, match=rf"name='{wrong}' is not .*did you mean .*{near}"):
            Sets(wrong)

    def test_without_near_matches_all_names_are_listed(self) -> None:
        with pytest.raises(ValueError, match=r"there are Caltech101, .*USPS"):
            Sets("CocoDetection")


class TestAugmentation:
    def test_clothes_are_mirrored_and_writing_is_not(self, tmp_path: Path) -> None:
        kinds = {}
        for name in ("FashionMNIST", "MNIST"):
            write_idx(tmp_path / name / "raw")
            data = Sets(name, tmp_path, download=False)
            data.setup()
            kinds[name] = [type(step) for step in data.dataset("train").augmentation]
        assert kinds == {"FashionMNIST": [RandomShift, RandomFlip], "MNIST": [RandomShift]}


def test_yaml_builds_it(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(ClassificationDataModule, "data")
    arguments = {"name": "KMNIST", "root": str(tmp_path), "image_size": 32, "download": False}
    settings = {"class_path": "datamodules.TorchvisionDataModule", "init_args": arguments}
    data = parser.instantiate(parser.parse_object({"data": settings})).data
    assert isinstance(data, Sets)
    assert data.title == "KMNIST"
    assert data.image_size == (32, 32)


@pytest.mark.skipif(not _INSTALLED["FashionMNIST"].is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_real_fashion_mnist(tmp_path: Path) -> None:
    data = Sets("FashionMNIST", tmp_path, download=False, augmentation=[], held_out=HeldOut(test=0.2))
    data.setup()
    assert len(data.dataset("train")) == 60_000
    assert data.dataset("test").labels.bincount().tolist() == [1000] * 10
    images = torch.cat([images for images, _ in data.train_dataloader()])
    assert images.mean().item() == pytest.approx(0.0, abs=0.01)
    assert images.std().item() == pytest.approx(1.0, abs=0.01)
