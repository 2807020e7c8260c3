"""Checkpoints that load by themselves, and training with Lightning."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from attention_blocks import MultiHeadAttention, RotaryPosition
from datamodules import ImageTransform
from lightning_modules import Classifier, System, VisionTransformer, ViTClassifier, WarmupCosine
from lightning_modules.system.system import adamw, read_checkpoint

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier, MakeLoader, MakeTrainer

TRANSFORM = ImageTransform(8, channels=1)
SMALL = partial(VisionTransformer, patches=4, dim=16, depth=1)


class Plain(ViTClassifier):
    """A subclass without a constructor."""


class WithExtra(ViTClassifier):
    """A subclass with a fixed network and an additional argument."""

    def __init__(self, num_classes: int, transform: ImageTransform, teacher: str = "nobody") -> None:
        super().__init__(num_classes, transform, SMALL)
        self.teacher = teacher


class Forwarding(ViTClassifier):
    """A subclass that forwards all arguments."""

    def __init__(self, extra: list[int], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.extra = extra


class ForwardingWithFixedNetwork(ViTClassifier):
    """A subclass that forwards all arguments but the network."""

    def __init__(self, extra: int, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(network=SMALL, **kwargs)
        self.extra = extra


class WithoutAnnotations(ViTClassifier):
    """A subclass whose constructor has no annotations."""

    def __init__(self, num_classes, transform):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN204
        super().__init__(num_classes, transform, SMALL)


class Sum(System):
    """A system other than a classifier: the sum of its inputs times a learned number."""

    def __init__(self, start: float = 1.0, optimizer: Callable[..., Optimizer] = adamw) -> None:
        super().__init__(optimizer=optimizer)
        self.factor = nn.Parameter(torch.tensor(start))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.factor * batch[0].sum()


class Foreign(LightningModule):
    """A LightningModule of another library."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.map = nn.Linear(width, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.map(batch[0].flatten(1)[:, : self.map.in_features]).mean()

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.1)


@pytest.fixture
def save(make_trainer: MakeTrainer, make_loader: MakeLoader, tmp_path: Path) -> Callable[[LightningModule], Path]:
    """Trains one step and saves."""

    def train_and_save(module: LightningModule) -> Path:
        trainer = make_trainer(max_steps=1)
        trainer.fit(module, make_loader())
        path = tmp_path / f"{type(module).__name__}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        return path

    return train_and_save


Save = Callable[[LightningModule], Path]


def optimizer_of(system: System) -> Optimizer:
    made = system.configure_optimizers()
    return cast(Optimizer, made["optimizer"] if isinstance(made, dict) else made)


def assert_same(ours: Classifier, theirs: Classifier) -> None:
    images = torch.randn(2, theirs.transform.channels, *theirs.transform.image_size)
    assert torch.equal(ours.predict(images), theirs.predict(images))


@pytest.mark.parametrize("through", [System, Classifier, ViTClassifier])
def test_any_base_loads_the_class_that_was_saved(
    through: type[System], save: Save, make_classifier: MakeClassifier
) -> None:
    model = make_classifier(class_names=["ant", "bee", "cow"])
    loaded = through.load_from_checkpoint(save(model), weights_only=True)
    assert type(loaded) is ViTClassifier
    assert loaded.class_names == ["ant", "bee", "cow"]
    assert loaded.transform == TRANSFORM
    assert_same(loaded, model)


def test_a_file_that_is_open_loads_too(save: Save, make_classifier: MakeClassifier) -> None:
    model = make_classifier()
    loaded = ViTClassifier.load_from_checkpoint(io.BytesIO(save(model).read_bytes()))
    assert_same(loaded, model)


def test_a_loaded_system_saves_and_loads_again(save: Save, make_classifier: MakeClassifier) -> None:
    first = ViTClassifier.load_from_checkpoint(save(make_classifier(mixup=0.5, optimizer=partial(SGD, lr=0.125))))
    second = ViTClassifier.load_from_checkpoint(save(first))
    assert_same(second, first)
    assert second.hparams == first.hparams
    assert optimizer_of(second).defaults == optimizer_of(first).defaults


