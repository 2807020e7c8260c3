import inspect
import json
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from PIL import Image

from datamodules import (
    CaptionBatch,
    CaptionDataset,
    CaptionFolderDataModule,
    CaptionRecord,
    CaptionSource,
    CaptionTable,
    CocoCaptions,
    FlickrTokens,
    HeldOut,
    ImageTransform,
    KarpathySplit,
    RandomFlip,
    TensorImages,
    Word,
)
from datamodules.splits import SPLITS
from tests.paths import SHARED

FLICKR = SHARED / "flickr8k-160"
SPLIT_OF = ["train"] * 6 + ["val"] * 2 + ["test"] * 2


def write_images(folder: Path, count: int = 10, first: int = 0) -> Path:
    """Images of one shade each, ten apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (12, 10 + number % 3), (10 * (number + 1),) * 3).save(folder / f"{number}.png")
    return folder


def write_captions(path: Path, rows: Sequence[Sequence[str]], columns: str = "image,caption") -> Path:
    path.write_text("\n".join([columns, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def two_each(count: int = 10) -> list[list[str]]:
    return [[f"{number}.png", f"{word} shade {number}"] for number in range(count) for word in ("a", "the very")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images, two captions each, and the split."""
    folder = write_images(tmp_path / "set" / "images").parent
    rows = [[*row, SPLIT_OF[int(row[0].removesuffix(".png"))]] for row in two_each()]
    write_captions(folder / "captions.csv", rows, "image,caption,split")
    return folder


def module(root: Path, captions: CaptionSource | None = None, **arguments: Any) -> CaptionFolderDataModule:  # noqa: ANN401
    settings = {"tokenizer": Word(), "transform": ImageTransform(8, mean=0.0, std=1.0), "num_workers": 0, **arguments}
    return CaptionFolderDataModule(captions or CaptionTable("captions.csv"), root, **settings)


def everything(data: CaptionDataset) -> CaptionBatch:
    return data[list(range(len(data)))]


def shades(batch: CaptionBatch) -> list[int]:
    """Index of each image, from its shade."""
    assert batch.images is not None
    return [round(image.mean().item() * 25.5) - 1 for image in batch.images]


def numbers(names: Sequence[str]) -> list[int]:
    return [int(re.findall(r"(\d+)\.", name)[0]) for name in names]


