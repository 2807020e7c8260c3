"""Where captions come from: a table, or the files that Flickr8k, Flickr30k and COCO come with."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.files.text_files import (
    Column,
    check_table,
    column_text,
    file_content,
    file_lines,
    find_file,
    table_rows,
    text_problem,
)
from datamodules.splits import SPLIT_NAMES, SPLITS, Split


class CaptionRecord(NamedTuple):
    """One caption of one image.

    Attributes:
        image: the file's name, or the end of its path, with forward slashes.
        caption: as it was read, but for white space around it.
        split: that the image belongs to; ``None`` where nothing says which.
        place: file and line, or file and entry, where it stood.
    """

    image: str
    caption: str
    split: Split | None
    place: str


def refuse(problem: str) -> None:
    """Takes nothing bad.

    Raises:
        ValueError: always, with the problem.
    """
    raise ValueError(f"{problem}; correct it, or give bad_files='skip'")


class CaptionSource(ABC):
    """Base of every source of captions; subclass it to bring your own to :class:`CaptionDataModule`.

    Example:
        >>> class Numbered(CaptionSource):
        ...     def read(self, root=".", bad=refuse):
        ...         return [CaptionRecord(f"{n}.jpg", f"photo {n}", None, f"number {n}") for n in range(3)]
        >>> Numbered().read()[2].caption
        'photo 2'
    """

    @abstractmethod
    def read(self, root: str | Path = ".", bad: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """All captions, in order, each with its image.

        Args:
            root: the folder that relative paths start from.
            bad: called with the problem, file and line of each caption that is unusable; if it returns, the caption
                is left out.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read at all, or, from ``bad``, a caption is unusable.
        """


@dataclass(frozen=True)
class CaptionTable(CaptionSource):
    r"""One file with a row for each caption: ``.csv``, ``.tsv`` or ``.jsonl``, plain or ``.gz``.

    See :class:`TableFile` for what each may hold.

    Args:
        path: the file, UTF-8.
        image_column: name of the column of file names, as the first line gives it; or its place, from 0, in a CSV or
            TSV whose first line is a caption already.
        caption_column: likewise of the captions.
        split_column: likewise of the words ``train``, ``val`` (or ``valid``, ``validation``) and ``test``; when left
            out, the column ``split`` if there is one.

    Raises:
        ValueError: one column is a name and another a place, or the file has another ending.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "c.csv").write_text("image,caption,split\n1.jpg,a dog,test\n", encoding="utf-8")
        ...     [record] = CaptionTable("c.csv").read(folder)
        >>> record.image, record.caption, record.split
        ('1.jpg', 'a dog', 'test')
    """

    path: str | Path
    image_column: Column = "image"
    caption_column: Column = "caption"
    split_column: Column | None = None

    def __post_init__(self) -> None:
        columns = self._columns
        if len({isinstance(column, int) for column in columns.values()}) > 1:
            named = " and ".join(f"{argument}={column!r}" for argument, column in columns.items())
            raise ValueError(f"{named} must all be names, or all places in a file without names")
        check_table(self.path, columns)

    @property
    def _columns(self) -> dict[str, Column]:
        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        return columns if self.split_column is None else {**columns, "split_column": self.split_column}

    def read(self, root: str | Path = ".", bad: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """The file, row by row.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it is empty, cannot be read or has not these columns; or, from ``bad``, a row lacks a value, is
                no UTF-8, or has a split that is none.
        """
        path = find_file(Path(root, self.path), "path")
        rows = list(table_rows(path, list(self._columns.values())))
        columns = [self.image_column, self.caption_column]
        if self.split_column is not None:
            columns.append(self.split_column)
        elif any("split" in row for _, row in rows if not isinstance(row, str)):
            columns.append("split")
        records = []
        for number, row in rows:
            where = f"{path}, line {number}"
            if isinstance(row, str):
                bad(f"{where} {row}")
                continue
            values = [column_text(row, column, where) for column in columns]
            problem = next((problem for _, problem in values if problem is not None), None)
            split = None
            if problem is None and len(values) > 2:
                split, problem = _split(values[2][0], where)
            if problem is None:
                records.append(CaptionRecord(values[0][0], values[1][0], split, where))
            else:
                bad(problem)
        return records


@dataclass(frozen=True)
class FlickrTokens(CaptionSource):
    r"""The token file of Flickr8k or Flickr30k, with the lists of names that its splits come as.

    A line of it is ``1000268201_693b08cb0e.jpg#0``, a tab, and a caption; a line of a list is the name of an image.

    Args:
        path: of the token file, plain or ``.gz``: Flickr8k.token.txt, or results_20130124.token.
        train: of the list of training images, Flickr_8k.trainImages.txt; when left out, these are all images that are
            on no other list. Where it is given, images that are on no list are left out.
        val: of the list of validation images, Flickr_8k.devImages.txt.
        test: of the list of test images, Flickr_8k.testImages.txt.

    References:
        Hodosh et al. 2013, "Framing Image Description as a Ranking Task"; Young et al. 2014, "From Image Descriptions
        to Visual Denotations".

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "t.txt").write_text("1.jpg#0\ta dog .\n1.jpg#1\ta puppy .\n", encoding="utf-8")
        ...     [(record.image, record.caption) for record in FlickrTokens("t.txt").read(folder)]
        [('1.jpg', 'a dog .'), ('1.jpg', 'a puppy .')]
    """

    path: str | Path
    train: str | Path | None = None
    val: str | Path | None = None
    test: str | Path | None = None

    def read(self, root: str | Path = ".", bad: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """The token file, line by line.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is empty or cannot be read; or, from ``bad``, a line is none of a token file, is no
                UTF-8, or repeats another, or a list names an image twice, or one without a caption.
        """
        path = find_file(Path(root, self.path), "path")
        records: dict[str, CaptionRecord] = {}
        for line, text in enumerate(file_lines(path), start=1):
            where = f"{path}, line {line}"
            key, _, caption = text.partition("\t")
            image, _, number = key.rpartition("#")
            problem = text_problem(caption.strip(), f"{where}, the caption")
            if not image or not number.isdecimal():
                problem = f"{where} is not an image's name, '#', a number, a tab and a caption"
            if problem is None and key in records:
                problem = f"{where} repeats {key!r} of {records[key].place}"
            if problem is None:
                records[key] = CaptionRecord(image, caption.strip(), None, where)
            else:
                bad(problem)
        listed = self._listed(root, bad, {record.image for record in records.values()})
        return [
            record._replace(split=listed.get(record.image))
            for record in records.values()
            if self.train is None or record.image in listed
        ]

    def _listed(self, root: str | Path, bad: Callable[[str], None], captioned: set[str]) -> dict[str, Split]:
        """The split of each image that is on a list."""
        listed: dict[str, Split] = {}
        for split in SPLITS:
            given: str | Path | None = getattr(self, split)
            if given is None:
                continue
            path = find_file(Path(root, given), split)
            for line, name in enumerate(map(str.strip, file_lines(path)), start=1):
                if name in listed:
                    bad(f"{path}, line {line}: {name!r} is in {listed[name]!r} already")
                elif name and name not in captioned:
                    bad(f"{path}, line {line}: {name!r} has no caption in {self.path}")
                elif name:
                    listed[name] = split
        return listed


@dataclass(frozen=True)
class CocoCaptions(CaptionSource):
    """The captions of COCO, one JSON file a split.

    A file has a list ``images`` of objects with an ``id`` and a ``file_name``, and a list ``annotations`` of objects
    with an ``image_id`` and a ``caption``.

    Args:
        train: path of the training captions, plain or ``.gz``: annotations/captions_train2017.json.
        val: of those for validation.
        test: of those for the test; COCO's own keeps its captions to itself.

    References:
        Chen et al. 2015, "Microsoft COCO Captions: Data Collection and Evaluation Server".

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> images, captions = [{"id": 7, "file_name": "7.jpg"}], [{"image_id": 7, "caption": "a dog"}]
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
        ...     [record] = CocoCaptions("c.json").read(folder)
        >>> record.image, record.caption, record.split
        ('7.jpg', 'a dog', 'train')
    """

    train: str | Path
    val: str | Path | None = None
    test: str | Path | None = None

    def read(self, root: str | Path = ".", bad: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """The files, annotation by annotation.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read or lacks a list; or, from ``bad``, an entry lacks a value, repeats an id,
                or is of an image that is not listed.
        """
        records = []
        for split in SPLITS:
            given: str | Path | None = getattr(self, split)
            if given is not None:
                records += _coco_records(find_file(Path(root, given), split), split, bad)
        return records


@dataclass(frozen=True)
class KarpathySplit(CaptionSource):
    """The JSON file in which Karpathy published his splits of Flickr8k, Flickr30k and COCO.

    It has a list ``images`` of objects with a ``filename``, for COCO with its folder as ``filepath``, a ``split``, and
    a list ``sentences`` of objects with the caption as ``raw``. The images of ``restval`` are training images.

    Args:
        path: of dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json, plain or ``.gz``.

    References:
        Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions".

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> image = {"filename": "1.jpg", "split": "restval", "sentences": [{"raw": "A dog."}]}
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "dataset.json").write_text(json.dumps({"images": [image]}))
        ...     [record] = KarpathySplit("dataset.json").read(folder)
        >>> record.image, record.caption, record.split
        ('1.jpg', 'A dog.', 'train')
    """

    path: str | Path

    def read(self, root: str | Path = ".", bad: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """The file, sentence by sentence.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it cannot be read or lacks the list; or, from ``bad``, an entry lacks a value, repeats an image
                or has a split that is none.
        """
        path = find_file(Path(root, self.path), "path")
        content = _json_object(path)
        seen: dict[str, str] = {}
        records = []
        for where, entry in _entries(content, "images", {"filename": str, "split": str, "sentences": list}, path, bad):
            folder = entry.get("filepath")
            image = f"{folder}/{entry['filename']}" if folder else entry["filename"]
            split, problem = _split("train" if entry["split"] == "restval" else entry["split"], where)
            # Sentences refer to an image by its number, where it has one.
            known = {image, f"imgid {entry['imgid']}"} if "imgid" in entry else {image}
            for repeated in sorted(known & seen.keys()):
                problem = f"{where} repeats {repeated!r} of {seen[repeated]}"
            if problem is not None:
                bad(problem)
                continue
            seen.update(dict.fromkeys(known, where))
            for place, sentence in _entries(entry, "sentences", {"raw": str}, where, bad):
                caption = sentence["raw"].strip()
                problem = text_problem(caption, place)
                if problem is None:
                    records.append(CaptionRecord(image, caption, split, place))
                else:
                    bad(problem)
        return records


def _coco_records(path: Path, split: Split, bad: Callable[[str], None]) -> list[CaptionRecord]:
    content = _json_object(path)
    names: dict[int | str, str] = {}
    files: dict[str, str] = {}
    for where, image in _entries(content, "images", {"id": (int, str), "file_name": str}, path, bad):
        if image["id"] in names:
            bad(f"{where} repeats the id {image['id']!r} of {names[image['id']]!r}")
        elif image["file_name"] in files:
            bad(f"{where} repeats the file {image['file_name']!r} of {files[image['file_name']]}")
        else:
            names[image["id"]] = image["file_name"]
            files[image["file_name"]] = where
    seen: dict[object, str] = {}
    records = []
    for where, entry in _entries(content, "annotations", {"image_id": (int, str), "caption": str}, path, bad):
        caption, number = entry["caption"].strip(), str(entry.get("id", where))
        problem = text_problem(caption, where)
        if entry["image_id"] not in names:
            problem = f"{where} is of an image {entry['image_id']!r} that is not in 'images'"
        elif number in seen:
            problem = f"{where} repeats the id {number} of {seen[number]}"
        if problem is None:
            seen[number] = where
            records.append(CaptionRecord(names[entry["image_id"]], caption, split, where))
        else:
            bad(problem)
    return records


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(file_content(path))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); it is damaged or cut short: fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}; is it another file?")
    return content


def _entries(
    content: Mapping[str, Any],
    key: str,
    wanted: Mapping[str, type | tuple[type, ...]],
    name: Path | str,
    bad: Callable[[str], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list that have what is wanted, each with the place where it stands."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"{name} has no list {key!r}, only {list(content)[:10]}; is it another file?")
    for number, entry in enumerate(entries):
        where = f"{name}, {key}[{number}]"
        if not isinstance(entry, dict):
            bad(f"{where} is no object but {type(entry).__name__}")
            continue
        missing = [field for field, kind in wanted.items() if not isinstance(entry.get(field), kind)]
        if missing:
            found = "is missing" if missing[0] not in entry else f"cannot be {entry[missing[0]]!r}"
            bad(f"{where}, {missing[0]!r} {found}")
        else:
            yield where, entry


def _split(word: str, where: str) -> tuple[Split | None, str | None]:
    """The split that a word means, or what is wrong with it."""
    split = SPLIT_NAMES.get(word.casefold())
    return split, None if split else f"{where}: {word!r} is no split; write train, val or test"
