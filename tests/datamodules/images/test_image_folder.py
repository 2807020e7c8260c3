import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from datamodules import (
    ClassificationDataModule,
    HeldOut,
    ImageFolderDataModule,
    ImageTransform,
    TensorImages,
    read_image,
)
from datamodules.files.file_tree import FileTree
from datamodules.images.image_folder import find_classes
from datamodules.splits import SPLITS, Split
from tests.paths import SHARED

MakeClasses = Callable[..., Path]


def folder(root: Path, **arguments: object) -> ImageFolderDataModule:
    return ImageFolderDataModule(root, **{"image_size": 8, "num_workers": 0, **arguments})  # type: ignore[arg-type]


def loaded(root: Path, **arguments: object) -> ImageFolderDataModule:
    data = folder(root, **arguments)
    data.setup()
    return data


def pack(root: Path, target: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, Path(inside) / path.relative_to(root))
    return target


def lengths(data: ClassificationDataModule) -> list[int]:
    return [len(data.dataset(split)) for split in SPLITS]


def everything(data: ClassificationDataModule, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = data.dataset(split)
    return dataset.__getitems__(range(len(dataset)))


class TestLayouts:
    def test_class_folders_alone_are_split_in_three(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        data = loaded(make_classes(tmp_path), held_out=HeldOut(0.25, 0.2))
        assert data.class_names == ["blue", "green", "red"]
        assert lengths(data) == [18, 6, 6]
        for split in SPLITS:
            images, labels = everything(data, split)
            assert len(set(labels.bincount().tolist())) == 1  # stratified
            # Blue is class 0 and channel 2, and so on.
            assert torch.equal(images.mean((2, 3)).argmax(1), 2 - labels)

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (("train", "val", "test"), [30, 12, 6]),
            (("Training", "valid", "Testing"), [30, 12, 6]),
            (("train", "validation"), [24, 12, 6]),
            (("train", "test"), [27, 3, 12]),
            (("train",), [21, 3, 6]),
        ],
    )
    def test_split_folders_are_kept_and_missing_ones_cut(
        self, names: tuple[str, ...], expected: list[int], make_classes: MakeClasses, tmp_path: Path
    ) -> None:
        for name, count in zip(names, (10, 4, 2), strict=False):
            make_classes(tmp_path / name, count)
        assert lengths(loaded(tmp_path)) == expected

    def test_deeper_images_and_files_next_to_the_classes(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path / "set")
        (root / "README.md").write_text("about")
        (root / "red" / ".DS_Store").write_bytes(b"")
        (root / "red" / "more" / "still").mkdir(parents=True)
        shutil.copy(root / "red" / "000.png", root / "red" / "more" / "still" / "x.png")
        assert sum(lengths(loaded(root))) == 31

    def test_a_class_may_have_the_name_of_a_split(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path, classes=("blue", "red"))
        (root / "red").rename(root / "train")
        assert loaded(root).class_names == ["blue", "train"]

    @pytest.mark.parametrize("wrapped", ["", "outer", "outer/inner"])
    @pytest.mark.parametrize("splits", [False, True])
    def test_a_zip_equals_its_folder(
        self, wrapped: str, splits: bool, make_classes: MakeClasses, tmp_path: Path
    ) -> None:
        root = tmp_path / "set"
        if splits:
            make_classes(root / "train")
            make_classes(root / "test", 3)
        else:
            make_classes(root)
        plain = loaded(root)
        packed = loaded(pack(root, tmp_path / "set.zip", wrapped))
        shutil.copytree(root, tmp_path / "above" / wrapped / "set")
        wrapped_folder = loaded(tmp_path / "above")
        for split in ("val", "test"):
            images, labels = everything(plain, split)
            for other in (packed, wrapped_folder):
                other_images, other_labels = everything(other, split)
                assert torch.equal(other_images, images)
                assert torch.equal(other_labels, labels)

    def test_a_zip_works_in_worker_processes(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        packed = pack(make_classes(tmp_path / "set"), tmp_path / "set.zip")
        data = loaded(packed, num_workers=2, batch_size=2)
        again = pickle.loads(pickle.dumps(data))  # noqa: S301
        images = torch.cat([images for images, _ in again.test_dataloader()])
        torch.testing.assert_close(images, everything(data, "test")[0])


class TestImages:
    def test_images_in_memory_are_the_same(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path)
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "blue" / "large.jpg")
        Image.new("L", (5, 5), 9).save(root / "red" / "grey.png")
        Image.new("RGBA", (50, 5), (9, 9, 9, 9)).save(root / "red" / "clear.png")
        read, cached = (loaded(root, in_memory=in_memory, augmentation=[]) for in_memory in (False, True))
        assert isinstance(cached.dataset("train").source, TensorImages)
        for split in SPLITS:
            torch.testing.assert_close(everything(read, split), everything(cached, split))

    def test_grey_images_in_memory_have_the_transforms_channels(
        self, make_classes: MakeClasses, tmp_path: Path
    ) -> None:
        data = loaded(make_classes(tmp_path), in_memory=True, image_size=None, transform=ImageTransform((6, 7), 1))
        assert everything(data, "test")[0].shape == (6, 1, 6, 7)

    def test_training_images_are_cropped_at_random(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path)
        gradient = np.linspace(0, 255, 48 * 48 * 3).reshape(48, 48, 3).astype(np.uint8)
        for path in root.rglob("*.png"):
            Image.fromarray(gradient).save(path)
        training, plain = loaded(root).dataset("train"), loaded(root, augmentation=[]).dataset("train")
        assert not torch.equal(training[0][0], training[0][0])
        assert torch.equal(plain[0][0], plain[0][0])
        assert torch.equal(plain[0][0], ImageTransform(8)(gradient))

    def test_size_and_transform(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path)
        assert folder(root, image_size=None).transform == ImageTransform(224)
        assert folder(root, image_size=(6, 9)).image_size == (6, 9)
        with pytest.raises(ValueError, match=r"image_size=8 and transform\.size=9"):
            folder(root, transform=ImageTransform(9))

    def test_the_split_is_the_same_each_time(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path)
        first = loaded(root).dataset("test").indices
        assert torch.equal(loaded(root, in_memory=True, batch_size=3).dataset("test").indices, first)
        assert not torch.equal(loaded(root, seed=1).dataset("test").indices, first)