class TestLayouts:
    def test_images_keep_their_captions_and_splits(self, root: Path) -> None:
        data = module(root)
        for split in SPLITS:
            batch = everything(data.dataset(split))
            assert shades(batch) == numbers(batch.names)
            assert {SPLIT_OF[number] for number in numbers(batch.names)} == {split}
            expected = [[f"a shade {number}", f"the very shade {number}"] for number in numbers(batch.names)]
            assert batch.references == expected
        assert [len(data.dataset(split)) for split in SPLITS] == [12, 2, 2]

    def test_a_zip_equals_its_folder(self, root: Path, tmp_path: Path) -> None:
        packed = tmp_path / "set.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(root.rglob("*.png")):
                archive.write(path, path.relative_to(root))
        (root / "captions.csv").rename(tmp_path / "captions.csv")
        for again in (module(packed), pickle.loads(pickle.dumps(module(packed)))):  # noqa: S301
            batch = everything(again.dataset("test"))
            assert shades(batch) == numbers(batch.names) == [8, 9]
        workers = module(packed, num_workers=1, batch_size=1)
        assert sorted(name for batch in workers.test_dataloader() for name in batch.names) == ["8.png", "9.png"]

    def test_names_may_be_ends_of_paths(self, tmp_path: Path) -> None:
        write_images(tmp_path / "a" / "train", 3)
        write_images(tmp_path / "a" / "val", 3)
        write_images(tmp_path / "b", 1, first=5)
        rows = [["train/1.png", "x"], ["./val/1.png", "y"], ["a/val/2.png", "z"], ["5.png", "w"]]
        write_captions(tmp_path / "captions.csv", rows)
        data = module(tmp_path, held_out=HeldOut(0.0, 0.0))
        batch = everything(data.dataset("train"))
        assert shades(batch) == [1, 1, 2, 5]
        assert batch.names == [row[0] for row in rows]

    def test_a_whole_path_takes_precedence_over_an_ending(self, tmp_path: Path) -> None:
        write_images(tmp_path, 2)
        write_images(tmp_path / "copies", 2)
        write_captions(tmp_path / "captions.csv", two_each(2))
        data = module(tmp_path, held_out=HeldOut(0.0, 0.0))
        assert "Skipped 2 images without a caption:" in data.summary()

    def test_absolute_paths_need_no_root(self, root: Path, tmp_path: Path) -> None:
        elsewhere = (root / "captions.csv").rename(tmp_path / "elsewhere.csv")
        assert len(module(root, CaptionTable(elsewhere)).dataset("train")) == 12

    def test_the_files_of_flickr(self, tmp_path: Path) -> None:
        write_images(tmp_path / "Flicker8k_Dataset", 6)
        texts = tmp_path / "Flickr8k_text"
        texts.mkdir()
        (texts / "tokens.txt").write_text("".join(f"{n}.png#{k}\tshade {n}\n" for n in range(6) for k in range(5)))
        for name, lines in (("train", "0.png\n1.png\n2.png\n"), ("dev", "3.png\n"), ("test", "4.png\n")):
            (texts / f"{name}.txt").write_text(lines)
        paths = [f"Flickr8k_text/{name}.txt" for name in ("tokens", "train", "dev", "test")]
        data = module(tmp_path, FlickrTokens(*paths))
        assert [len(data.dataset(split)) for split in SPLITS] == [15, 1, 1]
        assert all(len(references) == 5 for references in everything(data.dataset("val")).references)
        assert data.notes == ["Skipped 1 images without a caption:", "  Flicker8k_Dataset/5.png"]

    def test_the_files_of_coco(self, tmp_path: Path) -> None:
        for split, first in (("train", 0), ("val", 4)):
            write_images(tmp_path / f"{split}2017", 4, first)
            images = [{"id": n, "file_name": f"{n}.png"} for n in range(first, first + 4)]
            captions = [
                {"image_id": n, "id": 10 * n + k, "caption": f"shade {n}"}
                for n in range(first, first + 4)
                for k in (0, 1)
            ]
            content = {"images": images, "annotations": captions}
            (tmp_path / f"{split}.json").write_text(json.dumps(content))
        data = module(tmp_path, CocoCaptions("train.json", "val.json"), held_out=HeldOut(test=0.25))
        assert [len(data.dataset(split).names) for split in SPLITS] == [3, 4, 1]
        assert shades(everything(data.dataset("val"))) == [4, 5, 6, 7]

    def test_the_split_of_karpathy(self, tmp_path: Path) -> None:
        write_images(tmp_path / "val2014", 4)
        splits = ("train", "restval", "val", "test")
        images = [
            {"filepath": "val2014", "filename": f"{n}.png", "split": split, "sentences": [{"raw": f"Shade {n}."}]}
            for n, split in enumerate(splits)
        ]
        (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
        data = module(tmp_path, KarpathySplit("dataset.json"))
        assert [data.dataset(split).names for split in SPLITS] == [
            ["val2014/0.png", "val2014/1.png"],
            ["val2014/2.png"],
            ["val2014/3.png"],
        ]

    def test_a_custom_source(self, root: Path) -> None:
        class Numbered(CaptionSource):
            def read(self, root: object = ".", on_bad_input: object = None) -> list[CaptionRecord]:
                return [CaptionRecord(f"{n}.png", f"photo {n}", "train", f"number {n}") for n in range(3)]

        data = module(root, Numbered(), held_out=HeldOut(0.0, 0.0))
        assert everything(data.dataset("train")).references == [[f"photo {n}"] for n in range(3)]


class TestHeldOut:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> Path:
        write_captions(write_images(tmp_path, 20) / "captions.csv", two_each(20))
        return tmp_path

    def test_all_captions_of_an_image_are_in_one_split(self, whole: Path) -> None:
        data = module(whole, held_out=HeldOut(val=0.25, test=0.2))
        names = [data.dataset(split).names for split in SPLITS]
        assert [len(part) for part in names] == [12, 4, 4]
        assert len({name for part in names for name in part}) == 20
        assert len(data.dataset("train")) == 24
        assert all(len(several) == 2 for split in SPLITS for several in data.dataset(split).captions)

    @given(val=st.floats(0.0, 0.4), test=st.floats(0.0, 0.4), seed=st.integers(0, 3))
    def test_any_split(self, tmp_path_factory: pytest.TempPathFactory, val: float, test: float, seed: int) -> None:
        folder = tmp_path_factory.getbasetemp() / "cut"
        if not folder.exists():
            write_captions(write_images(folder, 8) / "captions.csv", two_each(8))
        data = module(folder, held_out=HeldOut(val, test), seed=seed)
        data.setup()
        wanted = [split for split, fraction in (("train", 1.0), ("val", val), ("test", test)) if fraction > 0.0]
        assert list(data.datasets) == wanted
        names = [name for dataset in data.datasets.values() for name in dataset.names]
        assert sorted(names) == [f"{number}.png" for number in range(8)]

    def test_seed_decides(self, whole: Path) -> None:
        held = [module(whole, seed=seed).dataset("test").names for seed in (0, 0, 1)]
        assert held[0] == held[1] != held[2]

    def test_only_missing_splits_are_cut(self, root: Path) -> None:
        text = (root / "captions.csv").read_text(encoding="utf-8")
        (root / "captions.csv").write_text(text.replace(",test", ",train"), encoding="utf-8")
        data = module(root, held_out=HeldOut(val=0.9, test=0.25))
        assert data.dataset("val").names == ["6.png", "7.png"]
        assert len(data.dataset("test").names) == 2
        assert len(data.dataset("train").names) == 6

    def test_all_held_out(self, whole: Path) -> None:
        with pytest.raises(ValueError, match=r"left to train on; .* hold out less than HeldOut\(val=0\.9, test=0\.9\)"):
            module(whole, held_out=HeldOut(0.9, 0.9)).setup()


class TestImages:
    def test_images_in_memory_are_the_same(self, root: Path) -> None:
        read, cached = (module(root, in_memory=in_memory) for in_memory in (False, True))
        assert isinstance(cached.dataset("train").reader, TensorImages)
        for split in SPLITS:
            expected, images = everything(read.dataset(split)).images, everything(cached.dataset(split)).images
            torch.testing.assert_close(images, expected)

    @pytest.mark.parametrize("in_memory", [False, True])
    def test_every_kind_of_image_is_read_correctly(self, in_memory: bool, tmp_path: Path) -> None:
        values = np.tile(np.array([[51, 204]], dtype=np.uint8).repeat(10, 1), (10, 1))  # dark left, bright right
        grey, exif = Image.fromarray(values), Image.Exif()
        exif[0x0112] = 3  # upside down
        palette = grey.convert("P")
        grey.save(tmp_path / "grey.png")
        Image.merge("RGBA", [grey] * 3 + [Image.new("L", grey.size, 255)]).save(tmp_path / "rgba.png")
        palette.save(tmp_path / "palette.png")
        Image.merge("RGB", [grey] * 3).convert("CMYK").save(tmp_path / "cmyk.tif")
        Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "deep.png")
        grey.rotate(180).save(tmp_path / "turned.png", exif=exif)
        Image.new("L", (1, 1), 51).save(tmp_path / "pixel.png")
        names = ["grey.png", "rgba.png", "palette.png", "cmyk.tif", "deep.png", "turned.png", "pixel.png"]
        write_captions(tmp_path / "captions.csv", [[name, "dark and bright"] for name in names])
        data = module(tmp_path, in_memory=in_memory, held_out=HeldOut(0.0, 0.0))
        batch = everything(data.dataset("train"))
        assert batch.names == names
        assert batch.images is not None
        assert batch.images.shape == (7, 3, 8, 8)
        for image in batch.images[:-1]:
            torch.testing.assert_close(image[:, :, 0], torch.full((3, 8), 0.2), atol=0.02, rtol=0)
            torch.testing.assert_close(image[:, :, 7], torch.full((3, 8), 0.8), atol=0.02, rtol=0)
        torch.testing.assert_close(batch.images[-1], torch.full((3, 8, 8), 0.2), atol=0.01, rtol=0)

    def test_augmentation_and_the_default_transform(self, root: Path) -> None:
        data = CaptionFolderDataModule(
            CaptionTable("captions.csv"), root, Word(), augmentation=[RandomFlip()], num_workers=0
        )
        assert data.transform == ImageTransform(224, mean=0.5, std=0.5)
        assert [len(data.dataset(split).augmentation) for split in SPLITS] == [1, 0, 0]
        assert data.image_size == (224, 224)