@pytest.mark.parametrize(
    ("system", "attribute", "value"),
    [
        (partial(Plain, 3, TRANSFORM, SMALL), "class_names", ["0", "1", "2"]),
        (partial(WithExtra, 3, TRANSFORM, teacher="somebody"), "teacher", "somebody"),
        (partial(WithExtra, 3, TRANSFORM), "teacher", "nobody"),
        (partial(Forwarding, [1, 2], 3, TRANSFORM, SMALL), "extra", [1, 2]),
        (partial(Forwarding, [1], num_classes=3, transform=TRANSFORM, network=SMALL), "extra", [1]),
        (partial(ForwardingWithFixedNetwork, 5, num_classes=3, transform=TRANSFORM), "extra", 5),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_a_users_subclass_loads(
    system: Callable[[], ViTClassifier], attribute: str, value: object, own: bool, save: Save
) -> None:
    model = system()
    through = type(model) if own else System
    loaded = through.load_from_checkpoint(save(model), weights_only=True)
    assert type(loaded) is type(model)
    assert getattr(loaded, attribute) == value
    assert_same(loaded, model)


def test_a_class_defined_inside_a_function_loads_through_itself(save: Save) -> None:
    class Local(ViTClassifier):
        pass

    model = Local(3, TRANSFORM, SMALL)
    loaded = Local.load_from_checkpoint(save(model), weights_only=True)
    assert type(loaded) is Local
    assert_same(loaded, model)


def test_a_class_of_a_script_loads_where_the_script_is_imported(save: Save) -> None:
    path = save(WithExtra(3, TRANSFORM, teacher="somebody"))
    saved = torch.load(path, weights_only=True)
    saved["hyper_parameters"]["_class_path"] = "__main__.WithExtra"
    torch.save(saved, path)
    assert WithExtra.load_from_checkpoint(path).teacher == "somebody"
    with pytest.raises(ValueError, match=r"__main__\.WithExtra"):
        System.load_from_checkpoint(path)


def test_arguments_that_cannot_be_saved_are_refused_before_any_training(make_classifier: MakeClassifier) -> None:
    with pytest.raises(ValueError, match=r"^optimizer=.*lambda.*functools\.partial"):
        make_classifier(optimizer=lambda parameters: SGD(parameters, lr=0.1))
    with pytest.raises(ValueError, match=r"^network=.*lambda"):
        make_classifier(lambda *sizes: VisionTransformer(*sizes, patches=4))
    with pytest.raises(ValueError, match=r"transform of WithoutAnnotations .*annotat"):
        WithoutAnnotations(3, TRANSFORM)  # type: ignore[no-untyped-call]


def test_a_checkpoint_holds_tensors_and_plain_data_only(save: Save, make_classifier: MakeClassifier) -> None:
    model = make_classifier(
        partial(
            VisionTransformer,
            patches=(4, 4),
            dim=16,
            depth=1,
            attention=partial(MultiHeadAttention, num_heads=2, rotary=partial(RotaryPosition)),
        ),
        transform=ImageTransform(8, channels=1, mean=(0.25,)),
        optimizer=partial(AdamW, lr=1e-3, betas=(0.5, 0.75)),
        lr_scheduler=partial(WarmupCosine, warmup=0.5),
        label_smoothing=np.float64(0.125),
        class_names=tuple("abc"),
        layer_decay=0.5,
    )
    path = save(model)
    arguments = read_checkpoint(path)["hyper_parameters"]

    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (bool, int, float, str, type(None))

    assert plain(arguments)
    assert arguments["label_smoothing"] == 0.125
    with zipfile.ZipFile(path) as archive:
        [pickled] = [name for name in archive.namelist() if name.endswith("data.pkl")]
        names = {argument for _, argument, _ in _globals(archive.read(pickled))}
    assert names <= {
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch FloatStorage",
        "torch LongStorage",
        "collections OrderedDict",
        "lightning.fabric.utilities.data AttributeDict",
        "lightning.pytorch.utilities.parsing AttributeDict",
    }
    loaded = ViTClassifier.load_from_checkpoint(path, weights_only=True)
    assert_same(loaded, model)
    assert loaded.transform == model.transform


def _globals(data: bytes) -> list[tuple[object, object, object]]:
    return [(code, argument, at) for code, argument, at in pickletools.genops(data) if code.name == "GLOBAL"]


def test_keywords_replace_what_was_saved(save: Save, make_classifier: MakeClassifier) -> None:
    path = save(make_classifier(label_smoothing=0.25, class_names=["a", "b", "c"]))
    loaded = ViTClassifier.load_from_checkpoint(
        path, class_names=["x", "y", "z"], transform=ImageTransform(16, channels=1), optimizer=partial(SGD, lr=0.5)
    )
    assert loaded.class_names == ["x", "y", "z"]
    assert loaded.transform.image_size == (16, 16)
    assert loaded.network(torch.randn(1, 1, 16, 16)).shape == (1, 3)
    assert isinstance(optimizer_of(loaded), SGD)
    assert loaded.hparams["label_smoothing"] == 0.25
    again = ViTClassifier.load_from_checkpoint(save(loaded))
    assert again.class_names == ["x", "y", "z"]


def test_a_keyword_that_cannot_be_saved(save: Save, make_classifier: MakeClassifier) -> None:
    with pytest.raises(ValueError, match=r"^optimizer="):
        ViTClassifier.load_from_checkpoint(save(make_classifier()), optimizer=lambda parameters: SGD(parameters))


@pytest.mark.parametrize(
    ("optimizer", "kind", "expected"),
    [
        (partial(AdamW, lr=0.25, weight_decay=0.125, betas=(0.5, 0.75)), AdamW, {"betas": (0.5, 0.75), "lr": 0.25}),
        (partial(SGD, lr=0.25, momentum=0.5), SGD, {"momentum": 0.5, "weight_decay": 0.0, "lr": 0.25}),
        (AdamW, AdamW, {"lr": 1e-3, "weight_decay": 0.01}),
        (adamw, AdamW, {"lr": 1e-3, "weight_decay": 0.05}),
        (partial(AdamW, weight_decay=0.5), AdamW, {"lr": 1e-3, "weight_decay": 0.5}),
    ],
)
def test_the_optimiser_survives_as_it_was_given(
    optimizer: Callable[..., Optimizer],
    kind: type[Optimizer],
    expected: dict[str, object],
    save: Save,
    make_classifier: MakeClassifier,
) -> None:
    model = make_classifier(optimizer=optimizer)
    loaded = ViTClassifier.load_from_checkpoint(save(model))
    for system in (model, loaded):
        made = optimizer_of(system)
        assert type(made) is kind
        first = made.param_groups[0]
        assert {name: first[name] for name in expected} == expected
    ours, theirs = (optimizer_of(system).param_groups for system in (loaded, model))
    for group, other in zip(ours, theirs, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}


def test_the_schedule_survives_as_it_was_given(save: Save, make_classifier: MakeClassifier) -> None:
    model = make_classifier(lr_scheduler=partial(StepLR, step_size=7, gamma=0.5), layer_decay=0.75)
    loaded = ViTClassifier.load_from_checkpoint(save(model))
    made = cast(dict[str, dict[str, object]], loaded.configure_optimizers())
    schedule = made["lr_scheduler"]["scheduler"]
    assert isinstance(schedule, StepLR)
    assert (schedule.step_size, schedule.gamma) == (7, 0.5)
    rates = sorted({group["lr"] for group in optimizer_of(loaded).param_groups})
    assert rates == pytest.approx([1e-3 * 0.75**power for power in (3, 2, 1, 0)])


def test_a_system_of_another_kind_saves_and_loads(save: Save) -> None:
    model = Sum(start=2.5, optimizer=partial(SGD, lr=0.5))
    loaded = System.load_from_checkpoint(save(model), weights_only=True)
    assert type(loaded) is Sum
    assert torch.equal(loaded.factor, model.factor)


@pytest.mark.parametrize("through", [ViTClassifier, Classifier, Plain])
def test_another_systems_checkpoint_is_refused(through: type[System], save: Save) -> None:
    path = save(Sum())
    with pytest.raises(ValueError, match=rf"checkpoint_path: .*Sum\.ckpt' .* Sum, .* {through.__name__}"):
        through.load_from_checkpoint(path)


def test_a_base_classs_checkpoint_is_not_a_subclasss(save: Save, make_classifier: MakeClassifier) -> None:
    with pytest.raises(ValueError, match=r"ViTClassifier, .* WithExtra"):
        WithExtra.load_from_checkpoint(save(make_classifier()))


def test_a_class_that_cannot_be_imported(save: Save, make_classifier: MakeClassifier) -> None:
    path = save(make_classifier())
    saved = torch.load(path, weights_only=True)
    saved["hyper_parameters"]["_class_path"] = "elsewhere.Unknown"
    torch.save(saved, path)
    with pytest.raises(ValueError, match=r"elsewhere\.Unknown"):
        ViTClassifier.load_from_checkpoint(path)


def test_a_foreign_modules_checkpoint_is_refused(save: Save) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_path: .*Foreign\.ckpt'"):
        ViTClassifier.load_from_checkpoint(save(Foreign()))


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.99, 0.999])
def test_a_truncated_checkpoint_is_refused_at_any_length(
    fraction: float, save: Save, make_classifier: MakeClassifier, tmp_path: Path
) -> None:
    whole = save(make_classifier()).read_bytes()
    short = tmp_path / "short.ckpt"
    short.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(ValueError, match=r"checkpoint_path: .*short\.ckpt'.*truncated"):
        ViTClassifier.load_from_checkpoint(short)


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"PK\x03\x04", bytes(100), b"\x80\x02}q\x00.", pickle.dumps([1, 2])], ids=repr
)
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint_path: .*other\.ckpt'"):
        ViTClassifier.load_from_checkpoint(path)


