"""Sources of captions: a table, or the original files of Flickr8k, Flickr30k and COCO."""

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
    file_content,
    file_lines,
    find_file,
    refuse,
    split_called,
    table_texts,
    text_problem,
)
from datamodules.splits import SPLITS, Split


class CaptionRecord(NamedTuple):
    """One caption of one image.

    Attributes:
        image: name of the image file, or the end of its path, with forward slashes.
        caption: caption without surrounding white space.
        split: split that the image belongs to; ``None`` if the source of captions does not say.
        where: position of the caption, for errors: file and line, or file and entry.
    """

    image: str
    caption: str
    split: Split | None
    where: str


class CaptionSource(ABC):
    """Base of all sources of captions; subclass it to bring your own to :class:`CaptionFolderDataModule`.

    Example:
        >>> class Numbered(CaptionSource):
        ...     def read(self, root=".", on_bad_input=refuse):
        ...         return [CaptionRecord(f"{n}.jpg", f"photo {n}", None, f"number {n}") for n in range(3)]
        >>> Numbered().read()[2].caption
        'photo 2'
    """

    @abstractmethod
    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """Reads all captions, in order.

        Args:
            root: folder that relative paths start from.
            on_bad_input: called with a description of each unusable caption, its file and line included; if it
                returns, the caption is skipped.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read; or raised by ``on_bad_input``.
        """


@dataclass(frozen=True)
class CaptionTable(CaptionSource):
    r"""One file with a row for each caption: ``.csv``, ``.tsv`` or ``.jsonl``, plain or ``.gz``.

    See :class:`TableFile` for these formats.

    Args:
        path: path of the file, UTF-8.
        image_column: name of the column of image files, as in the first line; or its position, from 0, in a CSV or TSV
            without a header.
        caption_column: likewise of the captions.
        split_column: likewise of the words ``train``, ``val`` (or ``valid``, ``validation``) and ``test``; if omitted,
            the column ``split`` if there is one.

    Raises:
        ValueError: some columns are names and others positions, or the file has an unknown extension.

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
        columns = ("image_column", "caption_column", "split_column")
        check_table(self.path, {column: getattr(self, column) for column in columns})

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """See :meth:`CaptionSource.read`; a row is unusable if it lacks a value, is not UTF-8 or has an unknown split.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file is empty, cannot be read or lacks a column; or raised by ``on_bad_input``.
        """
        path = find_file(Path(root, self.path), "path")
        rows = table_texts(path, (self.image_column, self.caption_column), self.split_column, on_bad_input)
        return [CaptionRecord(image, caption, split, f"{path}, line {line}") for line, (image, caption), split in rows]


@dataclass(frozen=True)
class FlickrTokens(CaptionSource):
    r"""Token file of Flickr8k or Flickr30k, with the lists of images of its splits.

    A line of the token file is ``1000268201_693b08cb0e.jpg#0``, a tab, and a caption; a line of a list is the name of
    an image.

    Args:
        path: path of the token file, plain or ``.gz``: Flickr8k.token.txt, or results_20130124.token.
        train: path of the list of training images, Flickr_8k.trainImages.txt; images on no list are skipped. If
            omitted, all images on no other list are training images.
        val: path of the list of validation images, Flickr_8k.devImages.txt.
        test: path of the list of test images, Flickr_8k.testImages.txt.

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

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """See :meth:`CaptionSource.read`.

        A line is unusable if it has another format, is not UTF-8 or repeats another; a line of a list, if it repeats
        another or names an image without a caption.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is empty or cannot be read; or raised by ``on_bad_input``.
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
                problem = f"{where} repeats {key!r} of {records[key].where}"
            if problem is None:
                records[key] = CaptionRecord(image, caption.strip(), None, where)
            else:
                on_bad_input(problem)
        listed = self._listed(root, on_bad_input, {record.image for record in records.values()})
        return [
            record._replace(split=listed.get(record.image))
            for record in records.values()
            if self.train is None or record.image in listed
        ]

    def _listed(self, root: str | Path, on_bad_input: Callable[[str], None], captioned: set[str]) -> dict[str, Split]:
        """Split of each image that is on a list."""
        listed: dict[str, Split] = {}
        for split in SPLITS:
            given: str | Path | None = getattr(self, split)
            if given is None:
                continue
            path = find_file(Path(root, given), split)
            for line, name in enumerate(map(str.strip, file_lines(path)), start=1):
                if name in listed:
                    on_bad_input(f"{path}, line {line}: {name!r} is in {listed[name]!r} already")
                elif name and name not in captioned:
                    on_bad_input(f"{path}, line {line}: {name!r} has no caption in {self.path}")
                elif name:
                    listed[name] = split
        return listed


@dataclass(frozen=True)
class CocoCaptions(CaptionSource):
    """Captions of COCO, one JSON file per split.

    A file has a list ``images`` of objects with an ``id`` and a ``file_name``, and a list ``annotations`` of objects
    with an ``image_id`` and a ``caption``.

    Args:
        train: path of the training captions, plain or ``.gz``: annotations/captions_train2017.json.
        val: path of the validation captions.
        test: path of the test captions; COCO does not publish its own.

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

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """See :meth:`CaptionSource.read`; an entry is unusable if it lacks a value or repeats an id.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read or lacks a list; or raised by ``on_bad_input``.
        """
        records = []
        for split in SPLITS:
            given: str | Path | None = getattr(self, split)
            if given is not None:
                records += _coco_records(find_file(Path(root, given), split), split, on_bad_input)
        return records


