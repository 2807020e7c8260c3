import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.files.text_files import (
    check_table,
    column_text,
    file_content,
    file_lines,
    find_file,
    table_rows,
    text_problem,
)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff")), min_size=1))
def test_lines_end_at_line_feeds_only(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    assert file_lines(path) == lines


def test_content_is_decompressed_by_its_name_only(tmp_path: Path) -> None:
    packed = gzip.compress(b"some text")
    for name, expected in (("a.gz", b"some text"), ("a.txt", packed)):
        (tmp_path / name).write_bytes(packed)
        assert file_content(tmp_path / name) == expected
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"a\.gz cannot be decompressed"):
        file_content(tmp_path / "a.gz")


def test_a_missing_file_is_named_by_its_argument(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train='.*gone': there is no such file; check the path and root"):
        find_file(tmp_path / "gone", "train")


def test_problems_of_a_text() -> None:
    assert text_problem("개", "line 1") is None
    assert text_problem("", "line 1") == "line 1 is empty"
    assert text_problem("M\udce4nner", "line 1") == "line 1 is not UTF-8"


def test_any_number_of_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n4\n5,6,7,\n8,9,10,11\n", encoding="utf-8")
    assert list(table_rows(tmp_path / "t.csv", ["c", "a", "b"])) == [
        (2, {"a": "1", "b": "2", "c": "3"}),
        (3, {"a": "4"}),
        (4, {"a": "5", "b": "6", "c": "7"}),
        (5, "has 4 values for 3 columns; in a .csv, quote values with commas"),
    ]
    rows = list(table_rows(tmp_path / "t.csv", [2]))
    assert rows[-1] == (5, {0: "8", 1: "9", 2: "10", 3: "11"})


def test_columns_inside_columns() -> None:
    row = {"outer": {"inner": " text "}, "a.b": "c"}
    assert column_text(row, "outer.inner", "line 1") == ("text", None)
    assert column_text(row, "a.b", "line 1") == ("c", None)
    assert column_text(row, "outer.other", "line 1") == ("", "line 1, column 'outer.other' is missing")


def test_tables_are_checked_before_they_are_read() -> None:
    check_table("t.tsv.gz", {"column": 3, "other": None})
    with pytest.raises(ValueError, match=r"path='t\.xlsx': a table must end in one of \.csv, \.tsv"):
        check_table("t.xlsx", {})
    with pytest.raises(ValueError, match="column=0: columns of JSON lines have names; give them"):
        check_table("t.jsonl", {"other": "a", "column": 0})
    with pytest.raises(ValueError, match="other='a' and column=0 must all be names"):
        check_table("t.csv", {"other": "a", "column": 0, "third": None})
