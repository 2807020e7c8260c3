"""Where sentence pairs come from: aligned files, a table, or a data set in memory."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Column = str | int

# Undecodable bytes become lone surrogates, which say later on that this line was not UTF-8, and which line.
_KEPT = "surrogateescape"


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
        paths = [_find(Path(root, path), name) for name, path in (("source", self.source), ("target", self.target))]
        sources, targets = ([line.strip() for line in _lines(path)] for path in paths)
        if len(sources) != len(targets):
            raise ValueError(
                f"{paths[0]} has {len(sources):,} lines and {paths[1]} {len(targets):,}; aligned files must have "
                "the same number, and nothing tells which lines belong together: find the line that is lost"
            )
        pairs = []
        for line, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
            problem = _problem(source, f"{paths[0]}, line {line}") or _problem(target, f"{paths[1]}, line {line}")
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
        if self._kind not in _ROWS:
            raise ValueError(f"path={str(self.path)!r}: a table must end in one of {', '.join(_ROWS)}, or that and .gz")
        if self._kind in (".jsonl", ".json") and isinstance(self.source_column, int):
            raise ValueError(f"source_column={self.source_column}: columns of JSON lines have names; give them")

    @property
    def _kind(self) -> str:
        return Path(str(self.path).removesuffix(".gz")).suffix.lower()

    def read(self, root: str | Path = ".", bad_line: Callable[[str], None] = refuse) -> list[TextPair]:
        """The file, row by row.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it is empty, cannot be read or has not these columns; or, from ``bad_line``, a row lacks a
                value or is no UTF-8.
        """
        path = _find(Path(root, self.path), "path")
        columns = (self.source_column, self.target_column)
        rows = _ROWS[self._kind](_lines(path), str(path), columns)
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


# A row is its line and its values by column, or what is wrong with it.
_Row = tuple[int, Mapping[Any, object] | str]
_Columns = tuple[Column, Column]


class _StrictCommas(csv.excel):
    # Or a quotation mark that is never closed would swallow the rest of the file.
    strict = True


class _PlainTabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def _csv_rows(lines: list[str], name: str, columns: _Columns) -> Iterator[_Row]:
    return _table_rows(lines, name, columns, _StrictCommas)


def _tsv_rows(lines: list[str], name: str, columns: _Columns) -> Iterator[_Row]:
    return _table_rows(lines, name, columns, _PlainTabs)


def _table_rows(lines: list[str], name: str, columns: _Columns, dialect: type[csv.Dialect]) -> Iterator[_Row]:
    # Line ends are put back, for a quoted value may hold some.
    reader = csv.reader((f"{line}\n" for line in lines), dialect)
    header: list[str] | None = None
    if isinstance(columns[0], str):
        header = [value.strip() for value in next(reader)]
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(
                f"{name}, line 1: there is no column {missing[0]!r}, only {header}; name others, or give places from 0 "
                "if the first line is a pair already"
            )
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield first, f"is no row ({error})"
            continue
        # A row that is too short lacks its last columns, and is found out by that.
        yield first, dict(zip(range(len(values)) if header is None else header, values, strict=False))


def _json_rows(lines: list[str], name: str, columns: _Columns) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"is no JSON object ({error.msg})"
            continue
        yield number, row if isinstance(row, dict) else f"is no JSON object but {type(row).__name__}"


_ROWS: dict[str, Callable[[list[str], str, _Columns], Iterator[_Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".tab": _tsv_rows,
    ".txt": _tsv_rows,
    ".jsonl": _json_rows,
    ".json": _json_rows,
}


def _pairs(rows: Iterable[_Row], columns: _Columns, place: str, bad_line: Callable[[str], None]) -> Iterator[TextPair]:
    for number, row in rows:
        where = f"{place} {number}"
        if isinstance(row, str):
            bad_line(f"{where} {row}")
            continue
        texts, problem = [], None
        for column in columns:
            value = _pick(row, column)
            if isinstance(value, str):
                texts.append(value.strip())
                problem = problem or _problem(texts[-1], f"{where}, column {column!r}")
            else:
                kind = "is missing" if value is None else f"holds no text but {type(value).__name__}"
                problem = problem or f"{where}, column {column!r} {kind}"
        if problem is None:
            yield TextPair(texts[0], texts[1], number)
        else:
            bad_line(problem)


def _pick(row: Mapping[Any, object], column: Column) -> object:
    """The value of a column, or of one inside another: ``translation.de``."""
    if column in row or not isinstance(column, str):
        return row.get(column)
    outer, _, inner = column.partition(".")
    nested = row.get(outer)
    return _pick(nested, inner) if inner and isinstance(nested, Mapping) else None


def _problem(text: str, where: str) -> str | None:
    if not text:
        return f"{where} is empty"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{where} is not UTF-8"
    return None


def _some(pairs: list[TextPair], name: str) -> list[TextPair]:
    if not pairs:
        raise ValueError(f"{name}: there is no usable pair in it")
    return pairs


def _find(path: Path, argument: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{argument}={str(path)!r}: there is no such file; check the path and root")
    return path


def _lines(path: Path) -> list[str]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked ({error}); it is no gzip file, or a damaged one") from error
    # Only a line feed ends a line: what else str.splitlines takes for an end may stand inside a sentence.
    lines = content.decode("utf-8", _KEPT).removeprefix("\ufeff").split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; give a file with text in it")
    return [line.removesuffix("\r") for line in lines]
