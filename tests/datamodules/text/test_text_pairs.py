import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import AlignedFiles, DatasetPairs, SplitPairs, TableFile, TextPair, TextPairs

PAIRS = [TextPair("Ein Hund.", "A dog.", 1), TextPair("Zwei „Männer“", "Two \u2028 men", 2), TextPair("ja", "yes", 3)]


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def texts(pairs: list[TextPair]) -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in pairs]


def skipped(pairs: TextPairs, root: Path) -> tuple[list[TextPair], list[str]]:
    problems: list[str] = []
    return pairs.read(root, problems.append), problems


class TestAlignedFiles:
    @pytest.mark.parametrize("suffix", ["de", "de.gz"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize("last", [True, False], ids=["closed", "open"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
    def test_lines_are_paired(self, tmp_path: Path, suffix: str, end: str, last: bool, mark: str) -> None:
        for name, column in ((suffix, 0), ("en", 1)):
            write(tmp_path / f"train.{name}", mark + end.join(str(pair[column]) for pair in PAIRS) + end * last)
        assert AlignedFiles(f"train.{suffix}", "train.en").read(tmp_path) == PAIRS

    def test_absolute_paths_need_no_root(self, tmp_path: Path) -> None:
        source, target = write(tmp_path / "a", "x\n"), write(tmp_path / "b", "y\n")
        assert AlignedFiles(source, target).read("/no/such/root") == [TextPair("x", "y", 1)]

    def test_differing_line_counts_are_never_skipped(self, tmp_path: Path) -> None:
        write(tmp_path / "a", "x\ny\nz\n")
        write(tmp_path / "b", "x\ny\n")
        for handler in (None, print):
            with pytest.raises(ValueError, match=r"a has 3 lines and .*b 2; aligned files must have the same number"):
                AlignedFiles("a", "b").read(tmp_path, *filter(None, [handler]))

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize(
        ("line", "problem"), [(b"", "is empty"), (b" \t ", "is empty"), (b"M\xe4nner", "is not UTF-8")]
    )
    @pytest.mark.parametrize("side", [0, 1])
    def test_bad_lines(self, tmp_path: Path, line: bytes, problem: str, side: int, suffix: str) -> None:
        names = [f"{name}{suffix}" for name in ("a", "b")]
        for number, name in enumerate(names):
            write(tmp_path / name, b"one\n" + (line if number == side else b"two") + b"\nthree\n")
        with pytest.raises(ValueError, match=rf"{names[side]}, line 2 {problem}.*bad_input='skip'"):
            AlignedFiles(*names).read(tmp_path)
        read, problems = skipped(AlignedFiles(*names), tmp_path)
        assert read == [TextPair("one", "one", 1), TextPair("three", "three", 3)]
        assert problems == [f"{tmp_path / names[side]}, line 2 {problem}"]

    def test_missing_empty_and_damaged_files(self, tmp_path: Path) -> None:
        write(tmp_path / "a", "x\n")
        with pytest.raises(FileNotFoundError, match=r"target='.*none': there is no such file; check the path and root"):
            AlignedFiles("a", "none").read(tmp_path)
        write(tmp_path / "empty", "")
        with pytest.raises(ValueError, match="empty is empty"):
            AlignedFiles("a", "empty").read(tmp_path)
        write(tmp_path / "blank", "\n")
        with pytest.raises(ValueError, match="has no usable pair"):
            skipped(AlignedFiles("a", "blank"), tmp_path)
        whole = gzip.compress(b"some words\n" * 100)
        for damaged in (whole[:-20], b"no gzip", whole[:15] + b"\0\0\0" + whole[18:]):
            (tmp_path / "c.gz").write_bytes(damaged)
            with pytest.raises(ValueError, match=r"c\.gz cannot be decompressed"):
                AlignedFiles("c.gz", "a").read(tmp_path)


def as_csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def as_tsv(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def as_jsonl(rows: list[list[str]]) -> str:
    return "".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])


class TestTableFile:
    @pytest.mark.parametrize("packed", ["", ".gz"])
    @pytest.mark.parametrize(
        ("suffix", "form"), [("csv", as_csv), ("tsv", as_tsv), ("txt", as_tsv), ("jsonl", as_jsonl)]
    )
    def test_columns_by_name(
        self, tmp_path: Path, suffix: str, form: Callable[[list[list[str]]], str], packed: str
    ) -> None:
        rows = [["en", "number", "de"]] + [[pair.target, str(pair.line), pair.source] for pair in PAIRS]
        write(tmp_path / f"t.{suffix}{packed}", form(rows))
        assert texts(TableFile(f"t.{suffix}{packed}", "de", "en").read(tmp_path)) == texts(PAIRS)

    @pytest.mark.parametrize(("suffix", "form"), [("csv", as_csv), ("tsv", as_tsv)])
    def test_columns_by_position(self, tmp_path: Path, suffix: str, form: Callable[[list[list[str]]], str]) -> None:
        write(tmp_path / f"t.{suffix}", form([[pair.target, pair.source, "CC-BY"] for pair in PAIRS]))
        assert TableFile(f"t.{suffix}", 1, 0).read(tmp_path) == PAIRS

    def test_csv_may_quote_and_tsv_does_not(self, tmp_path: Path) -> None:
        write(tmp_path / "t.csv", 'de,en\n"ja, ""gut""","yes,\nfine"\nnein,no\n')
        read = TableFile("t.csv", "de", "en").read(tmp_path)
        assert read == [TextPair('ja, "gut"', "yes,\nfine", 2), TextPair("nein", "no", 4)]
        write(tmp_path / "t.tsv", 'de\ten\n"ja"\t"yes\n')
        assert TableFile("t.tsv", "de", "en").read(tmp_path) == [TextPair('"ja"', '"yes', 2)]

    @given(
        values=st.lists(
            st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\0")).filter(str.strip)] * 2)
        )
    )
    def test_any_text_survives_csv(
        self, tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str]]
    ) -> None:
        folder = tmp_path_factory.mktemp("csv")
        write(folder / "t.csv", as_csv([["a", "b"], ["x", "y"], *map(list, values)]))
        expected = [("x", "y"), *((source.strip(), target.strip()) for source, target in values)]
        assert texts(TableFile("t.csv", "a", "b").read(folder)) == expected

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("t.csv", "de,en\nja,yes\nnein\nso,so\n", "line 3, column 'en' is missing"),
            ("t.csv", "de,en\nja,yes\n,no\nso,so\n", "line 3, column 'de' is empty"),
            ("t.csv", "de,en\nja,yes\n\nso,so\n", "line 3, column 'de' is missing"),
            ("t.csv", 'de,en\nja,yes\n"a"b,c\nso,so\n', "line 3 is not a row"),
            ("t.csv", b"de,en\nja,yes\nM\xe4,x\nso,so\n", "line 3, column 'de' is not UTF-8"),
            ("t.csv", "de,en\nja,yes\nnein,no, never\nso,so,\n", "line 3 has 3 values for 2 columns"),
            ("t.tsv", "de\ten\nja\tyes\nnein no\nso\tso\n", "line 3, column 'en' is missing"),
            (
                "t.jsonl",
                '{"de": "ja", "en": "yes"}\n{"de": "a"}\n{"de": "so", "en": "so"}\n',
                "line 2, column 'en' is missing",
            ),
            (
                "t.jsonl",
                '{"de": "ja", "en": "yes"}\n{"de": 3, "en": "x"}\n{"de": "so", "en": "so"}\n',
                "must hold text, got int",
            ),
            (
                "t.jsonl",
                '{"de": "ja", "en": "yes"}\n{"de": \n{"de": "so", "en": "so"}\n',
                "line 2 is not a JSON object",
            ),
            (
                "t.jsonl",
                '{"de": "ja", "en": "yes"}\n[1]\n{"de": "so", "en": "so"}\n',
                "line 2 must be a JSON object, got list",
            ),
            (
                "t.jsonl",
                '{"de": "ja", "en": "yes"}\n{"de": "\\ud800", "en": "x"}\n{"de": "so", "en": "so"}\n',
                "not UTF-8",
            ),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
        write(tmp_path / name, content)
        table = TableFile(name, "de", "en")
        with pytest.raises(ValueError, match=rf"{name}, line .*{problem.removeprefix('line ')}.*bad_input='skip'"):
            table.read(tmp_path)
        read, problems = skipped(table, tmp_path)
        assert texts(read) == [("ja", "yes"), ("so", "so")]
        assert len(problems) == 1
        assert problem in problems[0]

    def test_a_quote_that_is_never_closed_swallows_nothing_silently(self, tmp_path: Path) -> None:
        write(tmp_path / "t.csv", 'de,en\nja,yes\n"nein,no\nso,so\n')
        with pytest.raises(ValueError, match="line 3 is not a row"):
            TableFile("t.csv", "de", "en").read(tmp_path)

    @pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
    def test_a_missing_column_is_never_skipped(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / name, "de,en\nja,yes\n" if name == "t.csv" else "de\ten\nja\tyes\n")
        with pytest.raises(ValueError, match=r"line 1: there is no column 'fr', only \['de', 'en'\]"):
            skipped(TableFile(name, "fr", "en"), tmp_path)

    def test_json_rows_without_the_column(self, tmp_path: Path) -> None:
        write(tmp_path / "t.jsonl", '{"de": "ja"}\n')
        with pytest.raises(ValueError, match="has no usable pair"):
            skipped(TableFile("t.jsonl", "de", "en"), tmp_path)

    def test_columns_inside_columns(self, tmp_path: Path) -> None:
        write(tmp_path / "t.jsonl", '{"translation": {"de": "ja", "en": "yes"}, "a.b": "c"}\n')
        assert texts(TableFile("t.jsonl", "translation.de", "a.b").read(tmp_path)) == [("ja", "c")]

    def test_a_column_of_splits(self, tmp_path: Path) -> None:
        write(tmp_path / "t.csv", "de,en,split,part\nja,yes,validation,TRAIN\nso,so,test,x\n")
        assert [pair.split for pair in TableFile("t.csv", "de", "en").read(tmp_path)] == ["val", "test"]
        read, problems = skipped(TableFile("t.csv", "de", "en", split_column="part"), tmp_path)
        assert [pair.split for pair in read] == ["train"]
        assert problems == [f"{tmp_path / 't.csv'}, line 3: 'x' is not a split; use train, val or test"]

    def test_a_column_of_splits_by_position(self, tmp_path: Path) -> None:
        write(tmp_path / "t.tsv", "ja\tyes\ttest\nso\tso\ttrain\n")
        assert [pair.split for pair in TableFile("t.tsv", 0, 1).read(tmp_path)] == [None, None]
        assert [pair.split for pair in TableFile("t.tsv", 0, 1, 2).read(tmp_path)] == ["test", "train"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("t.csv", "de", 1), "must all be names"),
            (("t.xlsx", "de", "en"), r"path='t\.xlsx': a table must end in one of \.csv, \.tsv"),
            (("t.jsonl", 0, 1), "columns of JSON lines have names"),
        ],
    )
    def test_arguments_are_checked(self, arguments: tuple[str, str | int, str | int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TableFile(*arguments)

    def test_missing_and_empty_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"path='.*t\.csv': there is no such file"):
            TableFile("t.csv", "de", "en").read(tmp_path)
        for content, message in (("", "is empty"), ("de,en\n", "no usable pair")):
            write(tmp_path / "t.csv", content)
            with pytest.raises(ValueError, match=message):
                TableFile("t.csv", "de", "en").read(tmp_path)


class TestDatasetPairs:
    def test_mappings(self) -> None:
        rows: list[dict[str, str | int]] = [{"de": " ja ", "en": "yes"}, {"de": "nein", "en": "no", "more": 3}]
        assert DatasetPairs(rows, "de", "en").read() == [TextPair("ja", "yes", 1), TextPair("nein", "no", 2)]

    def test_hugging_face(self) -> None:
        datasets = pytest.importorskip("datasets")
        made = datasets.Dataset.from_dict({"translation": [{"de": pair.source, "en": pair.target} for pair in PAIRS]})
        assert DatasetPairs(made, "translation.de", "translation.en").read() == PAIRS

    @pytest.mark.parametrize(
        ("row", "problem"), [({"de": "x"}, "column 'en' is missing"), ({"de": "", "en": "x"}, "is empty")]
    )
    def test_bad_rows(self, row: dict[str, str], problem: str) -> None:
        rows: list[dict[str, str]] = [{"de": "a", "en": "b"}, row]
        pairs = DatasetPairs(rows, "de", "en")
        with pytest.raises(ValueError, match=rf"dataset, row 2.*{problem}"):
            pairs.read()
        assert texts(skipped(pairs, Path())[0]) == [("a", "b")]

    def test_no_rows(self) -> None:
        with pytest.raises(ValueError, match="dataset has no usable pair"):
            DatasetPairs([], "de", "en").read()


class TestSplitPairs:
    def test_every_pair_has_the_split_of_its_source(self) -> None:
        first, second = ([{"de": word, "en": word}] for word in "ab")
        pairs = SplitPairs(DatasetPairs(first, "de", "en"), test=DatasetPairs(second, "de", "en"))
        assert pairs.read() == [TextPair("a", "a", 1, "train"), TextPair("b", "b", 1, "test")]

    def test_root_and_handler_reach_every_source(self, tmp_path: Path) -> None:
        write(tmp_path / "t.tsv", "de\ten\nja\tyes\n\tno\n")
        table = TableFile("t.tsv", "de", "en")
        read, problems = skipped(SplitPairs(table, val=table), tmp_path)
        assert [pair.split for pair in read] == ["train", "val"]
        assert len(problems) == 2