def add(root: Path, *rows: str) -> None:
    with (root / "captions.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{row}\n" for row in rows)


def cut_short(root: Path) -> str:
    path = root / "images" / "1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    return r"images/1\.png' cannot be read as an image"


def no_image(root: Path) -> str:
    (root / "images" / "1.png").write_text("no image")
    return r"images/1\.png' cannot be read as an image"


def missing(root: Path) -> str:
    (root / "images" / "1.png").unlink()
    return r"captions\.csv, line 4: there is no image '1\.png'"


def twice(root: Path) -> str:
    write_images(root / "more", 1, first=1)
    return r"line 4: '1\.png' matches 'images/1\.png' and 'more/1\.png'; give more of its path"


def huge(root: Path) -> str:
    Image.new("1", (20_000, 10_000)).save(root / "images" / "1.png")
    return r"images/1\.png' is too large \(.*exceeds limit.*scale it down"


class TestProblems:
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("in_memory", [False, True])
    @pytest.mark.parametrize("spoil", [cut_short, no_image, missing, twice, huge])
    def test_images_that_cannot_be_used(self, root: Path, spoil: Any, in_memory: bool) -> None:  # noqa: ANN401
        message = spoil(root)
        with pytest.raises(ValueError, match=rf"set' has 1 unusable images or captions; .*\n.*{message}"):
            module(root, in_memory=in_memory).setup()
        data = module(root, in_memory=in_memory, bad_input="skip")
        batch = everything(data.dataset("train"))
        assert numbers(batch.names) == shades(batch) == [0, 0, 2, 2, 3, 3, 4, 4, 5, 5]
        notes = data.summary().splitlines()
        assert "Skipped 1 unusable images or captions:" in notes
        assert any(re.search(message, line) for line in notes)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1.png,,train", "line 22, column 'caption' is empty"),
            ("1.png,a shade,test", r"line 22: '1\.png' is in 'train' already, not 'test'"),
            ("1.png,a shade,rest", "line 22: 'rest' is not a split"),
            ("x.png,a shade,train", r"line 22: there is no image 'x\.png'"),
        ],
    )
    def test_captions_that_cannot_be_used(self, root: Path, row: str, message: str) -> None:
        add(root, row)
        with pytest.raises(ValueError, match=rf"bad_input='skip':\n.*captions\.csv, {message}"):
            module(root).setup()
        data = module(root, bad_input="skip")
        assert [len(data.dataset(split)) for split in SPLITS] == [12, 2, 2]
        assert data.dataset("train").captions[1] == ["a shade 1", "the very shade 1"]
        assert "Skipped 1 unusable images or captions:" in data.summary()

    def test_all_are_named_in_one_error(self, root: Path) -> None:
        no_image(root)
        (root / "images" / "8.png").unlink()
        add(root, "2.png,,train", "y.png,a shade,train", "y.png,another,train")
        with pytest.raises(ValueError, match=r"has 4 unusable images or captions") as raised:
            module(root).setup()
        for name in ("images/1.png", "'8.png'", "line 22", "'y.png'"):
            assert name in str(raised.value)

    def test_long_lists_are_truncated(self, root: Path) -> None:
        add(root, *(f"x{number}.png,a shade,train" for number in range(14)))
        with pytest.raises(ValueError, match=r"has 14 unusable images(?s:.*)… and 4 more") as raised:
            module(root).setup()
        assert len(re.findall(r"x\d+\.png", str(raised.value))) == 10

    def test_images_without_a_caption_are_counted(self, root: Path) -> None:
        write_images(root / "images", 12, first=10)
        data = module(root)
        assert len(data.dataset("train")) == 12
        notes = data.summary().splitlines()[-12:]
        assert notes[0] == "Skipped 12 images without a caption:"
        assert notes[1] == "  images/10.png"
        assert notes[-1] == "  … and 2 more"

    def test_without_problems_there_are_no_notes(self, root: Path) -> None:
        data = module(root, bad_input="skip")
        data.setup()
        assert data.notes == []

    @pytest.mark.parametrize("bad_input", ["error", "skip"])
    def test_nothing_left_to_train_on(self, root: Path, bad_input: str) -> None:
        write_captions(root / "captions.csv", [["9.png", "a shade", "test"]], "image,caption,split")
        with pytest.raises(ValueError, match=r"set' has no captioned image left to train on"):
            module(root, bad_input=bad_input).setup()

    def test_a_split_without_usable_images(self, root: Path) -> None:
        for number in (8, 9):
            (root / "images" / f"{number}.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"set has no split 'test', only \['train', 'val'\]"):
            module(root, bad_input="skip").test_dataloader()


class TestCaptions:
    def test_any_text_passes_unchanged(self, root: Path) -> None:
        texts = ["개 한 마리가 달린다.", 'a sign\tthat says "no"', "$5 or $10", "word " * 999 + "word"]
        records = [json.dumps({"image": f"{number}.png", "caption": text}) for number, text in enumerate(texts)]
        (root / "captions.jsonl").write_text("\n".join(records), encoding="utf-8")
        data = module(root, CaptionTable("captions.jsonl"), held_out=HeldOut(0.0, 0.0))
        assert [several[0] for several in data.dataset("train").captions] == texts
        assert len(data.dataset("train")) == 3
        assert "train: 1 of 4 captions removed, longer than 100 tokens" in data.summary()
        kept = module(root, CaptionTable("captions.jsonl"), held_out=HeldOut(0.0, 0.0), max_length=None)
        assert everything(kept.dataset("train")).caption_lengths.tolist()[3] == 1002
        first = kept.dataset("train")[0]
        assert kept.target_tokenizer.decode(first.captions.tolist()) == [texts[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bad_input": "ignore"}, "bad_input must be 'error' or 'skip', got 'ignore'"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"max_length": 0}, "max_length must be 1 or more, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        module(root, **arguments)


def test_nothing_there(tmp_path: Path, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"root='.*gone': there is no such folder or zip"):
        module(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"path='.*gone\.csv': there is no such file"):
        module(root, CaptionTable("gone.csv")).setup()


def test_at_most_twelve_arguments() -> None:
    assert len(inspect.signature(CaptionFolderDataModule).parameters) <= 12


def test_yaml_builds_it(root: Path) -> None:
    recipe = """
    class_path: CaptionFolderDataModule
    init_args:
      captions: {class_path: CaptionTable, init_args: {path: captions.csv}}
      tokenizer: {class_path: Word, init_args: {lower: true, min_frequency: 3}}
      transform: {size: 16, channels: 1}
      augmentation: [datamodules.RandomFlip]
      held_out: {val: 0.1, test: 0.1}
      bad_input: skip
      num_workers: 0
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    parser.add_argument("--config", action="config")
    config = yaml.safe_dump({"data": yaml.safe_load(recipe)})
    words = ["--data.init_args.root", str(root), "--data.init_args.transform.size", "24"]
    data = parser.instantiate(parser.parse_args(["--config", config, *words])).data
    assert isinstance(data, CaptionFolderDataModule)
    assert data.transform == ImageTransform(24, channels=1)
    assert isinstance(data.dataset("train").augmentation[0], RandomFlip)
    assert data.target_tokenizer == Word(lower=True, min_frequency=3).train(
        text for several in data.dataset("train").captions for text in several
    )


@pytest.mark.slow
@pytest.mark.skipif(not FLICKR.is_dir(), reason="needs ../shared/data/flickr8k-160")
def test_flickr8k() -> None:
    data = module(FLICKR, transform=ImageTransform(32))
    assert [len(data.dataset(split).names) for split in SPLITS] == [6000, 500, 591]
    assert len(data.dataset("train")) == 30_000
    assert {len(several) for split in SPLITS for several in data.dataset(split).captions} == {5}
    assert data.notes == []
    batch = next(iter(data.train_dataloader()))
    assert batch.images is not None
    assert batch.images.shape == (64, 3, 32, 32)
    assert batch.images.std() > 0.2
    assert len(set(batch.caption_lengths.tolist())) == 1