@pytest.mark.parametrize("content", [{"network.head.weight": torch.zeros(1)}, [1, 2], {"state_dict": {}}], ids=str)
def test_a_file_of_tensors_without_a_checkpoint_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"checkpoint_path: .*weights\.pt'"):
        ViTClassifier.load_from_checkpoint(path)


def test_pickled_objects_are_read_only_when_trusted(save: Save, make_classifier: MakeClassifier) -> None:
    path = save(make_classifier())
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "extra": Path}, path)
    with pytest.raises(ValueError, match="weights_only=False"):
        ViTClassifier.load_from_checkpoint(path)
    assert isinstance(ViTClassifier.load_from_checkpoint(path, weights_only=False), ViTClassifier)


@pytest.mark.parametrize("name", ["nothing.ckpt", "."])
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoint_path: "):
        ViTClassifier.load_from_checkpoint(tmp_path / name)


def test_a_failed_load_does_not_affect_later_systems(
    save: Save, make_classifier: MakeClassifier, tmp_path: Path
) -> None:
    path = save(make_classifier())
    with pytest.raises(RuntimeError, match="size mismatch"):
        ViTClassifier.load_from_checkpoint(path, num_classes=5)
    fresh = make_classifier(num_classes=4)
    assert fresh.hparams["num_classes"] == 4


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.5])
def test_layer_decay_out_of_range(layer_decay: float, make_classifier: MakeClassifier) -> None:
    with pytest.raises(ValueError, match=rf"layer_decay .*got {layer_decay}"):
        make_classifier(layer_decay=layer_decay)