class TestBadFiles:
    @pytest.fixture
    def damaged(self, make_classes: MakeClasses, tmp_path: Path) -> Path:
        root = make_classes(tmp_path / "set", suffix="jpg")
        cut = root / "blue" / "003.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(cut)
        cut.write_bytes(cut.read_bytes()[:-2000])
        (root / "green" / "notes.txt").write_text("no image")
        (root / "red" / "empty.jpg").write_bytes(b"")
        return root

    @pytest.mark.parametrize("in_memory", [False, True])
    def test_all_are_named_in_one_error(self, in_memory: bool, damaged: Path) -> None:
        data = folder(damaged, in_memory=in_memory)
        with pytest.raises(ValueError, match=r"has 3 files that are not readable images; .*bad_input='skip'") as raised:
            data.setup()
        for name in ("blue/003.jpg", "green/notes.txt", "red/empty.jpg"):
            assert str(Path(name)) in str(raised.value)

    @pytest.mark.parametrize("in_memory", [False, True])
    @pytest.mark.parametrize("packed", [False, True])
    def test_skipped_ones_are_counted_in_the_summary(self, in_memory: bool, packed: bool, damaged: Path) -> None:
        root = pack(damaged, damaged.with_suffix(".zip")) if packed else damaged
        data = loaded(root, bad_input="skip", in_memory=in_memory, augmentation=[])
        assert sum(lengths(data)) == 29
        assert "Skipped 3 files that are not readable images" in data.summary()
        assert "notes.txt" in data.summary()
        for split in SPLITS:
            images, labels = everything(data, split)
            assert torch.equal(images.mean((2, 3)).argmax(1), 2 - labels)

    def test_long_lists_are_truncated(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path)
        for number in range(14):
            (root / "red" / f"bad{number:02}.png").write_bytes(b"junk")
        with pytest.raises(ValueError, match=r"has 14 files(?s:.*)… and 4 more") as raised:
            loaded(root)
        assert len(re.findall(r"bad\d\d\.png", str(raised.value))) == 10

    def test_a_class_of_bad_files_only(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        root = make_classes(tmp_path)
        for path in (root / "red").iterdir():
            path.write_bytes(b"junk")
        with pytest.raises(ValueError, match=r"has no readable image of the classes \['red'\]"):
            loaded(root, bad_input="skip")

    def test_unknown_bad_input(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="bad_input must be 'error' or 'skip', got 'ignore'"):
            folder(make_classes(tmp_path), bad_input="ignore")


class TestErrors:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such folder or zip"):
            folder(tmp_path / "gone")

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"root='.*' has no class folders; put the images"):
            folder(tmp_path)

    def test_images_without_class_folders(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no class folders"):
            folder(make_classes(tmp_path) / "red")

    def test_one_class(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has only one class, 'red'"):
            folder(make_classes(tmp_path, classes=("red",)))

    def test_an_empty_class(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        (make_classes(tmp_path) / "violet").mkdir()
        with pytest.raises(ValueError, match=r"the class folders \['violet'\] have no images"):
            folder(tmp_path)

    def test_splits_with_different_classes(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        make_classes(tmp_path / "train")
        make_classes(tmp_path / "test", classes=("red", "green"))
        (tmp_path / "test" / "green").rename(tmp_path / "test" / "Green")
        with pytest.raises(
            ValueError, match=r"'train' and 'test' differ; only in 'train': \['blue', 'green'\], only in 'test': \['Gr"
        ):
            folder(tmp_path)

    def test_no_training_images(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        make_classes(tmp_path / "val")
        make_classes(tmp_path / "test")
        with pytest.raises(ValueError, match=r"has \['test', 'val'\] but no 'train' folder"):
            folder(tmp_path)

    def test_the_same_split_twice(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        for name in ("train", "val", "valid"):
            make_classes(tmp_path / name)
        with pytest.raises(ValueError, match="two folders for 'val': 'val' and 'valid'"):
            folder(tmp_path)

    def test_a_test_folder_without_classes(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        make_classes(tmp_path / "train")
        (tmp_path / "test").mkdir()
        shutil.copy(tmp_path / "train" / "red" / "000.png", tmp_path / "test")
        with pytest.raises(ValueError, match=r"\['test'\] have no class folders"):
            folder(tmp_path)

    def test_a_deleted_file_is_named(self, make_classes: MakeClasses, tmp_path: Path) -> None:
        data = loaded(make_classes(tmp_path))
        shutil.rmtree(tmp_path / "red")
        with pytest.raises(ValueError, match=r"red.*\.png' cannot be read"):
            everything(data, "test")


def test_yaml_builds_it(make_classes: MakeClasses, tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(ClassificationDataModule, "data")
    arguments = {"root": str(make_classes(tmp_path)), "image_size": [8, 9], "bad_input": "skip", "augmentation": []}
    settings = {"class_path": "datamodules.ImageFolderDataModule", "init_args": arguments}
    data = parser.instantiate(parser.parse_object({"data": settings})).data
    assert isinstance(data, ImageFolderDataModule)
    assert data.image_size == (8, 9)
    assert data.num_classes == 3


@pytest.mark.skipif(not (SHARED / "cifar10-jpeg").is_dir(), reason="needs ../shared/data/cifar10-jpeg")
def test_cifar_in_its_zip() -> None:
    path = SHARED / "cifar10-jpeg" / "cifar10_images.zip"
    assert folder(path).class_names[:3] == ["airplane", "automobile", "bird"]
    tree = FileTree(path)
    files = find_classes(tree)
    assert {split: {len(names) for names in classes.values()} for split, classes in files.items()} == {
        "train": {1000},
        "test": {200},
    }
    assert read_image(BytesIO(tree.read(files["test"]["cat"][0]))).size == (32, 32)


@pytest.mark.skipif(not (SHARED / "hymenoptera-160").is_dir(), reason="needs ../shared/data/hymenoptera-160")
def test_photos_in_a_folder() -> None:
    data = loaded(SHARED / "hymenoptera-160", image_size=64)
    assert data.class_names == ["ants", "bees"]
    assert sum(lengths(data)) == 396
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (64, 3, 64, 64)
    assert images.std() > 0.3
