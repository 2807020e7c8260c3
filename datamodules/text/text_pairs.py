"""Sources of sentence pairs: aligned files, a table, rows in memory, or one source per split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.files.text_files import (
    Column,
    check_table,
    file_lines,
    find_file,
    refuse,
    row_texts,
    table_texts,
    text_problem,
)
from datamodules.splits import SPLITS, Split


class TextPair(NamedTuple):
    """Sentence and its translation.

    Attributes:
        source: source text.
        target: target text.
        line: line of the file, or row of the data set, from 1.
        split: split that the pair belongs to; ``None`` if the source of pairs does not say.
    """

    source: str
    target: str
    line: int
    split: Split | None = None


class TextPairs(ABC):
    """Base of all sources of sentence pairs; subclass it to bring your own to :class:`ParallelTextDataModule`.

    Example:
        >>> class Doubled(TextPairs):
        ...     def read(self, root=".", on_bad_input=refuse):
        ...         return [TextPair(word, f"{word} {word}", line) for line, word in enumerate(["so", "la"], 1)]
        >>> Doubled().read()[1].target
        'la la'
    """

    @abstractmethod
    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[TextPair]:
        """Reads all pairs, in order.

        Args:
            root: folder that relative paths start from.
            on_bad_input: called with a description of each unusable pair, its file and line included; if it returns,
                the pair is skipped.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: there is no usable pair, or a file cannot be read; or raised by ``on_bad_input``.
        """


@dataclass(frozen=True)
class AlignedFiles(TextPairs):
    r"""Two text files, plain or ``.gz``, with one sentence per line: line 7 of one translates line 7 of the other.

    Args:
        source: path of the source sentences, UTF-8.
        target: path of the target sentences, UTF-8.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "train.de").write_text("Hallo\nja\n", encoding="utf-8")
        ...     _ = Path(folder, "train.en").write_text("hello\nyes\n", encoding="utf-8")
        ...     pairs = AlignedFiles("train.de", "train.en").read(folder)
        >>> pairs[1]
        TextPair(source='ja', target='yes', line=2, split=None)
    """

    source: str | Path
    target: str | Path

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[TextPair]:
        """See :meth:`TextPairs.read`; a pair is unusable if a line is empty or not UTF-8.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is empty or cannot be read, the files differ in their number of lines, or there is no
                usable pair; or raised by ``on_bad_input``.
        """
        paths = [find_file(Path(root, path), name) for name, path in (("source", self.source), ("target", self.target))]
        sources, targets = ([line.strip() for line in file_lines(path)] for path in paths)
        if len(sources) != len(targets):
            raise ValueError(
                f"{paths[0]} has {len(sources):,} lines and {paths[1]} {len(targets):,}; aligned files must have "
                "the same number: find the missing line"
            )
        pairs = []
        for line, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
            where = [f"{path}, line {line}" for path in paths]
            problem = text_problem(source, where[0]) or text_problem(target, where[1])
            if problem is None:
                pairs.append(TextPair(source, target, line))
            else:
                on_bad_input(problem)
        return _some(pairs, f"{paths[0]} and {paths[1]}")


@dataclass(frozen=True)
class TableFile(TextPairs):
    r"""One file with a column for each side: ``.csv``, ``.tsv`` or ``.jsonl``, plain or ``.gz``.

    CSV may quote its values, as spreadsheets do. In TSV (``.tsv``, ``.tab``, ``.txt``) quotation marks have no meaning
    and each line is a row. In JSON lines (``.jsonl``, ``.json``) each line is an object.

    Args:
        path: path of the file, UTF-8.
        source_column: name of the column of sources, as in the first line; or its position, from 0, in a CSV or TSV
            without a header. ``translation.de`` is the ``de`` inside the ``translation`` of a JSON object.
        target_column: likewise of the targets.
        split_column: likewise of the words ``train``, ``val`` (or ``valid``, ``validation``) and ``test``; if omitted,
            the column ``split`` if there is one.

    Raises:
        ValueError: some columns are names and others positions, or the file has an unknown extension.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "pairs.tsv").write_text("de\ten\nHallo\thello\n", encoding="utf-8")
        ...     TableFile("pairs.tsv", "de", "en").read(folder)
        [TextPair(source='Hallo', target='hello', line=2, split=None)]
    """

    path: str | Path
    source_column: Column
    target_column: Column
    split_column: Column | None = None

    def __post_init__(self) -> None:
        columns = ("source_column", "target_column", "split_column")
        check_table(self.path, {column: getattr(self, column) for column in columns})

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[TextPair]:
        """See :meth:`TextPairs.read`; a row is unusable if it lacks a value, is not UTF-8 or has an unknown split.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file is empty, cannot be read, lacks a column or has no usable row; or raised by
                ``on_bad_input``.
        """
        path = find_file(Path(root, self.path), "path")
        rows = table_texts(path, (self.source_column, self.target_column), self.split_column, on_bad_input)
        return _some([TextPair(source, target, line, split) for line, (source, target), split in rows], str(path))


@dataclass(frozen=True)
class DatasetPairs(TextPairs):
    """Rows in memory: a data set of Hugging Face's ``datasets``, or any iterable of mappings.

    Args:
        dataset: the rows.
        source_column: name of the column of sources; ``translation.de`` is the ``de`` inside the ``translation`` of a
            row.
        target_column: likewise of the targets.

    Example:
        >>> DatasetPairs([{"translation": {"de": "ja", "en": "yes"}}], "translation.de", "translation.en").read()
        [TextPair(source='ja', target='yes', line=1, split=None)]
    """

    dataset: Iterable[Mapping[str, Any]]
    source_column: str
    target_column: str

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[TextPair]:
        """See :meth:`TextPairs.read`; ``root`` is ignored.

        Raises:
            ValueError: there is no usable row; or raised by ``on_bad_input``.
        """
        pairs = []
        for number, row in enumerate(self.dataset, start=1):
            (source, target), problem = row_texts(
                row, (self.source_column, self.target_column), f"dataset, row {number}"
            )
            if problem is None:
                pairs.append(TextPair(source, target, number))
            else:
                on_bad_input(problem)
        return _some(pairs, "dataset")


@dataclass(frozen=True)
class SplitPairs(TextPairs):
    """One source of pairs per split.

    Args:
        train: source of the training pairs.
        val: source of the validation pairs, if there are any.
        test: source of the test pairs, if there are any.

    Example:
        >>> rows = [{"de": "ja", "en": "yes"}, {"de": "so", "en": "so"}]
        >>> pairs = SplitPairs(train=DatasetPairs(rows, "de", "en"), test=DatasetPairs(rows[:1], "de", "en"))
        >>> [(pair.target, pair.split) for pair in pairs.read()]
        [('yes', 'train'), ('so', 'train'), ('yes', 'test')]
    """

    train: TextPairs
    val: TextPairs | None = None
    test: TextPairs | None = None

    def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[TextPair]:
        """See :meth:`TextPairs.read`; the pairs of all sources, each with the split of its source."""
        read = []
        for split in SPLITS:
            pairs: TextPairs | None = getattr(self, split)
            if pairs is not None:
                read += [pair._replace(split=split) for pair in pairs.read(root, on_bad_input)]
        return read


def _some(pairs: list[TextPair], name: str) -> list[TextPair]:
    if not pairs:
        raise ValueError(f"{name} has no usable pair; check its content and columns")
    return pairs