# Training.


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def assert_same_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 0.0) -> None:
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=tolerance, rtol=tolerance, msg=name)


def test_a_copy_has_its_own_weights_and_shares_the_optimisers_factory() -> None:
    """From the command line these hold parser, trainer and data, which must not be copied."""
    lock = threading.Lock()  # cannot be copied

    class Bound:
        def __init__(self) -> None:
            self.lock = lock

        def __call__(self, parameters: Any) -> Optimizer:  # noqa: ANN401
            return SGD(parameters, lr=0.1)

    system = Plain(3, ImageTransform(8), partial(VisionTransformer, patches=4, dim=16, depth=1))
    system._optimizer = Bound()
    copied = copy.deepcopy(system)
    assert copied._optimizer is system._optimizer
    torch.testing.assert_close(copied.state_dict(), system.state_dict(), rtol=0, atol=0)
    nn.init.zeros_(next(copied.parameters()))
    assert next(system.parameters()).any()
    images = torch.randn(2, 3, 8, 8)
    assert not torch.equal(copied.predict(images), system.predict(images))


class StopAfter(Callback):
    """Ends the training early."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_a_resumed_training_equals_one_without_interruption(
    tmp_path: Path, make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    settings: dict[str, Any] = {
        "optimizer": partial(AdamW, lr=0.01),
        "lr_scheduler": partial(WarmupCosine, warmup=0.25),
        "layer_decay": 0.75,
    }
    whole = make_classifier(**settings)
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    make_trainer(max_epochs=4).fit(whole, make_loader(24, 8))
    interrupted = make_classifier(**settings)
    interrupted.load_state_dict(start)
    first = make_trainer(max_epochs=4, callbacks=[StopAfter(2)])
    first.fit(interrupted, make_loader(24, 8))
    assert first.global_step == 6
    first.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    resumed = ViTClassifier.load_from_checkpoint(tmp_path / "half.ckpt")
    second = make_trainer(max_epochs=4)
    second.fit(resumed, make_loader(24, 8), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert second.global_step == 12
    assert_same_weights(weights_of(resumed), weights_of(whole))


def test_two_batches_accumulated_are_one_of_twice_the_size(
    make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    once, twice = (make_classifier(optimizer=partial(SGD, lr=0.5, momentum=0.5)) for _ in range(2))
    twice.load_state_dict(once.state_dict())
    make_trainer(max_epochs=2).fit(once, make_loader(24, 8))
    make_trainer(max_epochs=2, accumulate_grad_batches=2).fit(twice, make_loader(24, 4))
    assert_same_weights(weights_of(twice), weights_of(once), tolerance=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_lower_precision_trains_to_about_the_same(
    precision: str, make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    full, rough = (make_classifier(optimizer=partial(SGD, lr=0.5)) for _ in range(2))
    rough.load_state_dict(full.state_dict())
    before = parameters_to_vector(full.parameters()).detach()
    make_trainer().fit(full, make_loader(), make_loader())
    trainer = make_trainer(precision=precision)
    trainer.fit(rough, make_loader(), make_loader())
    [scores] = trainer.test(rough, make_loader(), verbose=False)
    assert 0 <= scores["test/accuracy"] <= 1
    # All weights together, after two steps: more steps, or the logits of one image, may magnify the rounding at will.
    wanted, found = (parameters_to_vector(model.float().parameters()).detach() for model in (full, rough))
    assert (found - wanted).norm() < 0.2 * (wanted - before).norm()


def test_any_loader_of_images_and_labels_feeds_it(make_classifier: MakeClassifier, make_trainer: MakeTrainer) -> None:
    rows = [(torch.randn(1, 8, 8), index % 3) for index in range(12)]
    model = make_classifier()
    before = weights_of(model)
    make_trainer().fit(model, DataLoader(cast(TensorDataset, rows), batch_size=4))
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(model).items())
