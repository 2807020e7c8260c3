import gzip
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning import LightningDataModule

from datamodules import (
    AlignedFiles,
    BytePair,
    Character,
    DatasetPairs,
    HeldOut,
    PairFilter,
    ParallelTextDataModule,
    SplitPairs,
    TableFile,
    TextPair,
    TextPairs,
    Word,
)
from datamodules.files.text_files import refuse
from datamodules.text.parallel_text import split_by_sentence

ROWS = [{"de": f"Satz {number % 30}", "en": f"sentence {number}"} for number in range(60)]
FEW = DatasetPairs(ROWS[:5], "de", "en")


def files(folder: Path) -> Path:
    """Writes aligned, gzipped files of three splits."""
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 50), ("val", 5), ("test", 7)):
        for side in ("de", "en"):
            text = "".join(f"{row[side]}\n" for row in ROWS[:count])
            (folder / f"{split}.{side}.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def aligned(split: str) -> AlignedFiles:
    return AlignedFiles(f"{split}.de.gz", f"{split}.en.gz")


class TestSplits:
    def test_given(self, tmp_path: Path) -> None:
        pairs = SplitPairs(aligned("train"), aligned("val"), aligned("test"))
        data = ParallelTextDataModule(pairs, Word(), root=files(tmp_path))
        assert data.dataset("train").source_texts == [row["de"] for row in ROWS[:50]]
        assert data.dataset("val").target_texts == [row["en"] for row in ROWS[:5]]
        assert len(data.dataset("test")) == 7

    def test_held_out_from_training_without_a_shared_source(self) -> None:
        data = ParallelTextDataModule(DatasetPairs(ROWS, "de", "en"), Word(), held_out=HeldOut(val=0.1, test=0.2))
        sources = [set(data.dataset(split).source_texts) for split in ("train", "val", "test")]
        assert not sources[0] & sources[1] and not sources[0] & sources[2] and not sources[1] & sources[2]  # noqa: PT018
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [44, 4, 12]

    def test_mixed(self) -> None:
        pairs = SplitPairs(DatasetPairs(ROWS, "de", "en"), val=FEW)
        data = ParallelTextDataModule(pairs, Word(), held_out=HeldOut(val=0.5))
        assert [len(data.dataset(split)) for split in ("train", "val")] == [60, 5]
        with pytest.raises(ValueError, match="no split 'test'"):
            data.dataset("test")

    def test_seed_decides(self) -> None:
        held = [
            ParallelTextDataModule(DatasetPairs(ROWS, "de", "en"), Word(), seed=seed).dataset("test").source_texts
            for seed in (0, 0, 1)
        ]
        assert held[0] == held[1] != held[2]

    @given(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("stuvwxyz")), min_size=2, max_size=12),
        st.floats(0.01, 0.9),
        st.integers(0, 3),
    )
    def test_any_split(self, words: list[tuple[str, str]], fraction: float, seed: int) -> None:
        pairs = [TextPair(*texts, line) for line, texts in enumerate(words)]
        hanging = {0}
        for _ in pairs:
            hanging |= {i for i, p in enumerate(words) for j in hanging if p[0] == words[j][0] or p[1] == words[j][1]}
        if len(hanging) == len(pairs):
            with pytest.raises(ValueError, match=f"{len(pairs)} pairs that all share sentences"):
                split_by_sentence(pairs, fraction, seed)
            return
        rest, held = split_by_sentence(pairs, fraction, seed)
        assert rest and held  # noqa: PT018
        assert sorted(rest + held, key=lambda pair: pair.line) == pairs
        assert not {pair.source for pair in rest} & {pair.source for pair in held}
        assert not {pair.target for pair in rest} & {pair.target for pair in held}
        assert [pair.line for pair in rest] == sorted(pair.line for pair in rest)
        assert split_by_sentence(pairs, fraction, seed) == (rest, held)

    def test_the_fraction_is_kept_where_sentences_allow(self) -> None:
        pairs = [TextPair(str(line), f"<{line}>", line) for line in range(1000)]
        assert len(split_by_sentence(pairs, 0.05, 0)[1]) == 50

    def test_a_large_group_is_not_held_out_for_a_small_fraction(self) -> None:
        pairs = [TextPair(str(line), "hello" if line < 900 else f"<{line}>", line) for line in range(1000)]
        for seed in range(5):
            assert len(split_by_sentence(pairs, 0.05, seed)[1]) == 50

    def test_one_sentence_cannot_be_split(self) -> None:
        with pytest.raises(ValueError, match=r"1 pairs that all share sentences .* cannot be split; give val and test"):
            ParallelTextDataModule(DatasetPairs(ROWS[:1], "de", "en")).setup()

    def test_a_column_of_splits(self, tmp_path: Path) -> None:
        rows = [
            "de,en,split",
            *(f"{row['de']},{row['en']},{['train', 'train', 'test'][n % 3]}" for n, row in enumerate(ROWS)),
        ]
        (tmp_path / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
        data = ParallelTextDataModule(
            TableFile("pairs.csv", "de", "en"), Word(), root=tmp_path, held_out=HeldOut(val=0.1)
        )
        assert data.dataset("test").target_texts == [row["en"] for row in ROWS[2::3]]
        assert [len(data.dataset(split)) for split in ("train", "val")] == [36, 4]

    def test_no_training_pairs(self) -> None:
        class Tests(TextPairs):
            def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[TextPair]:
                return [TextPair("a", "b", 1, "test")]

        with pytest.raises(ValueError, match=r"no training pair, only \['test'\]"):
            ParallelTextDataModule(Tests()).setup()


class TestRoot:
    def test_argument_then_variable_then_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def count(root: Path | None = None) -> int:
            data = ParallelTextDataModule(aligned("train"), Word(), held_out=HeldOut(), root=root)
            return len(data.dataset("train"))

        monkeypatch.delenv("ATTENTION_BLOCKS_DATA", raising=False)
        with pytest.raises(FileNotFoundError, match=r"source='train\.de\.gz': there is no such file; .* root"):
            count()
        monkeypatch.chdir(files(tmp_path / "here"))
        assert count() == 50
        monkeypatch.setenv("ATTENTION_BLOCKS_DATA", str(files(tmp_path / "there")))
        monkeypatch.chdir(tmp_path)
        assert count() == 50
        monkeypatch.setenv("ATTENTION_BLOCKS_DATA", "/no/such/folder")
        assert count(tmp_path / "here") == 50


class TestBadInput:
    @pytest.fixture
    def table(self, tmp_path: Path) -> TableFile:
        (tmp_path / "t.tsv").write_bytes(b"de\ten\nja\tyes\n\tno\nM\xe4\tx\nso\tso\n")
        return TableFile(tmp_path / "t.tsv", "de", "en")

    def test_an_error_names_file_and_line(self, table: TableFile) -> None:
        with pytest.raises(
            ValueError, match=r"t\.tsv, line 3, column 'de' is empty; correct it, or skip it with bad_input='skip'"
        ):
            ParallelTextDataModule(table).setup()

    def test_skipped_and_counted(self, table: TableFile) -> None:
        pairs = SplitPairs(table, val=table)
        data = ParallelTextDataModule(pairs, Word(), held_out=HeldOut(), bad_input="skip")
        assert data.dataset("train").source_texts == ["ja", "so"]
        notes = data.summary().splitlines()[-5:]
        assert notes[0] == "Skipped 4 unusable pairs:"
        assert notes[1].endswith("t.tsv, line 3, column 'de' is empty")

    def test_without_problems_there_are_no_notes(self) -> None:
        data = ParallelTextDataModule(DatasetPairs(ROWS, "de", "en"), Word(), bad_input="skip")
        data.setup()
        assert data.notes == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bad_input": "ignore"}, "bad_input must be 'error' or 'skip', got 'ignore'"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParallelTextDataModule(FEW, **arguments)


def test_at_most_twelve_arguments() -> None:
    assert len(inspect.signature(ParallelTextDataModule).parameters) <= 12


def test_a_custom_source_of_pairs() -> None:
    class Doubled(TextPairs):
        def read(self, root: str | Path = ".", on_bad_input: Callable[[str], None] = refuse) -> list[TextPair]:
            on_bad_input("word 3 is odd")
            return [TextPair(word, word * 2, line) for line, word in enumerate("abcd", 1)]

    with pytest.raises(ValueError, match="word 3 is odd; correct it"):
        ParallelTextDataModule(Doubled()).setup()
    pairs = SplitPairs(Doubled(), test=Doubled())
    data = ParallelTextDataModule(pairs, Character(), held_out=HeldOut(), bad_input="skip")
    assert data.target_tokenizer.decode(data.dataset("test")[[0]].target.tolist()) == ["aa"]
    assert data.notes == ["Skipped 2 unusable pairs:", "  word 3 is odd", "  word 3 is odd"]


class TestYAML:
    """Built from YAML as on the command line, with short class names."""

    RECIPE = """
    class_path: ParallelTextDataModule
    init_args:
      pairs:
        class_path: SplitPairs
        init_args:
          train: {class_path: AlignedFiles, init_args: {source: train.de.gz, target: train.en.gz}}
          val: {class_path: TableFile, init_args: {path: val.tsv, source_column: 1, target_column: 0}}
      held_out: {test: 0.1}
      source_tokenizer: {class_path: BytePair, init_args: {vocab_size: 40, lower: true, dropout: 0.1}}
      target_tokenizer: {class_path: Character}
      max_tokens: 100
      filters: {max_length: 50, max_ratio: 9}
      bad_input: skip
    """

    @staticmethod
    def build(recipe: str, *words: str) -> ParallelTextDataModule:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data")
        parser.add_argument("--config", action="config")
        config = yaml.safe_dump({"data": yaml.safe_load(recipe)})
        data = parser.instantiate(parser.parse_args(["--config", config, *words])).data
        assert isinstance(data, ParallelTextDataModule)
        return data

    def test_recipe(self, tmp_path: Path) -> None:
        (files(tmp_path) / "val.tsv").write_text("no\tnein\nyes\tja\n", encoding="utf-8")
        data = self.build(
            self.RECIPE, "--data.init_args.root", str(tmp_path), "--data.init_args.filters.max_length", "20"
        )
        assert data.dataset("val").source_texts == ["nein", "ja"]
        assert len(data.dataset("train")) == 45
        assert data.source_tokenizer.decode(data.source_tokenizer.encode(["SATZ 1"])) == ["satz 1"]
        assert data.source_tokenizer.dropout == pytest.approx(0.1)
        assert data.target_tokenizer.tokens(data.target_tokenizer.encode(["Se"])[0]) == ["<unk>", "e"]
        assert data._filters == PairFilter(20, 9.0)
        assert all(batch.target.numel() <= 100 for batch in data.train_dataloader())

    def test_shortest_recipe(self, tmp_path: Path) -> None:
        recipe = """
        class_path: ParallelTextDataModule
        init_args: {pairs: {class_path: AlignedFiles, init_args: {source: train.de.gz, target: train.en.gz}}}
        """
        data = self.build(recipe, "--data.init_args.root", str(files(tmp_path)))
        expected = ParallelTextDataModule(aligned("train"), BytePair(8000), root=tmp_path)
        assert data.source_tokenizer == expected.source_tokenizer == data.target_tokenizer
        assert data.summary() == expected.summary()

    def test_rows_in_the_recipe_itself(self) -> None:
        recipe = """
        class_path: ParallelTextDataModule
        init_args:
          pairs:
            class_path: DatasetPairs
            init_args: {dataset: [{de: ein Hund, en: a dog}, {de: zwei, en: two}], source_column: de, target_column: en}
          held_out: {val: 0.0, test: 0.0}
          source_tokenizer: Word
        """
        assert self.build(recipe).dataset("train").target_texts == ["a dog", "two"]
