import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules import (
    CaptionBatch,
    CaptionDataModule,
    CaptionedImages,
    Character,
    ImageTransform,
    RandomFlip,
    TensorImages,
    TokenBatchSampler,
    Word,
)
from datamodules.splits import SPLITS, Split

COUNTS: dict[Split, int] = {"train": 40, "val": 11, "test": 7}


def captions(number: int) -> list[str]:
    """One to three captions of different lengths that contain the number."""
    return [f"photo {number} " + "very " * ((number + extra) % 7) + "nice" for extra in range(number % 3 + 1)]


def captioned(split: Split, count: int, start: int) -> CaptionedImages:
    numbers = torch.arange(start, start + count)
    images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 6)
    names = [f"{split}-{number}.jpg" for number in numbers.tolist()]
    return CaptionedImages(TensorImages(images, numbers), names, [captions(number) for number in numbers.tolist()])


class Photos(CaptionDataModule):
    loads = 0

    def load(self) -> Mapping[Split, CaptionedImages]:
        self.loads += 1
        starts = (0, 100, 150)
        return {split: captioned(split, COUNTS[split], start) for split, start in zip(SPLITS, starts, strict=True)}


def photos(**arguments: Any) -> Photos:  # noqa: ANN401
    transform = ImageTransform((4, 6), channels=1, mean=0.0, std=1.0)
    return Photos(transform, **{"tokenizer": Word(), "batch_size": 8, **arguments})


def shown(loader: object) -> list[tuple[str, str]]:
    """Name and caption of each image, in the order of the loader."""
    assert isinstance(loader, DataLoader)
    made = photos().target_tokenizer
    return [pair for batch in loader for pair in zip(batch.names, made.decode(batch.captions.tolist()), strict=True)]


