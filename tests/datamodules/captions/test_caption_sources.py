import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import CaptionRecord, CaptionSource, CaptionTable, CocoCaptions, FlickrTokens, KarpathySplit

# Korean, quotes, a comma, a line separator, a tab.
TEXTS = ["a dog .", "개 한 마리가 달린다.", 'a sign that says "$5, or $10"', "two \u2028 lines", "one\ttab"]


def write(path: Path, content: object) -> Path:
    """Writes text, or anything else as JSON; gzipped if the name ends in .gz."""
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    raw = text.encode("utf-8") if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def skipped(source: CaptionSource, root: Path) -> tuple[list[CaptionRecord], list[str]]:
    problems: list[str] = []
    return source.read(root, problems.append), problems


def contents(records: list[CaptionRecord]) -> list[tuple[str, str, str | None]]:
    return [(record.image, record.caption, record.split) for record in records]


def as_csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def as_jsonl(rows: list[list[str]]) -> str:
    return "".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])


class TestCaptionTable:
    @pytest.mark.parametrize("packed", ["", ".gz"])
    @pytest.mark.parametrize(("suffix", "form"), [("csv", as_csv), ("jsonl", as_jsonl)])
    def test_captions_pass_unchanged(
        self, tmp_path: Path, suffix: str, form: Callable[[list[list[str]]], str], packed: str
    ) -> None:
        rows = [["caption", "image"]] + [[text, f"{number}.jpg"] for number, text in enumerate(TEXTS)]
        write(tmp_path / f"c.{suffix}{packed}", form(rows))
        read = CaptionTable(f"c.{suffix}{packed}").read(tmp_path)
        assert contents(read) == [(f"{number}.jpg", text, None) for number, text in enumerate(TEXTS)]
        assert read[1].where == f"{tmp_path / f'c.{suffix}{packed}'}, line {3 if suffix == 'csv' else 2}"

    def test_tabs_separate(self, tmp_path: Path) -> None:
        write(tmp_path / "c.tsv", 'image\tcaption\n1.jpg\ta "big" dog\n')
        assert contents(CaptionTable("c.tsv").read(tmp_path)) == [("1.jpg", 'a "big" dog', None)]
        write(tmp_path / "c.tsv", "image\tcaption\n1.jpg\ta big\tdog\n")
        with pytest.raises(ValueError, match="line 2 has 3 values for 2 columns"):
            CaptionTable("c.tsv").read(tmp_path)

    def test_other_columns(self, tmp_path: Path) -> None:
        write(tmp_path / "c.csv", "file,text,part,split\n1.jpg,a dog,Validation,x\n2.jpg,a cat,TRAIN,y\n")
        table = CaptionTable("c.csv", "file", "text", "part")
        assert contents(table.read(tmp_path)) == [("1.jpg", "a dog", "val"), ("2.jpg", "a cat", "train")]

    def test_columns_by_position(self, tmp_path: Path) -> None:
        write(tmp_path / "c.csv", "a dog,1.jpg,test\na cat,2.jpg,val\n")
        assert contents(CaptionTable("c.csv", 1, 0).read(tmp_path)) == [
            ("1.jpg", "a dog", None),
            ("2.jpg", "a cat", None),
        ]
        assert [record.split for record in CaptionTable("c.csv", 1, 0, 2).read(tmp_path)] == ["test", "val"]

    def test_a_column_called_split_is_one(self, tmp_path: Path) -> None:
        write(tmp_path / "c.csv", "image,caption,split\n1.jpg,a dog,train\n2.jpg,a cat,test\n")
        assert [record.split for record in CaptionTable("c.csv").read(tmp_path)] == ["train", "test"]

    @given(
        values=st.lists(
            st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\0")).filter(str.strip)] * 2)
        )
    )
    def test_any_text_survives(self, tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str]]) -> None:
        folder = tmp_path_factory.mktemp("csv")
        write(folder / "c.csv", as_csv([["image", "caption"], *map(list, values), ["x", "y"]]))
        expected = [(image.strip(), caption.strip(), None) for image, caption in values]
        assert contents(CaptionTable("c.csv").read(folder)) == [*expected, ("x", "y", None)]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("1.jpg,a dog,train\n2.jpg,,train\n", "line 3, column 'caption' is empty"),
            ("1.jpg,a dog,train\n2.jpg, \t ,train\n", "line 3, column 'caption' is empty"),
            ("1.jpg,a dog,train\n,a cat,train\n", "line 3, column 'image' is empty"),
            ("1.jpg,a dog,train\n2.jpg\n", "line 3, column 'caption' is missing"),
            ("1.jpg,a dog,train\n2.jpg,a cat\n", "line 3, column 'split' is missing"),
            ("1.jpg,a dog,train\n2.jpg,a cat,\n", "line 3, column 'split' is empty"),
            ("1.jpg,a dog,train\n2.jpg,a cat,rest\n", "line 3: 'rest' is not a split; use train, val or test"),
            ("1.jpg,a dog,train\n2.jpg,a cat, a dog,train\n", "line 3 has 4 values for 3 columns"),
            ('1.jpg,a dog,train\n2.jpg,"a" cat,train\n', "line 3 is not a row"),
            (b"1.jpg,a dog,train\n2.jpg,\xe4,train\n", "line 3, column 'caption' is not UTF-8"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, content: str | bytes, problem: str) -> None:
        raw = content.encode() if isinstance(content, str) else content
        write(tmp_path / "c.csv", b"image,caption,split\n" + raw)
        with pytest.raises(ValueError, match=rf"c\.csv, {problem}.*correct it, or skip it with bad_input='skip'"):
            CaptionTable("c.csv").read(tmp_path)
        read, problems = skipped(CaptionTable("c.csv"), tmp_path)
        assert contents(read) == [("1.jpg", "a dog", "train")]
        assert len(problems) == 1

    def test_commas_in_a_file_of_tabs_are_reported(self, tmp_path: Path) -> None:
        write(tmp_path / "captions.txt", "image,caption\n1.jpg,a dog\n")
        with pytest.raises(ValueError, match=r"no column 'image', only \['image,caption'\].* commas must end in \.csv"):
            CaptionTable("captions.txt").read(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("c.csv", "image", 1), "image_column='image' and caption_column=1 must all be names"),
            (("c.csv", 0, 1, "split"), "must all be names"),
            (("c.xlsx",), r"path='c\.xlsx': a table must end in one of \.csv"),
            (("c.jsonl", 0, 1), "image_column=0: columns of JSON lines have names"),
        ],
    )
    def test_arguments_are_checked(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CaptionTable(*arguments)

    def test_missing_files_and_columns(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"path='.*c\.csv': there is no such file; check the path and root"):
            CaptionTable("c.csv").read(tmp_path)
        write(tmp_path / "c.csv", "image,caption\n1.jpg,a dog\n")
        with pytest.raises(ValueError, match=r"there is no column 'part', only \['image', 'caption'\]"):
            skipped(CaptionTable("c.csv", split_column="part"), tmp_path)


class TestFlickrTokens:
    LINES = tuple(f"{number // 2}.jpg#{number % 2}\t{text}\n" for number, text in enumerate([*TEXTS, "the last"]))

    @pytest.mark.parametrize("name", ["t.token", "t.txt.gz"])
    def test_captions_pass_unchanged(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / name, "".join(self.LINES))
        read = FlickrTokens(name).read(tmp_path)
        assert contents(read) == [(f"{n // 2}.jpg", text, None) for n, text in enumerate([*TEXTS, "the last"])]
        assert read[3].where.endswith("line 4")

    def test_lists_define_the_splits(self, tmp_path: Path) -> None:
        write(tmp_path / "t", "".join(self.LINES))
        write(tmp_path / "train", "0.jpg\n\n")
        write(tmp_path / "test", "2.jpg\r\n")
        listed = FlickrTokens("t", train="train", test="test").read(tmp_path)
        assert [(record.image, record.split) for record in listed] == [("0.jpg", "train")] * 2 + [("2.jpg", "test")] * 2
        rest = FlickrTokens("t", test="test").read(tmp_path)
        assert [record.split for record in rest] == [None] * 4 + ["test"] * 2

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("1.jpg a dog", "line 2 is not an image's name, '#', a number, a tab and a caption"),
            ("1.jpg#\ta dog", "line 2 is not an image's name"),
            ("#1\ta dog", "line 2 is not an image's name"),
            ("", "line 2 is not an image's name"),
            ("1.jpg#0\t ", "line 2, the caption is empty"),
            ("0.jpg#0\ta dog", r"line 2 repeats '0\.jpg#0' of .*line 1"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: str, problem: str) -> None:
        write(tmp_path / "t", f"0.jpg#0\tfirst\n{line}\n2.jpg#0\tlast\n")
        with pytest.raises(ValueError, match=f"t, {problem}.*bad_input='skip'"):
            FlickrTokens("t").read(tmp_path)
        read, problems = skipped(FlickrTokens("t"), tmp_path)
        assert [record.caption for record in read] == ["first", "last"]
        assert len(problems) == 1

    def test_bad_lists(self, tmp_path: Path) -> None:
        write(tmp_path / "t", "".join(self.LINES))
        write(tmp_path / "train", "0.jpg\n7.jpg\n")
        write(tmp_path / "val", "1.jpg\n0.jpg\n1.jpg\n")
        read, problems = skipped(FlickrTokens("t", "train", "val"), tmp_path)
        assert [problem.rpartition("/")[2] for problem in problems] == [
            "train, line 2: '7.jpg' has no caption in t",
            "val, line 2: '0.jpg' is in 'train' already",
            "val, line 3: '1.jpg' is in 'val' already",
        ]
        assert {(record.image, record.split) for record in read} == {("0.jpg", "train"), ("1.jpg", "val")}

    def test_missing_files_are_named_by_their_argument(self, tmp_path: Path) -> None:
        write(tmp_path / "t", "".join(self.LINES))
        with pytest.raises(FileNotFoundError, match=r"val='.*gone': there is no such file"):
            FlickrTokens("t", val="gone").read(tmp_path)


def coco(images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    return {"info": {}, "images": images, "annotations": annotations}


COCO_IMAGES = [{"id": number + 10, "file_name": f"{number}.jpg", "width": 3} for number in range(3)]
COCO_CAPTIONS = [
    {"id": number, "image_id": 10 + number % 3, "caption": f" {text}\n"} for number, text in enumerate(TEXTS)
]


class TestCocoCaptions:
    @pytest.mark.parametrize("packed", ["", ".gz"])
    def test_one_file_per_split(self, tmp_path: Path, packed: str) -> None:
        write(tmp_path / f"train.json{packed}", coco(COCO_IMAGES, COCO_CAPTIONS))
        write(
            tmp_path / f"val.json{packed}",
            coco([{"id": "a", "file_name": "v.jpg"}], [{"image_id": "a", "caption": "b"}]),
        )
        read = CocoCaptions(f"train.json{packed}", f"val.json{packed}").read(tmp_path)
        expected: list[tuple[str, str, str | None]] = [(f"{n % 3}.jpg", text, "train") for n, text in enumerate(TEXTS)]
        assert contents(read) == [*expected, ("v.jpg", "b", "val")]
        assert read[2].where.endswith(f"train.json{packed}, annotations[2]")

    @pytest.mark.parametrize(
        ("image", "problem"),
        [
            ({"id": 10, "file_name": "x.jpg"}, r"images\[3\] repeats the id 10 of '0\.jpg'"),
            ({"id": 13, "file_name": "1.jpg"}, r"images\[3\] repeats the file '1\.jpg' of .*images\[1\]"),
            ({"file_name": "x.jpg"}, r"images\[3\], 'id' is missing"),
            ({"id": 13}, r"images\[3\], 'file_name' is missing"),
            ({"id": [13], "file_name": "x.jpg"}, r"images\[3\], 'id' cannot be \[13\]"),
            ({"id": 13, "file_name": None}, r"images\[3\], 'file_name' cannot be None"),
            ("x.jpg", r"images\[3\] must be an object, got str"),
        ],
    )
    def test_bad_images(self, tmp_path: Path, image: object, problem: str) -> None:
        write(tmp_path / "c.json", coco([*COCO_IMAGES, image], COCO_CAPTIONS))
        with pytest.raises(ValueError, match=rf"c\.json, {problem}; correct it, or skip it with bad_input='skip'"):
            CocoCaptions("c.json").read(tmp_path)
        read, problems = skipped(CocoCaptions("c.json"), tmp_path)
        assert len(read) == len(TEXTS)
        assert len(problems) == 1

    @pytest.mark.parametrize(
        ("annotation", "problem"),
        [
            ({"image_id": 99, "caption": "a"}, r"annotations\[5\]: 'images' has no image 99"),
            ({"caption": "a"}, r"annotations\[5\], 'image_id' is missing"),
            ({"image_id": 10}, r"annotations\[5\], 'caption' is missing"),
            ({"image_id": 10, "caption": 3}, r"annotations\[5\], 'caption' cannot be 3"),
            ({"image_id": 10, "caption": " "}, r"annotations\[5\] is empty"),
            ({"image_id": 10, "caption": "\ud800"}, r"annotations\[5\] is not UTF-8"),
            ({"id": 2, "image_id": 10, "caption": "a"}, r"annotations\[5\] repeats the id 2 of .*annotations\[2\]"),
        ],
    )
    def test_bad_annotations(self, tmp_path: Path, annotation: dict[str, object], problem: str) -> None:
        write(tmp_path / "c.json", coco(COCO_IMAGES, [*COCO_CAPTIONS, annotation]))
        with pytest.raises(ValueError, match=rf"c\.json, {problem}.*bad_input='skip'"):
            CocoCaptions("c.json").read(tmp_path)
        read, problems = skipped(CocoCaptions("c.json"), tmp_path)
        assert len(read) == len(TEXTS)
        assert len(problems) == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"images": [', r"c\.json is not JSON \(.*line 1 column 13"),
            (b'{"images": "\xe4"}', r"c\.json is not JSON .*decode"),
            ("", r"c\.json is not JSON"),
            ([1], r"c\.json must hold a JSON object, got list"),
            ({"images": []}, r"c\.json has no list 'annotations', only \['images'\]; is it another file"),
            ({"images": {}, "annotations": []}, r"c\.json has no list 'images'"),
        ],
    )
    def test_another_file_is_never_skipped(self, tmp_path: Path, content: object, message: str) -> None:
        write(tmp_path / "c.json", content)
        with pytest.raises(ValueError, match=message):
            skipped(CocoCaptions("c.json"), tmp_path)

    def test_missing_files_are_named_by_their_argument(self, tmp_path: Path) -> None:
        write(tmp_path / "c.json", coco(COCO_IMAGES, COCO_CAPTIONS))
        with pytest.raises(FileNotFoundError, match=r"test='.*gone\.json': there is no such file"):
            CocoCaptions("c.json", test="gone.json").read(tmp_path)


def karpathy(**changes: object) -> dict[str, object]:
    image = {"filename": "9.jpg", "split": "train", "sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}], "imgid": 9}
    return {key: value for key, value in {**image, **changes}.items() if value is not None}


class TestKarpathySplit:
    def test_splits_and_folders(self, tmp_path: Path) -> None:
        images = [
            karpathy(filename="1.jpg", sentences=[{"raw": text} for text in TEXTS]),
            karpathy(filename="2.jpg", split="restval", filepath="val2014", imgid=2),
            karpathy(filename="3.jpg", split="val", imgid=3),
            karpathy(filename="4.jpg", split="test", imgid=None),
        ]
        write(tmp_path / "d.json", {"images": images, "dataset": "coco"})
        read = KarpathySplit("d.json").read(tmp_path)
        assert contents(read[:5]) == [("1.jpg", text, "train") for text in TEXTS]
        rest = [("val2014/2.jpg", "train"), ("3.jpg", "val"), ("4.jpg", "test")]
        assert [(record.image, record.split) for record in read[5:]] == rest
        assert read[4].where.endswith("d.json, images[0], sentences[4]")

    @pytest.mark.parametrize(
        ("image", "problem"),
        [
            (karpathy(filename="1.jpg"), r"images\[1\] repeats '1\.jpg' of .*images\[0\]"),
            (karpathy(imgid=1), r"images\[1\] repeats 'imgid 1' of .*images\[0\]"),
            (karpathy(filename=None), r"images\[1\], 'filename' is missing"),
            (karpathy(split=None), r"images\[1\], 'split' is missing"),
            (karpathy(split="extra"), r"images\[1\]: 'extra' is not a split; use train, val or test"),
            (karpathy(sentences=None), r"images\[1\], 'sentences' is missing"),
            (karpathy(sentences="a dog"), r"images\[1\], 'sentences' cannot be 'a dog'"),
            (karpathy(sentences=[{"tokens": []}]), r"images\[1\], sentences\[0\], 'raw' is missing"),
            (karpathy(sentences=[{"raw": ""}]), r"images\[1\], sentences\[0\] is empty"),
            (karpathy(sentences=["a dog"]), r"images\[1\], sentences\[0\] must be an object, got str"),
        ],
    )
    def test_bad_entries(self, tmp_path: Path, image: dict[str, object], problem: str) -> None:
        write(tmp_path / "d.json", {"images": [karpathy(filename="1.jpg", imgid=1), image]})
        with pytest.raises(ValueError, match=rf"d\.json, {problem}.*bad_input='skip'"):
            KarpathySplit("d.json").read(tmp_path)
        read, problems = skipped(KarpathySplit("d.json"), tmp_path)
        assert contents(read) == [("1.jpg", "a dog", "train")]
        assert len(problems) == 1

    def test_another_file_is_never_skipped(self, tmp_path: Path) -> None:
        write(tmp_path / "d.json", {"annotations": []})
        with pytest.raises(ValueError, match=r"d\.json has no list 'images', only \['annotations'\]"):
            skipped(KarpathySplit("d.json"), tmp_path)


@pytest.mark.parametrize("words", [1, 1000])
def test_a_caption_may_be_long(tmp_path: Path, words: int) -> None:
    caption = " ".join(["word"] * words)
    write(tmp_path / "c.csv", f"image,caption\n1.jpg,{caption}\n")
    write(tmp_path / "t", f"1.jpg#0\t{caption}\n")
    write(tmp_path / "c.json", coco(COCO_IMAGES[:1], [{"image_id": 10, "caption": caption}]))
    write(tmp_path / "d.json", {"images": [karpathy(sentences=[{"raw": caption}])]})
    for source in (CaptionTable("c.csv"), FlickrTokens("t"), CocoCaptions("c.json"), KarpathySplit("d.json")):
        assert [record.caption for record in source.read(tmp_path)] == [caption]
