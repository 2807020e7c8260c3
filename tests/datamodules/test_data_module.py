import logging
from collections.abc import Mapping

import pytest
from rich.table import Table
from torch.utils.data import DataLoader, Dataset, Subset

from datamodules import BadInput, DataModule, Split
from datamodules.data_module import check_at_least, check_bad_input, first_few, skipped


class Numbers(DataModule[list[int], Dataset[int], int]):
    """Two splits, given in another order than they are used in."""

    loads = 0

    def load(self) -> Mapping[Split, list[int]]:
        self.loads += 1
        return {"test": [7], "train": [1, 2, 3]}

    def make_datasets(self) -> Mapping[Split, Dataset[int]]:
        self.notes.append("Made [bold].")
        return {split: Subset(numbers, range(len(numbers))) for split, numbers in self.loaded.items()}  # type: ignore[arg-type]

    def loader(self, split: Split) -> DataLoader[int]:
        return DataLoader(self.dataset(split), batch_size=None, collate_fn=lambda number: number)

    def describe(self) -> tuple[str, Table]:
        table = Table("split")
        for split in self.datasets:
            table.add_row(split)
        return f"{self.title} [red]", table


class TestLifecycle:
    def test_everything_is_loaded_once_when_it_is_needed(self) -> None:
        data = Numbers()
        assert data.loads == 0
        assert list(data.train_dataloader()) == [1, 2, 3]
        data.setup("fit")
        data.setup("test")
        assert data.loads == 1
        assert data.dataset("test") is data.dataset("test")
        assert list(data.datasets) == list(data.loaded) == ["train", "test"]

    def test_the_summary_is_logged_when_training_begins(self, caplog: pytest.LogCaptureFixture) -> None:
        data = Numbers()
        with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
            data.setup("test")
            assert not caplog.records
            data.setup("fit")
        assert [record.getMessage() for record in caplog.records] == [data.summary()]


class TestSplits:
    def test_prediction_uses_the_test_split(self) -> None:
        assert list(Numbers().predict_dataloader()) == list(Numbers().test_dataloader()) == [7]

    def test_without_a_validation_split_there_is_no_loader(self) -> None:
        assert Numbers().val_dataloader() == []

    def test_a_missing_split_is_named_with_those_that_exist(self) -> None:
        with pytest.raises(ValueError, match=r"Numbers has no split 'val', only \['train', 'test'\]"):
            Numbers().dataset("val")


class TestSummary:
    def test_nothing_in_a_headline_or_note_is_markup(self) -> None:
        lines = Numbers().summary().splitlines()
        assert lines[0] == "Numbers [red]"
        assert [line.strip("│ ") for line in lines[4:6]] == ["train", "test"]
        assert lines[-1] == "Made [bold]."
        assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("name", ["num_workers", "seed"])
def test_numbers_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 0 or more, got -1"):
        Numbers(**{name: -1})


def test_a_base_names_what_a_subclass_must_define() -> None:
    bare: DataModule[object, Dataset[object], object] = DataModule()
    with pytest.raises(NotImplementedError, match=r"DataModule must define load\("):
        bare.load()
    with pytest.raises(NotImplementedError, match=r"DataModule must define make_datasets\("):
        bare.make_datasets()
    with pytest.raises(NotImplementedError, match=r"DataModule must define describe\("):
        bare.describe()
    with pytest.raises(NotImplementedError, match=r"DataModule must define loader\("):
        bare.loader("train")


def test_minimum_of_several_arguments() -> None:
    check_at_least(1, batch_size=1, max_length=None)
    with pytest.raises(ValueError, match="max_length must be 1 or more, got 0"):
        check_at_least(1, batch_size=3, max_length=0)


class TestBadInput:
    def test_unknown_treatment(self) -> None:
        assert check_bad_input("skip") == "skip"
        with pytest.raises(ValueError, match="bad_input must be 'error' or 'skip', got 'ignore'"):
            check_bad_input("ignore")  # type: ignore[arg-type]

    def test_skipped_input_is_noted(self) -> None:
        assert skipped(["a is bad", "b is bad"], "bad files", "root='x'", "skip") == [
            "Skipped 2 bad files:",
            "  a is bad",
            "  b is bad",
        ]

    def test_an_error_names_the_source_and_the_first_ten(self) -> None:
        with pytest.raises(
            ValueError, match=r"root='x' has 12 bad files; .*bad_input='skip'(?s:.*)  9\n  … and 2 more"
        ):
            skipped([str(number) for number in range(12)], "bad files", "root='x'", "error")

    @pytest.mark.parametrize("bad_input", ["error", "skip"])
    def test_nothing_is_noted_without_problems(self, bad_input: BadInput) -> None:
        assert skipped([], "bad files", "root='x'", bad_input) == []

    def test_ten_are_shown(self) -> None:
        assert first_few(list("abcdefghij")) == [f"  {letter}" for letter in "abcdefghij"]
        assert first_few([str(number) for number in range(1500)])[9:] == ["  9", "  … and 1,490 more"]