@dataclass(frozen=True)
class KarpathySplit(CaptionSource):
    """JSON file of Karpathy's splits of Flickr8k, Flickr30k or COCO.

    The file has a list ``images`` of objects with a ``filename``, for COCO with its folder as ``filepath``, a
    ``split``, and a list ``sentences`` of objects with the caption as ``raw``. The images of ``restval`` are training
    images.

    Args:
        path: path of dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json, plain or ``.gz``.

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

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[CaptionRecord]:
        """See :meth:`CaptionSource.read`; an entry is unusable if it lacks a value, repeats an image or has no split.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file cannot be read or lacks the list; or raised by ``on_bad_input``.
        """
        path = find_file(Path(root, self.path), "path")
        content = _json_object(path)
        seen: dict[str, str] = {}
        records = []
        for where, entry in _entries(
            content, "images", {"filename": str, "split": str, "sentences": list}, path, on_bad_input
        ):
            folder = entry.get("filepath")
            image = f"{folder}/{entry['filename']}" if folder else entry["filename"]
            split, problem = split_called("train" if entry["split"] == "restval" else entry["split"], where)
            # Sentences refer to an image by its imgid if it has one.
            known = {image, f"imgid {entry['imgid']}"} if "imgid" in entry else {image}
            for repeated in sorted(known & seen.keys()):
                problem = f"{where} repeats {repeated!r} of {seen[repeated]}"
            if problem is not None:
                on_bad_input(problem)
                continue
            seen.update(dict.fromkeys(known, where))
            for position, sentence in _entries(entry, "sentences", {"raw": str}, where, on_bad_input):
                caption = sentence["raw"].strip()
                problem = text_problem(caption, position)
                if problem is None:
                    records.append(CaptionRecord(image, caption, split, position))
                else:
                    on_bad_input(problem)
        return records


def _coco_records(path: Path, split: Split, on_bad_input: Callable[[str], None]) -> list[CaptionRecord]:
    content = _json_object(path)
    names: dict[int | str, str] = {}
    files: dict[str, str] = {}
    for where, image in _entries(content, "images", {"id": (int, str), "file_name": str}, path, on_bad_input):
        if image["id"] in names:
            on_bad_input(f"{where} repeats the id {image['id']!r} of {names[image['id']]!r}")
        elif image["file_name"] in files:
            on_bad_input(f"{where} repeats the file {image['file_name']!r} of {files[image['file_name']]}")
        else:
            names[image["id"]] = image["file_name"]
            files[image["file_name"]] = where
    seen: dict[object, str] = {}
    records = []
    for where, entry in _entries(content, "annotations", {"image_id": (int, str), "caption": str}, path, on_bad_input):
        caption, number = entry["caption"].strip(), str(entry.get("id", where))
        problem = text_problem(caption, where)
        if entry["image_id"] not in names:
            problem = f"{where}: 'images' has no image {entry['image_id']!r}"
        elif number in seen:
            problem = f"{where} repeats the id {number} of {seen[number]}"
        if problem is None:
            seen[number] = where
            records.append(CaptionRecord(names[entry["image_id"]], caption, split, where))
        else:
            on_bad_input(problem)
    return records


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(file_content(path))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); it is damaged or incomplete: download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}; is it another file?")
    return content


def _entries(
    content: Mapping[str, Any],
    key: str,
    wanted: Mapping[str, type | tuple[type, ...]],
    name: Path | str,
    on_bad_input: Callable[[str], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a list that have the wanted fields, each with its position."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"{name} has no list {key!r}, only {list(content)[:10]}; is it another file?")
    for number, entry in enumerate(entries):
        where = f"{name}, {key}[{number}]"
        if not isinstance(entry, dict):
            on_bad_input(f"{where} must be an object, got {type(entry).__name__}")
            continue
        missing = [field for field, kind in wanted.items() if not isinstance(entry.get(field), kind)]
        if missing:
            found = "is missing" if missing[0] not in entry else f"cannot be {entry[missing[0]]!r}"
            on_bad_input(f"{where}, {missing[0]!r} {found}")
        else:
            yield where, entry
