"""Text files, plain or packed, and the rows of tables in them, each fault with its line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Column = str | int
# A row is its line and its values by column, or what is wrong with it.
Row = tuple[int, Mapping[Any, object] | str]

# Undecodable bytes become lone surrogates, which say later on that this line was not UTF-8, and which line.
_KEPT = "surrogateescape"


def find_file(path: Path, argument: str) -> Path:
    """The path itself, if there is a file.

    Args:
        path: to look at.
        argument: that gave it, for the error.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument}={str(path)!r}: there is no such file; check the path and root")
    return path


def file_content(path: Path) -> bytes:
    """All bytes of a file, unpacked if it ends in ``.gz``.

    Raises:
        ValueError: it cannot be unpacked.
    """
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); it is no gzip file, or a damaged one") from error


def file_lines(path: Path) -> list[str]:
    """The lines of a text file, plain or ``.gz``, without their ends; see :func:`text_problem` for bad UTF-8.

    Raises:
        ValueError: it is empty, or cannot be unpacked.
    """
    # Only a line feed ends a line: what else str.splitlines takes for an end may stand inside a sentence.
    lines = file_content(path).decode("utf-8", _KEPT).removeprefix("\ufeff").split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; give a file with text in it")
    return [line.removesuffix("\r") for line in lines]


def text_problem(text: str, where: str) -> str | None:
    """What is wrong with a text of a file: nothing in it, or no UTF-8.

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
    """Refuses what cannot be a table, before anything is read.

    Args:
        path: of the table.
        columns: by the arguments that gave them.

    Raises:
        ValueError: the file has another ending, or JSON lines shall have columns without names.
    """
    kind = _kind(path)
    if kind not in _ROWS:
        raise ValueError(f"path={str(path)!r}: a table must end in one of {', '.join(_ROWS)}, or that and .gz")
    for argument, column in columns.items():
        if kind in (".jsonl", ".json") and isinstance(column, int):
            raise ValueError(f"{argument}={column}: columns of JSON lines have names; give them")


def table_rows(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """The rows of a ``.csv``, ``.tsv`` or ``.jsonl``, plain or ``.gz``, one after the other.

    Args:
        path: of the table.
        columns: that it must have: names that the first line of a CSV or TSV gives, or places, from 0, where the
            first line is a row already.

    Raises:
        ValueError: it is empty, cannot be unpacked, or has not these columns.
    """
    return _ROWS[_kind(path)](file_lines(path), str(path), columns)


def column_text(row: Mapping[Any, object], column: Column, where: str) -> tuple[str, str | None]:
    """The text in a column of a row, and what is wrong with it.

    Args:
        row: its values by column.
        column: its name; ``translation.de`` is the ``de`` inside the ``translation`` of a row.
        where: the row stands.

    Example:
        >>> column_text({"de": " ja ", "en": 3}, "de", "line 2"), column_text({"de": " ja ", "en": 3}, "en", "line 2")
        (('ja', None), ('', "line 2, column 'en' holds no text but int"))
    """
    value = _pick(row, column)
    where = f"{where}, column {column!r}"
    if not isinstance(value, str):
        return "", f"{where} is missing" if value is None else f"{where} holds no text but {type(value).__name__}"
    text = value.strip()
    return text, text_problem(text, where)


def _pick(row: Mapping[Any, object], column: Column) -> object:
    """The value of a column, or of one inside another: ``translation.de``."""
    if column in row or not isinstance(column, str):
        return row.get(column)
    outer, _, inner = column.partition(".")
    nested = row.get(outer)
    return _pick(nested, inner) if inner and isinstance(nested, Mapping) else None


class _StrictCommas(csv.excel):
    # Or a quotation mark that is never closed would swallow the rest of the file.
    strict = True


class _PlainTabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def _csv_rows(lines: list[str], name: str, columns: Sequence[Column]) -> Iterator[Row]:
    return _table_rows(lines, name, columns, _StrictCommas)


def _tsv_rows(lines: list[str], name: str, columns: Sequence[Column]) -> Iterator[Row]:
    return _table_rows(lines, name, columns, _PlainTabs)


def _table_rows(lines: list[str], name: str, columns: Sequence[Column], dialect: type[csv.Dialect]) -> Iterator[Row]:
    # Line ends are put back, for a quoted value may hold some.
    reader = csv.reader((f"{line}\n" for line in lines), dialect)
    header: list[str] | None = None
    if isinstance(columns[0], str):
        header = [value.strip() for value in next(reader)]
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(
                f"{name}, line 1: there is no column {missing[0]!r}, only {header}; name others, or give places from 0 "
                "if the first line is a row already; a file with commas must end in .csv"
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
        if header is not None and any(value.strip() for value in values[len(header) :]):
            yield first, f"has {len(values)} values for {len(header)} columns; in a .csv, quote what holds a comma"
            continue
        # A row that is too short lacks its last columns, and is found out by that.
        yield first, dict(zip(range(len(values)) if header is None else header, values, strict=False))


def _json_rows(lines: list[str], name: str, columns: Sequence[Column]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"is no JSON object ({error.msg})"
            continue
        yield number, row if isinstance(row, dict) else f"is no JSON object but {type(row).__name__}"


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
