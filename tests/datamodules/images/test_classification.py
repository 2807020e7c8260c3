import pickle
from collections.abc import Mapping
from typing import Any

import matplotlib.colors
import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

import datamodules.images.classification
from datamodules import ClassificationDataModule, HeldOut, ImageBatch, ImageSource, ImageTransform, TensorImages
from datamodules.images.classification import choose_transform
from datamodules.splits import SPLITS, Split

COUNTS = (40, 20, 11)


class Numbered(ClassificationDataModule):
    """Images of 2x3 pixels whose value is their index."""

    comes_with: tuple[Split, ...] = ("train",)

    @property
    def class_names(self) -> list[str]:
        return ["ant", "bee", "cow"]

    def load(self) -> Mapping[Split, ImageSource]:
        labels = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
        images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 3)
        return {split: TensorImages(images, labels) for split in self.comes_with}


def numbered(**arguments: Any) -> Numbered:  # noqa: ANN401
    return Numbered(ImageTransform((2, 3), channels=1, mean=0.0, std=1.0), **arguments)


def numbers(loader: DataLoader[ImageBatch] | list[DataLoader[ImageBatch]]) -> list[int]:
    assert isinstance(loader, DataLoader)
    return [round(image[0, 0, 0].item() * 255) for images, _ in loader for image in images]


