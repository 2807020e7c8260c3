"""Classifiers: losses, mixing, metrics, predictions on raw images, checkpoints."""

from __future__ import annotations

import csv
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from datamodules import ImageTransform, RawImage
from lightning_modules import Classifier, System, VisionTransformer, ViTClassifier

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier, MakeLoader, MakeTrainer

TRANSFORM = ImageTransform(8, channels=1)


class Pixels(nn.Module):
    """The smallest network: one linear layer, and dropout that depends on the mode."""

    def __init__(self, num_classes: int, image_size: tuple[int, int], in_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(in_channels * image_size[0] * image_size[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.drop(images.flatten(1)))


class Given(nn.Module):
    """Returns the first pixels as logits."""

    def __init__(self, num_classes: int, image_size: tuple[int, int], in_channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1)[:, : self.num_classes]


def classifier(**arguments: object) -> Classifier:
    settings: dict[str, object] = {"num_classes": 3, "transform": TRANSFORM, "network": Pixels, **arguments}
    return Classifier(**settings)  # type: ignore[arg-type]


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 8, 8), torch.arange(count) % 3


def loader_of(logits: Tensor, labels: Tensor, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    images = torch.zeros(len(logits), 64)
    images[:, : logits.size(1)] = logits
    return DataLoader(TensorDataset(images.view(-1, 1, 8, 8), labels), batch_size)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-Σ target · log softmax, in float64."""
    logits = logits.double()
    log_probabilities = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return -(targets.double() * log_probabilities).sum(dim=1).mean()


def one_hot(labels: Tensor) -> Tensor:
    return (labels[:, None] == torch.arange(3)).double()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_the_papers(smoothing: float) -> None:
    """Szegedy et al.: the target is (1 - ε) one-hot + ε / K."""
    model = classifier(label_smoothing=smoothing)
    images, labels = batch()
    expected = soft_cross_entropy(model(images), (1 - smoothing) * one_hot(labels) + smoothing / 3)
    torch.testing.assert_close(model.training_step((images, labels), 0).double(), expected, atol=1e-6, rtol=1e-6)


def noted_inputs(model: Classifier) -> list[Tensor]:
    seen: list[Tensor] = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixup_mixes_images_and_targets_alike(smoothing: float) -> None:
    """Zhang et al.: λ x_i + (1 - λ) x_j and λ y_i + (1 - λ) y_j, λ found here from the pixels."""
    model = classifier(mixup=0.8, label_smoothing=smoothing)
    seen = noted_inputs(model)
    images, labels = batch()
    loss = model.training_step((images, labels), 0)
    [mixed] = seen
    partner = images.roll(1, 0)
    fraction = ((mixed - partner) * (images - partner)).sum() / (images - partner).square().sum()
    assert 0 < fraction < 1
    torch.testing.assert_close(mixed, fraction * images + (1 - fraction) * partner)
    targets = fraction * one_hot(labels) + (1 - fraction) * one_hot(labels).roll(1, 0)
    expected = soft_cross_entropy(model.network(mixed), (1 - smoothing) * targets + smoothing / 3)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)


def test_cutmix_pastes_a_rectangle_and_weighs_by_its_area() -> None:
    """Yun et al.: λ is the fraction of the pixels that are kept."""
    for seed in range(10):
        torch.manual_seed(seed)
        model = classifier(cutmix=1.0)
        seen = noted_inputs(model)
        images, labels = batch()
        loss = model.training_step((images, labels), 0)
        [mixed] = seen
        pasted = (mixed != images)[0, 0]
        assert torch.equal(mixed, torch.where(pasted, images.roll(1, 0), images))
        rows, columns = pasted.any(dim=1), pasted.any(dim=0)
        assert torch.equal(pasted, rows[:, None] & columns)
        fraction = 1 - pasted.double().mean()
        targets = fraction * one_hot(labels) + (1 - fraction) * one_hot(labels).roll(1, 0)
        torch.testing.assert_close(loss.double(), soft_cross_entropy(model.network(mixed), targets), atol=1e-5, rtol=0)


def test_with_mixup_and_cutmix_each_batch_gets_one_at_random() -> None:
    model = classifier(mixup=1.0, cutmix=1.0)
    seen = noted_inputs(model)
    images, labels = batch()
    for _ in range(60):
        model.training_step((images, labels), 0)
    # Mixup changes every pixel, cutmix leaves each as it was in one of the two images.
    kinds = Counter(bool(((mixed == images) | (mixed == images.roll(1, 0))).all()) for mixed in seen)
    assert 15 < kinds[True] < 45


def test_nothing_is_mixed_in_validation() -> None:
    model = classifier(mixup=1.0, cutmix=1.0, label_smoothing=0.3)
    model.eval()
    seen = noted_inputs(model)
    images, labels = batch()
    model.predict_step((images, labels), 0)
    assert torch.equal(seen[0], images)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Guo et al., equation 3: the mean distance of accuracy and confidence over bins, in float64."""
    probabilities = logits.double().softmax(dim=1)
    confidence, best = probabilities.max(dim=1)
    error = 0.0
    for low in range(bins):
        inside = (confidence > low / bins) & (confidence <= (low + 1) / bins)
        if inside.any():
            accuracy = (best == labels)[inside].double().mean()
            error += inside.double().mean().item() * abs(accuracy - confidence[inside].mean()).item()
    return error


@pytest.mark.parametrize("batch_size", [4, 7, 50])
def test_metrics_are_those_of_all_images_whatever_the_batches(batch_size: int, make_trainer: MakeTrainer) -> None:
    logits, labels = 2 * torch.randn(50, 3), torch.randint(3, (50,))
    model = classifier(network=Given, label_smoothing=0.4)
    loader = loader_of(logits, labels, batch_size)
    trainer = make_trainer()
    [validated] = trainer.validate(model, loader, verbose=False)
    [tested] = trainer.test(model, loader, verbose=False)
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    loss = soft_cross_entropy(logits, one_hot(labels)).item()
    assert validated == pytest.approx({"val/accuracy": accuracy, "val/loss": loss}, abs=1e-6)
    error = calibration_error(logits, labels)
    expected = {"test/accuracy": accuracy, "test/loss": loss, "test/calibration_error": error}
    assert tested == pytest.approx(expected, abs=1e-5)
    # A second run starts from zero.
    [again] = trainer.test(model, loader, verbose=False)
    assert again == tested


def test_the_confusion_matrix_counts_and_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_trainer: MakeTrainer
) -> None:
    logits, labels = torch.randn(40, 3), torch.randint(3, (40,))
    model = classifier(network=Given, class_names=["ant", "bee", "cow"])
    counted: list[Tensor] = []
    plot = model.confusion_matrix.plot

    def noted(*arguments: object, **named: object) -> object:
        counted.append(model.confusion_matrix.compute())
        return plot(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(model.confusion_matrix, "plot", noted)
    trainer = make_trainer(CSVLogger(tmp_path, "confusion"))
    for _ in range(2):
        trainer.test(model, loader_of(logits, labels, 8), verbose=False)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for label, best in zip(labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
        expected[label, best] += 1
    assert [matrix.tolist() for matrix in counted] == [expected.tolist()] * 2
    [picture] = (tmp_path / "confusion" / "version_0" / "figures").glob("*.png")
    assert picture.name.startswith("test_confusion_matrix")
    with Image.open(picture) as image:
        assert min(image.size) > 200
    assert plt.get_fignums() == []


def test_the_loss_is_logged_by_step_and_by_epoch(
    tmp_path: Path, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    model = classifier(optimizer=partial(SGD, lr=0.0))
    logger = CSVLogger(tmp_path, "loss")
    make_trainer(logger, log_every_n_steps=1).fit(model, make_loader(16, 4), make_loader(8))
    with (tmp_path / "loss" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [float(row["train/loss_step"]) for row in rows if row["train/loss_step"]]
    [epoch] = [float(row["train/loss_epoch"]) for row in rows if row["train/loss_epoch"]]
    expected = [soft_cross_entropy(model(images), one_hot(labels)).item() for images, labels in make_loader(16, 4)]
    assert steps == pytest.approx(expected, abs=1e-5)
    assert epoch == pytest.approx(sum(expected) / 4, abs=1e-5)
    assert [row["val/accuracy"] for row in rows if row["val/accuracy"]]


def test_probabilities_are_predicted_with_labels_and_without(make_trainer: MakeTrainer) -> None:
    model = classifier()
    images, labels = batch(5)
    expected = model(images).detach().double().softmax(dim=1)
    with_labels = DataLoader(TensorDataset(images, labels), 2)
    without = DataLoader(cast(TensorDataset, images), 2)
    for loader in (with_labels, without):
        predictions = make_trainer().predict(model, cast(DataLoader[Tensor], loader))
        assert predictions is not None
        torch.testing.assert_close(torch.cat(cast(list[Tensor], predictions)).double(), expected, atol=1e-6, rtol=0)


def raw_images(folder: Path) -> dict[str, object]:
    grey = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    path = folder / "image.png"
    Image.fromarray(grey).save(path)
    tensor = torch.from_numpy(grey).unsqueeze(0)
    return {
        "pil": Image.fromarray(grey),
        "array": grey,
        "tensor": tensor,
        "floats": tensor / 255,
        "path": path,
        "text": str(path),
    }


@pytest.mark.parametrize("kind", ["pil", "array", "tensor", "floats", "path", "text"])
def test_classify_accepts_an_image_in_any_form(kind: str, tmp_path: Path) -> None:
    images = raw_images(tmp_path)
    model = classifier(transform=ImageTransform(8, channels=1, mean=0.3, std=0.4), class_names=["ant", "bee", "cow"])
    values = cast(Tensor, images["tensor"]).double() / 255
    probabilities = model(((values - 0.3) / 0.4).float().unsqueeze(0)).softmax(dim=1)[0]
    [guesses] = model.classify([images[kind]])  # type: ignore[list-item]
    assert [guess.probability for guess in guesses] == pytest.approx(sorted(probabilities.tolist(), reverse=True))
    assert {guess.label: guess.probability for guess in guesses} == pytest.approx(
        dict(zip(["ant", "bee", "cow"], probabilities.tolist(), strict=True))
    )


def test_classify_accepts_images_of_many_sizes_and_a_batch() -> None:
    model = classifier()
    images: list[RawImage] = [torch.rand(1, 8, 8), torch.rand(3, 20, 10), Image.new("RGB", (5, 30), "red")]
    batched = torch.stack([model.transform(image) for image in images])
    assert model.classify(images) == model.classify(batched)
    assert len(model.classify(images)) == 3


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_top_is_the_number_of_guesses(top: int, count: int) -> None:
    [guesses] = classifier().classify([torch.rand(1, 8, 8)], top=top)
    assert len(guesses) == count
    assert [guess.probability for guess in guesses] == sorted((g.probability for g in guesses), reverse=True)
    assert {guess.label for guess in guesses} <= {"0", "1", "2"}


@pytest.mark.parametrize("top", [0, -1])
def test_top_must_be_positive(top: int) -> None:
    with pytest.raises(ValueError, match=rf"top .*got {top}"):
        classifier().classify([torch.rand(1, 8, 8)], top=top)


def test_inputs_other_than_a_list_of_images_are_refused(tmp_path: Path) -> None:
    model = classifier()
    with pytest.raises(ValueError, match="images is empty"):
        model.classify([])
    for alone in ("image.png", tmp_path, Image.new("L", (8, 8)), np.zeros((8, 8), dtype=np.uint8)):
        with pytest.raises(TypeError, match=r"images .*got one "):
            model.classify(alone)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        model.classify([tmp_path / "nothing.png"])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png"):
        model.classify([tmp_path / "text.png"])


@pytest.mark.parametrize("training", [True, False])
def test_prediction_evaluates_and_keeps_the_mode_of_every_module(training: bool) -> None:
    model = classifier(network=partial(Pixels, dropout=0.5)).train(training)
    images, _ = batch()
    assert torch.equal(model.predict(images), model.predict(images))
    assert all(module.training == training for module in model.modules())
    frozen = cast(Pixels, model.network).drop.train(not training)
    model.predict(images)
    assert frozen.training == (not training)
    assert model.training == training


def test_the_mode_is_kept_after_an_error() -> None:
    model = classifier().train()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        model.predict(torch.randn(1, 1, 5, 5))
    assert model.training


def test_class_names() -> None:
    assert classifier().class_names == ["0", "1", "2"]
    assert classifier(class_names=("a", "b", "c")).class_names == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"class_names .*2 .*num_classes=3"):
        classifier(class_names=["a", "b"])


@pytest.mark.parametrize("num_classes", [1, 0, -2])
def test_there_must_be_two_classes(num_classes: int) -> None:
    with pytest.raises(ValueError, match=rf"num_classes .*got {num_classes}"):
        classifier(num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("label_smoothing", -0.1), ("label_smoothing", 1.0), ("mixup", -1.0), ("cutmix", -0.5), ("layer_decay", 0.0)],
)
def test_numbers_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*got {value}"):
        classifier(**{name: value})


def test_any_network_can_be_classified_with_and_its_checkpoint_loads(
    tmp_path: Path, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    model = classifier(network=partial(Pixels, dropout=0.25), class_names=["ant", "bee", "cow"])
    trainer = make_trainer()
    trainer.fit(model, make_loader(), make_loader())
    trainer.save_checkpoint(tmp_path / "pixels.ckpt", weights_only=False)
    loaded = System.load_from_checkpoint(tmp_path / "pixels.ckpt", weights_only=True)
    assert type(loaded) is Classifier
    assert cast(Pixels, loaded.network).drop.p == 0.25
    image = torch.rand(1, 9, 7)
    assert loaded.classify([image]) == model.classify([image])


def test_weight_averaging_saves_and_tests_the_averaged_weights(
    tmp_path: Path, make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    """w̄ ← d w̄ + (1 - d) w after each step, computed here from trainings without averaging."""
    decay, start = 0.5, make_classifier(optimizer=partial(SGD, lr=0.5))
    initial = {name: value.clone() for name, value in start.state_dict().items()}
    followed: list[dict[str, Tensor]] = []
    for steps in (1, 2, 3):
        model = make_classifier(optimizer=partial(SGD, lr=0.5))
        model.load_state_dict(initial)
        make_trainer(max_steps=steps).fit(model, make_loader(24))
        followed.append({name: value.clone() for name, value in model.state_dict().items()})
    averaged = dict(followed[0])
    for weights in followed[1:]:
        averaged = {name: decay * averaged[name] + (1 - decay) * value for name, value in weights.items()}
    start.load_state_dict(initial)
    callbacks = [EMAWeightAveraging(decay=decay), ModelCheckpoint(tmp_path, "averaged")]
    make_trainer(max_steps=3, enable_checkpointing=True, callbacks=callbacks).fit(start, make_loader(24), make_loader())
    loaded = ViTClassifier.load_from_checkpoint(tmp_path / "averaged.ckpt", weights_only=True)
    for name, value in loaded.named_parameters():
        torch.testing.assert_close(value.detach(), averaged[name], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(start.state_dict()[name], value.detach())
    assert not torch.equal(loaded.state_dict()["network.head.weight"], followed[-1]["network.head.weight"])


def test_the_network_is_usable_without_a_trainer(make_classifier: MakeClassifier) -> None:
    model = make_classifier()
    assert isinstance(model.network, VisionTransformer)
    images, labels = batch()
    F.cross_entropy(model.network(images), labels).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.network.parameters())
    assert torch.equal(model(images), model.network(images))
