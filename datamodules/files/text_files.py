"""Text files, plain or gzipped, and the rows of tables in them; problems are reported with their lines."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.splits import SPLIT_NAMES, Split

Column = str | int
# Line number, and the values by column or else the problem of the row.
Row = tuple[int, Mapping[Any, object] | str]

# Undecodable bytes become lone surrogates, so that text_problem can report the line that is not UTF-8.
_KEPT = "surrogateescape"


def refuse(problem: str) -> None:
    """Default handler of bad input: raises on the first problem.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{problem}; correct it, or skip it with bad_input='skip'")


def find_file(path: Path, argument: str) -> Path:
    """Checks that a file exists and returns its path.

    Args:
        path: path of the file.
        argument: name of the argument that gave the path, for the error.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument}={str(path)!r}: there is no such file; check the path and root")
    return path


def file_content(path: Path) -> bytes:
    """Content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        ValueError: the file cannot be decompressed.
    """
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed ({error}); it is damaged or not a gzip file") from error


def file_lines(path: Path) -> list[str]:
    """Lines of a text file, plain or ``.gz``, without line ends; see :func:`text_problem` for invalid UTF-8.

    Raises:
        ValueError: the file is empty, or cannot be decompressed.
    """
    # Only a line feed ends a line: sentences may contain the other separators of str.splitlines.
    lines = file_content(path).decode("utf-8", _KEPT).removeprefix("\ufeff").split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; give a file with text in it")
    return [line.removesuffix("\r") for line in lines]


def text_problem(text: str, where: str) -> str | None:
    """Problem of a text, empty or not UTF-8; ``None`` if there is none.

    Args:
        text: a text of :func:`file_lines`.
        where: position of the text, for the problem.

    Example:
        >>> text_problem("", "captions.txt, line 3")
        'captions.txt, line 3 is empty'
    """
    if not text:
        return f"{where} is empty"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{where} is not UTF-8"
    return None


def check_table(path: str | Path, columns: Mapping[str, Column | None]) -> None:
    """Checks the arguments of a table before anything is read.

    Args:
        path: path of the table.
        columns: columns by the arguments that gave them; ``None`` for those that are not given.

    Raises:
        ValueError: the file has an unknown extension, some columns are names and others positions, or a table of JSON
            lines has columns by position.
    """
    kind = _kind(path)
    if kind not in _ROWS:
        raise ValueError(f"path={str(path)!r}: a table must end in one of {', '.join(_ROWS)}, or that and .gz")
    given = {argument: column for argument, column in columns.items() if column is not None}
    for argument, column in given.items():
        if kind in (".jsonl", ".json") and isinstance(column, int):
            raise ValueError(f"{argument}={column}: columns of JSON lines have names; give them")
    if len({isinstance(column, int) for column in given.values()}) > 1:
        named = " and ".join(f"{argument}={column!r}" for argument, column in given.items())
        raise ValueError(f"{named} must all be names, or all positions in a file without a header")


def table_texts(
    path: Path, columns: Sequence[Column], split_column: Column | None, on_bad_input: Callable[[str], None]
) -> Iterator[tuple[int, list[str], Split | None]]:
    """Texts of each usable row of a table, with the row's split.

    Args:
        path: path of the table.
        columns: columns of the texts.
        split_column: column of the splits; if ``None``, the column ``split`` if there is one.
        on_bad_input: called with the problem of each unusable row.

    Yields:
        The line number, the text of each column, and the split; ``None`` if there is no column of splits.

    Raises:
        ValueError: the table cannot be read, see :func:`table_rows`; or raised by ``on_bad_input``.
    """
    rows = list(table_rows(path, [*columns, *([] if split_column is None else [split_column])]))
    if split_column is None and any("split" in row for _, row in rows if not isinstance(row, str)):
        split_column = "split"
    for line, row in rows:
        where = f"{path}, line {line}"
        if isinstance(row, str):
            on_bad_input(f"{where} {row}")
            continue
        texts, problem = row_texts(row, columns, where)
        split: Split | None = None
        if problem is None and split_column is not None:
            word, problem = column_text(row, split_column, where)
            if problem is None:
                split, problem = split_called(word, where)
        if problem is None:
            yield line, texts, split
        else:
            on_bad_input(problem)


def row_texts(row: Mapping[Any, object], columns: Sequence[Column], where: str) -> tuple[list[str], str | None]:
    """Texts in the columns of a row, and the first problem; see :func:`column_text`."""
    found = [column_text(row, column, where) for column in columns]
    return [text for text, _ in found], next((problem for _, problem in found if problem is not None), None)


def split_called(word: str, where: str) -> tuple[Split | None, str | None]:
    """Split with a common name, such as ``validation``, or the problem with that name.

    Example:
        >>> split_called("Validation", "line 2"), split_called("rest", "line 3")
        (('val', None), (None, "line 3: 'rest' is not a split; use train, val or test"))
    """
    split = SPLIT_NAMES.get(word.casefold())
    return split, None if split else f"{where}: {word!r} is not a split; use train, val or test"


def table_rows(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """Rows of a ``.csv``, ``.tsv`` or ``.jsonl`` file, plain or ``.gz``.

    Args:
        path: path of the table.
        columns: columns that it must have: names in the first line of a CSV or TSV, or positions, from 0, in a file
            without a header.

    Raises:
        ValueError: the file is empty, cannot be decompressed, or lacks a column.
    """
    return _ROWS[_kind(path)](file_lines(path), str(path), columns)


def column_text(row: Mapping[Any, object], column: Column, where: str) -> tuple[str, str | None]:
    """Text in a column of a row, without surrounding white space, and its problem.

    Args:
        row: values by column.
        column: name of the column; ``translation.de`` is the ``de`` inside the ``translation`` of a row.
        where: position of the row, for the problem.

    Example:
        >>> column_text({"de": " ja ", "en": 3}, "de", "line 2"), column_text({"de": " ja ", "en": 3}, "en", "line 2")
        (('ja', None), ('', "line 2, column 'en' must hold text, got int"))
    """
    value = _pick(row, column)
    where = f"{where}, column {column!r}"
    if not isinstance(value, str):
        return "", f"{where} is missing" if value is None else f"{where} must hold text, got {type(value).__name__}"
    text = value.strip()
    return text, text_problem(text, where)


def _pick(row: Mapping[Any, object], column: Column) -> object:
    """Value of a column, or of one inside another: ``translation.de``."""
    if column in row or not isinstance(column, str):
        return row.get(column)
    outer, _, inner = column.partition(".")
    nested = row.get(outer)
    return _pick(nested, inner) if inner and isinstance(nested, Mapping) else None


class _StrictCommas(csv.excel):
    # Otherwise an unclosed quotation mark would swallow the rest of the file.
    strict = True


class _PlainTabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def _csv_rows(lines: list[str], name: str, columns: Sequence[Column]) -> Iterator[Row]:
    return _table_rows(lines, name, columns, _StrictCommas)


def _tsv_rows(lines: list[str], name: str, columns: Sequence[Column]) -> Iterator[Row]:
    return _table_rows(lines, name, columns, _PlainTabs)


def _table_rows(lines: list[str], name: str, columns: Sequence[Column], dialect: type[csv.Dialect]) -> Iterator[Row]:
    # With line ends, since a quoted value may contain some.
    reader = csv.reader((f"{line}\n" for line in lines), dialect)
    header: list[str] | None = None
    if isinstance(columns[0], str):
        header = [value.strip() for value in next(reader)]
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(
                f"{name}, line 1: there is no column {missing[0]!r}, only {header}; name other columns, or give "
                "positions from 0 if the file has no header; a file with commas must end in .csv"
            )
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield first, f"is not a row ({error})"
            continue
        if header is not None and any(value.strip() for value in values[len(header) :]):
            yield first, f"has {len(values)} values for {len(header)} columns; in a .csv, quote values with commas"
            continue
        # A row that is too short lacks its last columns, which column_text reports.
        yield first, dict(zip(range(len(values)) if header is None else header, values, strict=False))


def _json_rows(lines: list[str], name: str, columns: Sequence[Column]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"is not a JSON object ({error.msg})"
            continue
        yield number, row if isinstance(row, dict) else f"must be a JSON object, got {type(row).__name__}"


_ROWS: dict[str, Callable[[list[str], str, Sequence[Column]], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".tab": _tsv_rows,
    ".txt": _tsv_rows,
    ".jsonl": _json_rows,
    ".json": _json_rows,
}


def _kind(path: str | Path) -> str:
    return Path(str(path).removesuffix(".gz")).suffix.lower()