class TestLoaders:
    def test_training_shows_every_caption_once_with_its_image(self) -> None:
        expected = [(f"train-{number}.jpg", text) for number in range(40) for text in captions(number)]
        assert sorted(shown(photos().train_dataloader())) == sorted(expected)
        for batch in photos().train_dataloader():
            assert batch.images is not None
            for image, name, references in zip(batch.images, batch.names, batch.references, strict=True):
                number = int(re.findall(r"\d+", name)[0])
                assert round(image[0, 0, 0].item() * 255) == number
                assert references == captions(number)

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_evaluation_shows_every_image_once_with_all_its_captions(self, split: Split) -> None:
        data = photos()
        loader = data.val_dataloader() if split == "val" else data.test_dataloader()
        assert sorted(name for name, _ in shown(loader)) == sorted(data.dataset(split).names)
        assert isinstance(loader, DataLoader)
        longest, lengths = [], []
        for batch in loader:
            assert batch.references == [captions(int(re.findall(r"\d+", name)[0])) for name in batch.names]
            assert batch.caption_lengths.tolist() == [len(several[0].split()) + 2 for several in batch.references]
            lengths += batch.caption_lengths.tolist()
            longest.append(max(batch.caption_lengths.tolist()))
        assert longest == sorted(longest)
        assert sorted(lengths) == sorted(data.dataset(split).lengths[:, 1].tolist())

    def test_prediction_is_of_the_test_images(self) -> None:
        data = photos()
        assert shown(data.predict_dataloader()) == shown(data.test_dataloader())

    def test_batches_have_the_given_size(self) -> None:
        total = sum(len(captions(number)) for number in range(40))
        sizes = [len(batch.names) for batch in photos(batch_size=9).train_dataloader()]
        assert sorted(sizes) == [total % 9] + [9] * (total // 9)

    def test_captions_of_a_batch_have_similar_lengths(self) -> None:
        spans = [batch.caption_lengths.max() - batch.caption_lengths.min() for batch in photos().train_dataloader()]
        assert max(spans) <= 1

    def test_seed_decides_the_order_and_each_epoch_is_another(self) -> None:
        orders = [shown(photos(seed=seed).train_dataloader()) for seed in (0, 0, 1)]
        assert orders[0] == orders[1] != orders[2]
        loader = photos().train_dataloader()
        assert isinstance(loader.sampler, TokenBatchSampler)
        loader.sampler.set_epoch(1)
        assert shown(loader) != orders[0]
        assert sorted(shown(loader)) == sorted(orders[0])

    def test_worker_processes_make_the_same_batches(self) -> None:
        assert shown(photos(num_workers=1).train_dataloader()) == shown(photos().train_dataloader())

    def test_ranks_share_every_image_and_take_as_many_steps(self) -> None:
        data = photos(batch_size=3)
        data.trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
        for loader in (data.train_dataloader(), data.test_dataloader()):
            sampler = loader.sampler
            assert isinstance(sampler, TokenBatchSampler)
            assert sampler.num_replicas == 2
            dataset: Any = loader.dataset
            ranks = [list(TokenBatchSampler(sampler.lengths, sampler.budget, 2, rank)) for rank in (0, 1)]
            assert len(ranks[0]) == len(ranks[1])
            items = [item for batches in ranks for batch in batches for item in batch]
            assert sorted(items) == list(range(len(dataset)))

    def test_only_training_images_are_augmented(self) -> None:
        data = photos(augmentation=[torch.zeros_like, RandomFlip()])
        training = next(iter(data.train_dataloader())).images
        assert training is not None
        assert not training.any()
        test = next(iter(data.test_dataloader())).images
        assert test is not None
        assert test.all()

    def test_loaders_return_the_features_in_use(self) -> None:
        data = photos()
        for split in SPLITS:
            data.use_features(split, torch.arange(COUNTS[split]).reshape(-1, 1, 1, 1).expand(-1, 5, 2, 3))
        for batch in data.train_dataloader():
            assert batch.images is None
            assert batch.features is not None
            numbers = [int(name.removeprefix("train-").removesuffix(".jpg")) for name in batch.names]
            assert batch.features[:, 0, 0, 0].tolist() == numbers

    def test_existing_loaders_use_features_and_then_images_again(self) -> None:
        data = photos()
        loader = data.train_dataloader()
        data.use_features("train", torch.zeros(40, 5, 2, 3))
        assert {batch.images is None for batch in loader} == {True}
        assert next(iter(data.test_dataloader())).images is not None
        data.use_features("train", None)
        assert {batch.features is None for batch in loader} == {True}
        with pytest.raises(ValueError, match="features must be"):
            data.use_features("train", torch.zeros(3, 5, 2, 3))

    def test_training_references_are_all_captions_of_each_training_image(self) -> None:
        assert photos(max_length=3).training_references() == [captions(number) for number in range(40)]

    def test_batches_know_their_items(self) -> None:
        data = photos()
        for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
            dataset = data.dataset(split)  # type: ignore[arg-type]
            batches = list(loader)
            assert sorted(index for batch in batches for index in batch.indices) == list(range(len(dataset)))
            assert all(dataset[batch.indices].names == batch.names for batch in batches)


class TestTokenizer:
    def test_trained_on_training_captions_once_on_first_use(self) -> None:
        data = photos()
        assert data.loads == 0
        assert data.target_tokenizer is data.target_tokenizer
        data.setup("fit")
        data.setup("test")
        assert data.loads == 1
        assert data.target_tokenizer == Word().train(text for number in range(40) for text in captions(number))
        assert data.target_tokenizer.encode(["155"]) == [[data.target_tokenizer.unk_id]]

    def test_lower_case_words_that_occur_twice_by_default(self) -> None:
        class Loud(Photos):
            def load(self) -> Mapping[Split, CaptionedImages]:
                split = captioned("train", 3, 0)
                return {"train": split._replace(captions=[["A DOG"], ["a dog"], ["a cat"]])}

        made = Loud(ImageTransform(4)).target_tokenizer
        assert made.tokens(range(4, len(made))) == ["a", "dog"]


class TestMaxLength:
    def test_longer_training_captions_are_removed_and_counted(self) -> None:
        data = photos(max_length=5)
        every = [text for number in range(40) for text in captions(number)]
        kept = [text for text in every if len(text.split()) <= 5]
        assert sorted(text for _, text in shown(data.train_dataloader())) == sorted(kept)
        assert len(data.dataset("test")) == 7
        note = f"train: {len(every) - len(kept)} of {len(every)} captions removed, longer than 5 tokens"
        assert data.summary().splitlines()[-1] == note

    def test_no_note_if_all_are_short(self) -> None:
        data = photos(max_length=50)
        data.setup()
        assert data.notes == []


class Least(LightningModule):
    """Records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)
        self.seen: list[tuple[str, ...]] = []
        self.tested: list[str] = []

    def training_step(self, batch: CaptionBatch, batch_idx: int) -> Tensor:
        assert batch.images is not None
        self.seen.append(
            tuple(f"{name} {length}" for name, length in zip(batch.names, batch.caption_lengths, strict=True))
        )
        return self.network(batch.images[:, 0, 0, :1]).mean()

    def validation_step(self, batch: CaptionBatch, batch_idx: int) -> None:
        assert len(batch.references) == len(batch.captions)

    def test_step(self, batch: CaptionBatch, batch_idx: int) -> None:
        self.tested += batch.names

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(folder: Path, **arguments: Any) -> Trainer:  # noqa: ANN401
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{**quiet, "max_epochs": 2, **arguments})


@pytest.mark.filterwarnings("ignore:.*ckpt_path.*", "ignore:.*sanity.*")
def test_a_resumed_training_sees_exactly_the_remaining_batches(tmp_path: Path) -> None:
    whole_run = Least()
    trainer(tmp_path, enable_checkpointing=False).fit(whole_run, photos())
    keep = ModelCheckpoint(tmp_path, filename="cut", every_n_train_steps=4, save_top_k=-1)
    trainer(tmp_path, callbacks=[keep], max_steps=4).fit(Least(), photos())
    resumed = Least()
    again = trainer(tmp_path, enable_checkpointing=False)
    again.fit(resumed, photos(), ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert len(whole_run.seen) == 2 * len(photos().train_dataloader())
    assert resumed.seen == whole_run.seen[4:]
    again.test(resumed, photos(), verbose=False)
    assert sorted(resumed.tested) == sorted(photos().dataset("test").names)


class TestShown:
    def test_the_summary_counts_what_was_loaded(self) -> None:
        data = photos()
        data.notes = ["Skipped nothing."]
        title, *table = data.summary().splitlines()
        assert title == f"Photos: 58 images as 1x4x6; a vocabulary of {len(data.target_tokenizer)} tokens"
        rows = {cells[0]: cells[1:] for line in table if len(cells := re.findall(r"[\w.,%]+(?: %)?", line)) == 7}
        batches = list(data.train_dataloader())
        texts = [text for number in range(40) for text in captions(number)]
        tokens = sum(len(text.split()) + 2 for text in texts)
        padded = sum(batch.captions.numel() for batch in batches)
        padding = f"{100 * (1 - tokens / padded):.1f} %"
        assert rows["train"] == ["40", str(len(texts)), str(len(batches)), str(tokens), "0.00 %", padding]
        assert rows["test"][:2] == ["7", str(sum(len(captions(number)) for number in range(150, 157)))]
        tests = [text for number in range(150, 157) for text in captions(number)]
        tokens = sum(len(text.split()) + 2 for text in tests)
        assert rows["test"][4] == f"{100 * len(tests) / tokens:.2f} %", (
            "each contains a number that is not in the training captions"
        )
        assert table[-1] == "Skipped nothing."

    def test_logged_once_when_training_begins(self, caplog: pytest.LogCaptureFixture) -> None:
        data = photos()
        with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
            data.setup("fit")
            data.setup("test")
        assert caplog.text.count("Photos: 58 images") == 1

    def test_a_plot_shows_each_image_above_its_captions(self) -> None:
        data = photos()
        batch = data.dataset("val")[[4, 0, 7]]
        figure = data.plot(batch)
        assert isinstance(figure, Figure)
        drawn = [axis for axis in figure.axes if axis.images]
        under = [axis.get_xlabel().replace("\nvery", " very") for axis in drawn]  # one is wrapped
        assert under == ["\n".join(f"– {text}" for text in captions(number)) for number in (104, 100, 107)]
        for axis, number in zip(drawn, (104, 100, 107), strict=True):
            pixels = np.asarray(axis.images[0].get_array())
            np.testing.assert_allclose(pixels, np.full((4, 6), number / 255), atol=1e-6)
            assert axis.get_title() == ""

    def test_a_plot_shows_generated_captions(self) -> None:
        data = photos()
        figure = data.plot(data.dataset("val")[[4, 0, 7]], ["four", "zero", "seven"], limit=2)
        assert [axis.get_title() for axis in figure.axes if axis.images] == ["four", "zero"]

    def test_a_plot_of_features_reads_the_images(self) -> None:
        data = photos()
        data.use_features("val", torch.zeros(COUNTS["val"], 2, 1, 1))
        figure = data.plot(data.dataset("val")[[4]])
        np.testing.assert_allclose(
            np.asarray(figure.axes[0].images[0].get_array()), np.full((4, 6), 104 / 255), atol=1e-6
        )
        strange = data.dataset("val")[[4]]._replace(names=["elsewhere.jpg"])
        with pytest.raises(ValueError, match=r"batch: Photos has no image 'elsewhere\.jpg'"):
            data.plot(strange)

    @pytest.mark.filterwarnings("ignore:Glyph")
    def test_a_plot_shows_any_text(self, tmp_path: Path) -> None:
        data = photos()
        texts = ["$5 and $10", "$\\frac$", "word " * 1000, "개 한 마리", 'tab\there "quoted"', "字" * 500, "six"]
        batch = data.dataset("val")[[0]]._replace(references=[texts])
        figure = data.plot(batch, ["$x"])
        figure.savefig(tmp_path / "plot.png")
        lines = figure.axes[0].get_xlabel().split("\n")
        assert lines[:2] == ["– $5 and $10", "– $\\frac$"]
        assert len(lines) == 8, "the first lines of a long caption, and at most five captions"
        assert lines[5].endswith(" …")
        assert lines[-1] == '– tab   here "quoted"'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"max_length": 0}, "max_length must be 1 or more, got 0"),
        ({"num_workers": -1}, r"num_workers must be 0 or more, got -1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        photos(**arguments)


def test_a_missing_split() -> None:
    class OnlyTraining(Photos):
        def load(self) -> Mapping[Split, CaptionedImages]:
            return {"train": captioned("train", 5, 0)}

    data = OnlyTraining(ImageTransform(4), tokenizer=Character())
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"OnlyTraining has no split 'test', only \['train'\]"):
        data.test_dataloader()


def test_load_must_be_defined() -> None:
    with pytest.raises(NotImplementedError, match=r"CaptionDataModule must define load\(\)"):
        CaptionDataModule(ImageTransform(4)).setup()