class Mean(LightningModule):
    """Minimal model that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seen: list[str] = []

    def training_step(self, batch: ImageBatch) -> Tensor:
        self.seen.append("train")
        return batch[0].mean() * self.scale

    def validation_step(self, batch: ImageBatch) -> None:
        self.seen.append("val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: ClassificationDataModule) -> list[str]:
    model = Mean()
    Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(model, data)
    return model.seen


class TestSplit:
    def test_missing_splits_are_cut_without_overlap(self) -> None:
        data = numbered(held_out=HeldOut(0.25, 0.2))
        data.setup()
        used = [index for split in SPLITS for index in data.dataset(split).indices.tolist()]
        assert sorted(used) == list(range(sum(COUNTS)))
        np.testing.assert_array_equal(data.dataset("test").labels.bincount(), [8, 4, 2])
        np.testing.assert_array_equal(data.dataset("val").labels.bincount(), [8, 4, 2])  # a quarter of 32, 16, 9

    def test_existing_splits_are_kept(self) -> None:
        data = numbered()
        data.comes_with = ("train", "val", "test")
        data.setup()
        assert [len(data.dataset(split)) for split in data.comes_with] == [sum(COUNTS)] * 3

    def test_setup_cuts_once(self) -> None:
        data = numbered()
        data.setup("fit")
        before = data.dataset("train")
        data.setup("test")
        assert data.dataset("train") is before

    def test_a_copy_sent_to_another_process_has_the_same(self) -> None:
        fresh = pickle.loads(pickle.dumps(numbered()))  # noqa: S301
        used = numbered()
        used.setup()
        fresh.setup()
        sent = pickle.loads(pickle.dumps(used))  # noqa: S301
        assert numbers(fresh.test_dataloader()) == numbers(used.test_dataloader()) == numbers(sent.test_dataloader())


class TestLoaders:
    def test_training_is_shuffled_and_the_rest_in_order(self) -> None:
        data = numbered(batch_size=8)
        data.setup()
        drawn = numbers(data.train_dataloader())
        assert drawn != sorted(drawn)
        assert set(drawn) <= set(data.dataset("train").indices.tolist())
        for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
            assert numbers(loader) == data.dataset(split).indices.tolist()  # type: ignore[arg-type]
        assert numbers(data.predict_dataloader()) == numbers(data.test_dataloader())

    def test_batches_are_pairs_of_tensors(self) -> None:
        data = numbered(batch_size=8)
        data.setup()
        images, labels = next(iter(data.train_dataloader()))
        assert (images.shape, images.dtype) == ((8, 1, 2, 3), torch.float32)
        assert (labels.shape, labels.dtype) == ((8,), torch.int64)

    def test_a_batch_that_is_not_full_is_dropped_unless_it_is_the_only_one(self) -> None:
        several, single = numbered(batch_size=20), numbered(batch_size=1000)
        several.setup()
        single.setup()
        length = len(several.dataset("train"))
        assert length % 20 != 0
        assert [len(labels) for _, labels in several.train_dataloader()] == [20] * (length // 20)
        assert [len(labels) for _, labels in single.train_dataloader()] == [length]

    def test_every_process_gets_a_batch(self) -> None:
        data = numbered(batch_size=40)
        data.setup()
        assert data.train_dataloader().drop_last
        data.trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
        assert not data.train_dataloader().drop_last  # each process has 26 of 52 images, so no batch is full

    @pytest.mark.parametrize("cuda", [False, True])
    def test_memory_is_pinned_for_cuda_alone(self, cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        data = numbered()
        data.setup()
        assert data.train_dataloader().pin_memory is cuda

    def test_workers_are_persistent(self) -> None:
        data = numbered(num_workers=1)
        data.setup()
        loader = data.test_dataloader()
        assert loader.persistent_workers
        assert numbers(loader) == data.dataset("test").indices.tolist()

    def test_only_training_images_are_augmented(self) -> None:
        data = Numbered(ImageTransform((2, 3), channels=1, mean=0.0, std=1.0), [torch.zeros_like], batch_size=8)
        data.setup()
        assert set(numbers(data.train_dataloader())) == {0}
        assert len(set(numbers(data.val_dataloader()))) > 1
        assert len(set(numbers(data.test_dataloader()))) > 1

    def test_a_trainer_accepts_it(self) -> None:
        seen = fit(numbered(batch_size=10))
        assert seen.count("train") == 5  # of 58 - 6 images
        assert "val" in seen

    @pytest.mark.filterwarnings("ignore:Total length of `list`")
    def test_no_validation_without_a_fraction(self) -> None:
        data = numbered(held_out=HeldOut(test=0.2))
        assert set(fit(data)) == {"train"}
        assert data.val_dataloader() == []


class TestShown:
    def test_the_summary_counts_what_was_loaded(self) -> None:
        data = numbered(held_out=HeldOut(0.25, 0.2))
        data.setup()
        data.notes = ["Skipped nothing."]
        lines = [line.split() for line in data.summary().replace("│", " ").splitlines()]
        assert ["Numbered:", "71", "images", "of", "3", "classes", "as", "1x2x3"] in lines
        assert ["ant", "24", "8", "8"] in lines
        assert ["cow", "7", "2", "2"] in lines
        assert ["all", "43", "14", "14"] in lines
        assert lines[-1] == ["Skipped", "nothing."]

    def test_many_classes_are_summarised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datamodules.images.classification, "_CLASSES_SHOWN", 1)
        data = numbered(held_out=HeldOut())
        data.setup()
        text = data.summary().replace("│", " ")
        assert ["(2", "more)", "31"] in [line.split() for line in text.splitlines()]
        assert "bee" not in text

    def test_a_plot_shows_each_image_under_its_name(self) -> None:
        data = numbered()
        batch = (torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 1, 2, 3), torch.tensor([2, 0, 1, 1, 0]))
        figure = data.plot(batch)
        assert isinstance(figure, Figure)
        drawn = [axis for axis in figure.axes if axis.images]
        assert [axis.get_title() for axis in drawn] == ["cow", "ant", "bee", "bee", "ant"]
        for axis, value in zip(drawn, np.linspace(0, 1, 5), strict=True):
            np.testing.assert_allclose(np.asarray(axis.images[0].get_array()), np.full((2, 3), value), atol=1e-6)
            assert axis.images[0].get_clim() == (0.0, 1.0)

    def test_a_plot_inverts_the_normalisation(self) -> None:
        data = Numbered(ImageTransform(2, mean=(0.1, 0.2, 0.3), std=0.5))
        raw = torch.rand(1, 3, 2, 2)
        figure = data.plot((data.transform.normalize(raw), torch.tensor([0])))
        np.testing.assert_allclose(np.asarray(figure.axes[0].images[0].get_array()), raw[0].permute(1, 2, 0), atol=1e-6)

    def test_wrong_predictions_stand_out(self) -> None:
        batch = torch.zeros(3, 1, 2, 3), torch.tensor([0, 1, 2])
        figure = numbered().plot(batch, predictions=torch.tensor([0, 2, 1]))
        drawn = [axis for axis in figure.axes if axis.images]
        assert [axis.get_title() for axis in drawn] == ["ant", "cow, not bee", "bee, not cow"]
        colours = [matplotlib.colors.to_hex(axis.title.get_color()) for axis in drawn]
        assert colours == ["#000000", "#ff0000", "#ff0000"]

    def test_a_plot_is_limited(self) -> None:
        figure = numbered().plot((torch.zeros(9, 1, 2, 3), torch.zeros(9, dtype=torch.int64)), limit=4)
        assert sum(bool(axis.images) for axis in figure.axes) == 4


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("batch_size", 0), ("num_workers", -1), ("seed", -1)],
    )
    def test_arguments_out_of_range_are_named(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
            numbered(**{name: value})

    def test_a_missing_split(self) -> None:
        data = numbered(held_out=HeldOut(val=0.1))
        data.setup()
        with pytest.raises(ValueError, match=r"no split 'test', only \['train', 'val'\]"):
            data.test_dataloader()

    def test_image_size_and_transform_exclude_each_other(self) -> None:
        with pytest.raises(ValueError, match=r"image_size=8 and transform.size=9 both"):
            choose_transform(ImageTransform(7), 8, ImageTransform(9))

    def test_a_subclass_must_define_classes_and_load(self) -> None:
        bare = ClassificationDataModule(ImageTransform(4))
        with pytest.raises(NotImplementedError, match="must define class_names"):
            _ = bare.num_classes
        with pytest.raises(NotImplementedError, match="must define load"):
            bare.setup()


def test_choose_transform() -> None:
    own = ImageTransform(7, mean=0.1)
    assert choose_transform(own, None, None) == own
    assert choose_transform(own, (8, 9), None) == ImageTransform((8, 9), mean=0.1)
    assert choose_transform(own, None, ImageTransform(9)) == ImageTransform(9)
    assert numbered().image_size == (2, 3)
    assert numbered().num_classes == 3
