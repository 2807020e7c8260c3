import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules import (
    BytePair,
    Character,
    PairFilter,
    TextBatch,
    TextDataModule,
    TextPair,
    Tokenizer,
    TokenizerTrainer,
    Word,
)
from datamodules.splits import Split

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def pairs(count: int, start: int = 0) -> list[TextPair]:
    numbers = range(start, start + count)
    return [TextPair(WORDS[n % 10] + " " + WORDS[n // 10 % 10], " ".join(WORDS[: n % 7 + 1]), n) for n in numbers]


class Numbers(TextDataModule):
    loads = 0

    def load(self) -> Mapping[Split, Sequence[TextPair]]:
        self.loads += 1
        return {"train": pairs(60), "val": pairs(12, 60), "test": pairs(9, 80)}


class OnlyTraining(TextDataModule):
    def load(self) -> Mapping[Split, Sequence[TextPair]]:
        return {"train": [TextPair("a b c d", "a", 1), TextPair("a", "a a", 2), TextPair("b b", "a b", 3)]}


class Counting(TokenizerTrainer):
    """Counts trainings in this process."""

    trained = 0

    def __init__(self, lower: bool = False) -> None:
        self.lower = lower

    def train(self, texts: object) -> Tokenizer:
        Counting.trained += 1
        assert isinstance(texts, list)
        return Word(lower=self.lower).train(texts)


@pytest.fixture
def trained() -> type[Counting]:
    Counting.trained = 0
    return Counting


class TestPairFilter:
    @given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1), st.integers(1, 20), st.floats(1, 5))
    def test_reasons(self, lengths: list[tuple[int, int]], most: int, ratio: float) -> None:
        reasons = list(PairFilter(most, ratio).removed(torch.tensor(lengths)).values())
        assert reasons[0].tolist() == [max(pair) > most for pair in lengths]
        single = torch.tensor(ratio, dtype=torch.float32)
        assert reasons[1].tolist() == [bool(max(pair) > single * max(min(pair), 1)) for pair in lengths]

    def test_nothing_is_removed_by_default(self) -> None:
        assert PairFilter().removed(torch.tensor([[1, 1000]])) == {}

    @pytest.mark.parametrize("arguments", [{"max_length": 0}, {"max_ratio": 0.5}])
    def test_numbers_out_of_range(self, arguments: dict[str, int]) -> None:
        [name] = arguments
        with pytest.raises(ValueError, match=f"{name} must be 1 or more, got {arguments[name]}"):
            PairFilter(**arguments)


class TestTokenizers:
    def test_shared_if_there_is_no_target_trainer(self) -> None:
        data = Numbers(Word())
        assert data.source_tokenizer is data.target_tokenizer
        both = {word for pair in pairs(60) for side in pair[:2] for word in side.split()}
        assert set(data.source_tokenizer.tokens(range(4, len(data.source_tokenizer)))) == both

    def test_separate_with_a_target_trainer(self) -> None:
        data = Numbers(Word(), Character())
        [numbers] = data.source_tokenizer.encode(["eight"])
        assert data.source_tokenizer.tokens(numbers) == ["eight"]
        targets = {letter for pair in pairs(60) for letter in pair.target}
        assert len(data.target_tokenizer) == 4 + len(targets)
        with_eight = data.source_tokenizer.encode(["eight"]) != data.target_tokenizer.encode(["eight"])
        assert with_eight

    def test_byte_pairs_by_default(self) -> None:
        assert Numbers().source_tokenizer == BytePair().train([pair[side] for side in (0, 1) for pair in pairs(60)])  # type: ignore[misc]

    def test_trained_on_training_text_only_and_once(self, trained: type[Counting]) -> None:
        data = Numbers(trained())
        assert data.loads == 0, "nothing is loaded before it is used"
        data.source_tokenizer, data.target_tokenizer  # noqa: B018
        data.setup("fit")
        data.setup("test")
        assert (data.loads, trained.trained) == (1, 1)

        class Later(Numbers):
            def load(self) -> Mapping[Split, Sequence[TextPair]]:
                return {**super().load(), "val": [TextPair("unheard", "of", 1)]}

        assert Later(Word()).source_tokenizer.encode(["unheard"]) == [[1]]


class TestLoaders:
    def test_every_pair_of_each_split(self) -> None:
        data = Numbers(Character(), max_tokens=200, num_workers=0)
        for load, expected in (
            (data.train_dataloader, pairs(60)),
            (data.test_dataloader, pairs(9, 80)),
            (data.predict_dataloader, pairs(9, 80)),
        ):
            batches: list[TextBatch] = list(load())
            got = [(s, t) for batch in batches for s, t in zip(batch.source_texts, batch.target_texts, strict=True)]
            assert sorted(got) == sorted((pair.source, pair.target) for pair in expected)
            assert all(max(batch.source.numel(), batch.target.numel()) <= 200 for batch in batches)
        validation = data.val_dataloader()
        assert isinstance(validation, DataLoader)
        lengths = [int(max(batch.source_lengths.max(), batch.target_lengths.max())) for batch in validation]
        assert lengths == sorted(lengths)

    def test_seed_decides_the_order(self) -> None:
        orders = [
            [batch.source_texts for batch in Numbers(Character(), max_tokens=200, seed=seed).train_dataloader()]
            for seed in (0, 0, 1)
        ]
        assert orders[0] == orders[1] != orders[2]

    def test_worker_processes_make_the_same_batches(self) -> None:
        [alone, helped] = [
            [batch.target.tolist() for batch in Numbers(Character(), max_tokens=200, num_workers=n).train_dataloader()]
            for n in (0, 1)
        ]
        assert alone == helped

    def test_a_missing_split(self) -> None:
        data = OnlyTraining(Character())
        assert data.val_dataloader() == []
        with pytest.raises(ValueError, match=r"OnlyTraining has no split 'test', only \['train'\]"):
            data.test_dataloader()

    def test_dropout_in_training_only(self) -> None:
        data = Numbers(BytePair(60, dropout=0.5), max_tokens=10_000)
        cuts = {tuple(batch.source.flatten().tolist()) for _ in range(5) for batch in data.train_dataloader()}
        assert len(cuts) > 1
        cuts = {tuple(batch.source.flatten().tolist()) for _ in range(5) for batch in data.test_dataloader()}
        assert len(cuts) == 1


class Least(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)
        self.texts: dict[str, list[str]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        self.texts["train"] += batch.source_texts
        return self.network(batch.source[:, :1].float()).mean()

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        self.texts["val"] += batch.source_texts

    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        self.texts["test"] += batch.source_texts

    def predict_step(self, batch: TextBatch, batch_idx: int) -> list[str]:
        return batch.source_texts

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.filterwarnings("ignore:.*couldn't infer the indices.*")
def test_a_trainer_accepts_it(tmp_path: Path) -> None:
    data, model = Numbers(Character(), max_tokens=200), Least()
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data)
    assert trainer.estimated_stepping_batches == trainer.global_step == 2 * len(data.train_dataloader())
    assert sorted(model.texts["train"]) == sorted(2 * [pair.source for pair in pairs(60)])
    assert sorted(model.texts["val"]) == sorted(2 * [pair.source for pair in pairs(12, 60)])
    trainer.test(model, data, verbose=False)
    assert sorted(model.texts["test"]) == sorted(pair.source for pair in pairs(9, 80))
    predicted = trainer.predict(model, data)
    assert predicted is not None
    assert sorted(text for texts in predicted for text in texts) == sorted(pair.source for pair in pairs(9, 80))


class TestFilters:
    def test_training_pairs_only(self) -> None:
        class Long(OnlyTraining):
            def load(self) -> Mapping[Split, Sequence[TextPair]]:
                train = super().load()["train"]
                return {"train": train, "val": train, "test": train}

        data = Long(Word(), filters=PairFilter(max_length=3))
        assert data.dataset("train").source_texts == ["a", "b b"]
        assert [len(data.dataset(split)) for split in ("val", "test")] == [3, 3]
        batch = data.dataset("train")[[0, 1]]
        assert data.source_tokenizer.decode(batch.source.tolist()) == ["a", "b b"]
        assert data.target_tokenizer.decode(batch.target.tolist()) == ["a a", "a b"]

    def test_the_summary_counts_each_pair_under_one_reason(self) -> None:
        data = OnlyTraining(Word(), filters=PairFilter(max_length=3, max_ratio=1.5))
        assert data.dataset("train").source_texts == ["b b"]
        assert data.summary().splitlines()[-2:] == [
            "train: 1 of 3 pairs removed, longer than 3 tokens",
            "train: 1 of 3 pairs removed, of a length ratio above 1.5",
        ]

    def test_all_removed(self) -> None:
        with pytest.raises(ValueError, match=r"filters=PairFilter\(max_length=1, .* remove all 3 training pairs"):
            OnlyTraining(Word(), filters=PairFilter(max_length=1)).setup()


class TestSummary:
    def test_figures(self) -> None:
        data = Numbers(Word(), Character(), max_tokens=100)
        title, *table = data.summary().splitlines()
        assert title.startswith("Numbers: 81 pairs; vocabularies of ")
        rows = {cells[0]: cells[1:] for line in table if len(cells := re.findall(r"[\w.,%]+(?: %)?", line)) == 8}
        assert list(rows) == ["split", "train", "val", "test"] or list(rows) == ["train", "val", "test"]
        train = list(data.train_dataloader())
        assert rows["train"][0] == "60"
        assert rows["train"][1] == str(len(train))
        assert rows["train"][2] == str(sum(int(batch.source_lengths.sum()) for batch in train))
        assert rows["train"][3] == f"{sum(int(batch.target_lengths.sum()) for batch in train):,}"
        assert rows["train"][4:6] == ["0.00 %", "0.00 %"]
        padded = sum(batch.source.numel() + batch.target.numel() for batch in train)
        real = sum(int(batch.source_lengths.sum() + batch.target_lengths.sum()) for batch in train)
        assert rows["train"][6] == f"{100 * (1 - real / padded):.1f} %"

    def test_unknown_fraction(self) -> None:
        class Strange(OnlyTraining):
            def load(self) -> Mapping[Split, Sequence[TextPair]]:
                return {**super().load(), "test": [TextPair("x a y", "a", 1), TextPair("z z z", "a", 2)]}

        last = Strange(Word()).summary().splitlines()[-2]
        assert "62.50 %" in last, "five of eight, ends of sentence included"

    def test_logged_once_when_training_begins(self, caplog: pytest.LogCaptureFixture) -> None:
        data = Numbers(Character())
        with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
            data.setup("fit")
            data.setup("test")
        assert caplog.text.count("Numbers: 81 pairs") == 1


class TestCache:
    def test_a_second_run_reads_the_cache(self, tmp_path: Path, trained: type[Counting]) -> None:
        runs = []
        for _ in range(2):
            data = Numbers(trained(), cache_dir=tmp_path)
            data.prepare_data()
            runs.append([batch.target.tolist() for batch in data.train_dataloader()])
        assert trained.trained == 1
        assert runs[0] == runs[1]
        assert runs[0] == [batch.target.tolist() for batch in Numbers(trained()).train_dataloader()]

    def test_token_ids_are_cached_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Numbers(Character(), cache_dir=tmp_path).setup()

        def fail(*_: object, **__: object) -> None:
            raise AssertionError("encoded again")

        monkeypatch.setattr("datamodules.tokenizers.tokenizer.SubwordTokenizer.encode", fail)
        Numbers(Character(), cache_dir=tmp_path).setup()
        with pytest.raises(AssertionError, match="encoded again"):
            Numbers(Character()).setup()

    def test_other_text_or_another_recipe_is_computed_again(self, tmp_path: Path, trained: type[Counting]) -> None:
        Numbers(trained(), cache_dir=tmp_path).setup()
        Numbers(trained(lower=True), cache_dir=tmp_path).setup()
        OnlyTraining(trained(), cache_dir=tmp_path).setup()
        assert trained.trained == 3

    def test_damaged_files_are_computed_again(self, tmp_path: Path) -> None:
        expected = [batch.target.tolist() for batch in Numbers(Character(), cache_dir=tmp_path).train_dataloader()]
        files = sorted(tmp_path.iterdir())
        assert len(files) == 7, "a tokenizer, and three splits of two sides"
        for path in files:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
        again = Numbers(Character(), cache_dir=tmp_path)
        assert [batch.target.tolist() for batch in again.train_dataloader()] == expected
        assert sorted(tmp_path.iterdir()) == files

    def test_a_tokenizer_of_a_missing_class_is_trained_again(self, tmp_path: Path) -> None:
        class Local(TokenizerTrainer):
            def train(self, texts: object) -> Tokenizer:
                class Gone(type(Character().train(["a"]))):  # type: ignore[misc]
                    pass

                return Gone(Character().train(["abc"]).definition)

        first, second = (Numbers(Local(), cache_dir=tmp_path).source_tokenizer for _ in range(2))
        assert type(first).__name__ == type(second).__name__ == "Gone"

    def test_without_a_folder_nothing_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        data = Numbers(Character())
        data.prepare_data()
        assert data.loads == 0
        data.setup()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"num_workers": -1}, r"num_workers must be 0 or more, got -1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Numbers(**arguments)  # type: ignore[arg-type]


def test_load_must_be_defined() -> None:
    with pytest.raises(NotImplementedError, match=r"TextDataModule must define load\(\)"):
        TextDataModule().setup()
