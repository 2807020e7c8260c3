"""Where sentence pairs come from: aligned files, a table, or a data set in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.files.text_files import (
    Column,
    Row,
    check_table,
    column_text,
    file_lines,
    find_file,
    table_rows,
    text_problem,
)


class TextPair(NamedTuple):
    """A sentence, what it is translated to, and where they stood.

    Attributes:
        source: the text that a system reads.
        target: the text that it shall write.
        line: of the file, or row of the data set, counted from 1.
    """

    source: str
    target: str
    line: int


def refuse(problem: str) -> None:
    """Takes no bad line.

    Raises:
        ValueError: always, with the problem.
    """
    raise ValueError(f"{problem}; correct it, or give bad_lines='skip'")


class TextPairs(ABC):
    """Base of every source of sentence pairs; subclass it to bring your own to :class:`ParallelTextDataModule`.

    Example:
        >>> class Doubled(TextPairs):
        ...     def read(self, root=".", bad_line=refuse):
        ...         return [TextPair(word, f"{word} {word}", line) for line, word in enumerate(["so", "la"], 1)]
        >>> Doubled().read()[1].target
        'la la'
    """

    @abstractmethod
    def read(self, root: str | Path = ".", bad_line: Callable[[str], None] = refuse) -> list[TextPair]:
        """All pairs, in order.

        Args:
            root: the folder that relative paths start from.
            bad_line: called with the problem, file and line of each pair that is unusable; if it returns, the pair is
                left out.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: there is no pair at all, a file cannot be read, or, from ``bad_line``, a pair is unusable.
        """


@dataclass(frozen=True)
class AlignedFiles(TextPairs):
    r"""Two text files, plain or ``.gz``, whose lines belong together: line 7 of the one is line 7 of the other.

    Args:
        source: path of the sources, one a line, UTF-8.
        target: path of the targets.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "train.de").write_text("Hallo\nja\n", encoding="utf-8")
        ...     _ = Path(folder, "train.en").write_text("hello\nyes\n", encoding="utf-8")
        ...     AlignedFiles("train.de", "train.en").read(folder)
        [TextPair(source='Hallo', target='hello', line=1), TextPair(source='ja', target='yes', line=2)]
    """

    source: str | Path
    target: str | Path

    def read(self, root: str | Path = ".", bad_line: Callable[[str], None] = refuse) -> list[TextPair]:
        """Both files, line by line.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is empty or cannot be read, or they have not the same number of lines, in which case
                nothing tells which line is lost; or, from ``bad_line``, a line is empty or no UTF-8.
        """
        paths = [find_file(Path(root, path), name) for name, path in (("source", self.source), ("target", self.target))]
        sources, targets = ([line.strip() for line in file_lines(path)] for path in paths)
        if len(sources) != len(targets):
            raise ValueError(
                f"{paths[0]} has {len(sources):,} lines and {paths[1]} {len(targets):,}; aligned files must have "
                "the same number, and nothing tells which lines belong together: find the line that is lost"
            )
        pairs = []
        for line, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
            where = [f"{path}, line {line}" for path in paths]
            problem = text_problem(source, where[0]) or text_problem(target, where[1])
            if problem is None:
                pairs.append(TextPair(source, target, line))
            else:
                bad_line(problem)
        return _some(pairs, f"{paths[0]} and {paths[1]}")


@dataclass(frozen=True)
class TableFile(TextPairs):
    r"""One file with a column for each side: ``.csv``, ``.tsv`` or ``.jsonl``, plain or ``.gz``.

    CSV may quote its values, as spreadsheets do. In TSV (``.tsv``, ``.tab``, ``.txt``) a quotation mark is nothing
    but that, and each line is a row. In JSON lines (``.jsonl``, ``.json``) each line is an object.

    Args:
        path: the file, UTF-8.
        source_column: name of the column, as the first line gives it; or its place, from 0, in a CSV or TSV whose
            first line is a pair already. ``translation.de`` is the ``de`` inside the ``translation`` of a JSON object.
        target_column: likewise.

    Raises:
        ValueError: one column is a name and the other a place, or the file has another ending.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "pairs.tsv").write_text("de\ten\nHallo\thello\n", encoding="utf-8")
        ...     TableFile("pairs.tsv", "de", "en").read(folder)
        [TextPair(source='Hallo', target='hello', line=2)]
    """

    path: str | Path
    source_column: Column
    target_column: Column

    def __post_init__(self) -> None:
        if isinstance(self.source_column, int) != isinstance(self.target_column, int):
            raise ValueError(
                f"source_column={self.source_column!r} and target_column={self.target_column!r} must both be names, or "
                "both places in a file without names"
            )
        check_table(self.path, {"source_column": self.source_column})

    def read(self, root: str | Path = ".", bad_line: Callable[[str], None] = refuse) -> list[TextPair]:
        """The file, row by row.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it is empty, cannot be read or has not these columns; or, from ``bad_line``, a row lacks a
                value or is no UTF-8.
        """
        path = find_file(Path(root, self.path), "path")
        columns = (self.source_column, self.target_column)
        rows = table_rows(path, columns)
        return _some(list(_pairs(rows, columns, f"{path}, line", bad_line)), str(path))


@dataclass(frozen=True)
class DatasetPairs(TextPairs):
    """Rows in memory: a data set of Hugging Face's ``datasets``, or any list of mappings.

    Args:
        dataset: the rows.
        source_column: name of the column; ``translation.de`` is the ``de`` inside the ``translation`` of a row.
        target_column: likewise.

    Example:
        >>> DatasetPairs([{"translation": {"de": "ja", "en": "yes"}}], "translation.de", "translation.en").read()
        [TextPair(source='ja', target='yes', line=1)]
    """

    dataset: Iterable[Mapping[str, Any]]
    source_column: str
    target_column: str

    def read(self, root: str | Path = ".", bad_line: Callable[[str], None] = refuse) -> list[TextPair]:
        """The rows, in order; ``root`` does not matter.

        Raises:
            ValueError: there are none, or, from ``bad_line``, a row lacks a column or has no text in it.
        """
        rows = ((number, row) for number, row in enumerate(self.dataset, start=1))
        columns = (self.source_column, self.target_column)
        return _some(list(_pairs(rows, columns, "dataset, row", bad_line)), "dataset")


def _pairs(
    rows: Iterable[Row], columns: Sequence[Column], place: str, bad_line: Callable[[str], None]
) -> Iterator[TextPair]:
    for number, row in rows:
        where = f"{place} {number}"
        if isinstance(row, str):
            bad_line(f"{where} {row}")
            continue
        (source, problem), (target, other) = (column_text(row, column, where) for column in columns)
        if problem is None and other is None:
            yield TextPair(source, target, number)
        else:
            bad_line(problem or other or "")


def _some(pairs: list[TextPair], name: str) -> list[TextPair]:
    if not pairs:
        raise ValueError(f"{name}: there is no usable pair in it")
    return pairs
