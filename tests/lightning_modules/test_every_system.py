"""Contracts of every system and every recipe: a new one is tested by existing."""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lightning_modules
from attention_blocks import CBAM, AdditiveAttention
from datamodules import DigitGridDataModule, ImageTransform, TextBatch, TextDataset, Word
from lightning_modules import (
    BeamSearch,
    Captioner,
    Classifier,
    ConvClassifier,
    DoublyStochastic,
    FixedVectorDecoder,
    LengthPenalty,
    Likelihood,
    LuongDecoder,
    Noam,
    RNNCaptioner,
    RNNCaptionNetwork,
    RNNSeq2Seq,
    RNNSizes,
    RNNTranslator,
    ScheduledSampling,
    SelfCritical,
    Seq2Seq,
    SmallResNet,
    System,
    TextGenerator,
    TransformerCaptioner,
    TransformerCaptionNetwork,
    TransformerSeq2Seq,
    TransformerTranslator,
    VisionTransformer,
    ViTClassifier,
    ViTFeatures,
    WarmupCosine,
)
from lightning_modules.backbones.vit import vit_attention
from lightning_modules.cli.recipe_files import find_recipe, recipe_names
from tests.marks import slow_except

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeTrainer, RunCommand


class Example(NamedTuple):
    """A tiny system of one class.

    Attributes:
        build: creates it in Python.
        words: create it on the command line, with data.
        loader: data for it, in Python.
        inputs: what its forward pass takes.
    """

    build: Callable[[], System]
    words: tuple[str, ...]
    loader: Callable[[], DataLoader[Any]]
    inputs: Callable[[], tuple[Tensor, ...]]


TINY_VIT = partial(VisionTransformer, patches=4, dim=16, depth=1, attention=vit_attention)
CLASSIFIER = partial(
    Classifier,
    3,
    ImageTransform(8, channels=1, mean=0.25),
    TINY_VIT,
    class_names=["ant", "bee", "cow"],
    label_smoothing=0.125,
    mixup=0.5,
    optimizer=partial(SGD, lr=0.25, momentum=0.5),
    lr_scheduler=partial(WarmupCosine, warmup=0.5),
    layer_decay=0.75,
)
CLASSIFIER_WORDS = (
    *("--data", "DigitsDataModule", "--data.batch_size", "8"),
    *("--model.network", "lightning_modules.VisionTransformer", "--model.network.init_args.patches", "4"),
    *("--model.network.init_args.dim", "16", "--model.network.init_args.depth", "1"),
    *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.25"),
    *("--model.lr_scheduler", "WarmupCosine", "--model.layer_decay", "0.75", "--model.mixup", "0.5"),
)


def digit_like() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 3), batch_size=8)


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 1, 8, 8),)


# Both sides have as many words as decimal and binary numbers have digits, so that one kind of input fits all.
DECIMAL, BINARY = Word().train(["0 1 2 3 4 5 6 7 8 9"]), Word().train(["zero one"])
TEXT_WORDS = (
    *("--data", "NumberBasesDataModule", "--data.limit", "300"),
    *("--data.train_size", "60", "--data.val_size", "9", "--data.test_size", "9", "--data.max_tokens", "99"),
    *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.25", "--model.objective", "Likelihood"),
    *("--model.objective.label_smoothing", "0.125"),
    *("--model.strategy", "BeamSearch", "--model.strategy.size", "2"),
)
RNN_WORDS = (
    *("--model.network", "lightning_modules.RNNTranslator", "--model.network.init_args.sizes.embedding_dim", "8"),
    *("--model.network.init_args.sizes.hidden_dim", "16", "--model.network.init_args.sizes.cell", "lstm"),
    *("--model.network.init_args.decoder", "lightning_modules.LuongDecoder"),
    *("--model.network.init_args.decoder.init_args.attention", "attention_blocks.AdditiveAttention"),
    *("--model.network.init_args.decoder.init_args.input_feeding", "false"),
)
TRANSFORMER_WORDS = (
    *("--model.network", "lightning_modules.TransformerTranslator", "--model.network.init_args.dim", "16"),
    *("--model.network.init_args.depth", "1", "--model.network.init_args.tie_embeddings", "none"),
    *("--model.lr_scheduler", "Noam", "--model.lr_scheduler.dim", "16", "--model.lr_scheduler.warmup_steps", "2"),
)
TEXT: dict[str, Any] = {
    "objective": Likelihood(label_smoothing=0.125),
    "strategy": BeamSearch(size=2, length_penalty=LengthPenalty(alpha=0.5)),
    "optimizer": partial(SGD, lr=0.25),
}
RNN = partial(RNNTranslator, sizes=RNNSizes(8, 16, "lstm"))


def numbers() -> DataLoader[TextBatch]:
    targets = ["one zero one", "one", "one one"]
    batch = TextDataset(["5", "1 0", "3 7 9 1"], targets, DECIMAL, BINARY)[range(3)]
    return DataLoader(cast(Dataset[TextBatch], [batch, batch]), batch_size=None, collate_fn=lambda batch: batch)


def sentences() -> tuple[Tensor, ...]:
    return torch.tensor([[4, 7, 3], [5, 3, 0]]), torch.tensor([3, 2]), torch.tensor([[2, 4, 5], [2, 5, 3]])


CONV_WORDS = (
    *("--data", "DigitsDataModule", "--data.batch_size", "8"),
    *("--model.network", "SmallResNet", "--model.network.init_args.widths", "[8]"),
    *("--model.network.init_args.depth", "1", "--model.attention", "CBAM", "--model.attention.reduction", "4"),
    *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.25"),
    *("--model.lr_scheduler", "WarmupCosine", "--model.layer_decay", "0.75", "--model.mixup", "0.5"),
)
TINY_RESNET = partial(SmallResNet, widths=(8,), depth=1)
CONV = partial(ConvClassifier, 3, CLASSIFIER.args[1], TINY_RESNET, partial(CBAM, reduction=4), **CLASSIFIER.keywords)

GRID_WORDS = (
    *("--data", "DigitGridDataModule", "--data.cell_size", "8", "--data.train_size", "24", "--data.batch_size", "8"),
    *("--data.val_size", "9", "--data.test_size", "9", "--model.max_length", "9"),
    *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.25", "--model.layer_decay", "0.75"),
    *("--model.strategy", "BeamSearch", "--model.strategy.size", "2"),
)
RNN_CAPTION_WORDS = (
    *("--model.network", "lightning_modules.RNNCaptionNetwork"),
    *("--model.network.init_args.backbone", "ResNetFeatures", "--model.network.init_args.backbone.widths", "[8]"),
    *("--model.network.init_args.backbone.depth", "1"),
    *("--model.network.init_args.attention", "attention_blocks.AdditiveAttention"),
    *("--model.network.init_args.sizes.embedding_dim", "8", "--model.network.init_args.sizes.hidden_dim", "16"),
    *("--model.network.init_args.sizes.cell", "lstm"),
    *("--model.objective", "DoublyStochastic", "--model.objective.weight", "0.5"),
)
TRANSFORMER_CAPTION_WORDS = (
    *("--model.network", "lightning_modules.TransformerCaptionNetwork", "--model.network.init_args.dim", "16"),
    *("--model.network.init_args.depth", "1", "--model.network.init_args.encoder_depth", "0"),
    *("--model.network.init_args.backbone", "lightning_modules.ViTFeatures"),
    *("--model.network.init_args.backbone.init_args.network", "lightning_modules.VisionTransformer"),
    *("--model.network.init_args.backbone.init_args.network.init_args.patches", "8"),
    *("--model.network.init_args.backbone.init_args.network.init_args.dim", "16"),
    *("--model.network.init_args.backbone.init_args.network.init_args.depth", "1"),
)
CAPTIONS: dict[str, Any] = {
    "max_length": 9,
    "strategy": BeamSearch(size=2),
    "optimizer": partial(SGD, lr=0.25),
    "layer_decay": 0.75,
}
CAPTION_TRANSFORMER = partial(
    TransformerCaptionNetwork, dim=16, depth=1, encoder_depth=0, backbone=partial(ViTFeatures, network=TINY_VIT)
)


@cache
def grids() -> DigitGridDataModule:
    return DigitGridDataModule(cell_size=8, train_size=24, val_size=9, test_size=9, batch_size=8)


def grid_loader() -> DataLoader[Any]:
    return grids().train_dataloader()


def grid_inputs() -> tuple[Tensor, ...]:
    return torch.randn(2, 1, 32, 32), torch.tensor([[2, 4, 5], [2, 5, 3]])


def captioner(cls: Callable[..., System], *arguments: Any, **more: Any) -> System:  # noqa: ANN401
    return cls(grids().target_tokenizer, grids().transform, *arguments, **more, **CAPTIONS)


EXAMPLES: dict[type[System], Example] = {
    RNNCaptioner: Example(
        partial(
            captioner,
            RNNCaptioner,
            partial(RNNCaptionNetwork, attention=AdditiveAttention, sizes=RNNSizes(8, 16, "lstm")),
            objective=DoublyStochastic(),
        ),
        (*GRID_WORDS, *RNN_CAPTION_WORDS),
        grid_loader,
        grid_inputs,
    ),
    TransformerCaptioner: Example(
        partial(captioner, TransformerCaptioner, CAPTION_TRANSFORMER),
        (*GRID_WORDS, *TRANSFORMER_CAPTION_WORDS),
        grid_loader,
        grid_inputs,
    ),
    Captioner: Example(
        partial(captioner, Captioner, CAPTION_TRANSFORMER),
        (*GRID_WORDS, *TRANSFORMER_CAPTION_WORDS),
        grid_loader,
        grid_inputs,
    ),
    ConvClassifier: Example(CONV, CONV_WORDS, digit_like, images),
    Classifier: Example(CLASSIFIER, CLASSIFIER_WORDS, digit_like, images),
    ViTClassifier: Example(
        partial(ViTClassifier, *CLASSIFIER.args, **CLASSIFIER.keywords), CLASSIFIER_WORDS, digit_like, images
    ),
    RNNSeq2Seq: Example(
        partial(
            RNNSeq2Seq,
            DECIMAL,
            BINARY,
            partial(RNN, decoder=LuongDecoder),
            **{**TEXT, "objective": ScheduledSampling(0.125, fraction=0.5)},
        ),
        (*TEXT_WORDS, *RNN_WORDS, "--model.objective", "ScheduledSampling", "--model.objective.fraction", "0.5"),
        numbers,
        sentences,
    ),
    TransformerSeq2Seq: Example(
        partial(
            TransformerSeq2Seq,
            DECIMAL,
            BINARY,
            partial(TransformerTranslator, dim=16, depth=1),
            lr_scheduler=partial(Noam, dim=16, warmup_steps=2),
            **TEXT,
        ),
        (*TEXT_WORDS, *TRANSFORMER_WORDS),
        numbers,
        sentences,
    ),
    Seq2Seq: Example(
        partial(Seq2Seq, DECIMAL, BINARY, partial(RNN, decoder=partial(FixedVectorDecoder, every_step=False)), **TEXT),
        (*TEXT_WORDS, *RNN_WORDS),
        numbers,
        sentences,
    ),
}


def systems() -> list[type[System]]:
    """Every public class that can be trained."""
    public = [getattr(lightning_modules, name) for name in lightning_modules.__all__]
    classes = [thing for thing in public if isinstance(thing, type) and issubclass(thing, System)]
    abstract = {System, TextGenerator}
    return [cls for cls in classes if cls not in abstract and cls.training_step is not LightningModule.training_step]


EVERY_SYSTEM = pytest.mark.parametrize("cls", systems(), ids=lambda cls: cls.__name__)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attention-blocks"])


def assert_loads_alone(path: Path, trained: LightningModule, inputs: tuple[Tensor, ...]) -> None:
    """The checkpoint needs nothing but its path, gives the class that was saved, and the same outputs."""
    for through in (System, type(trained)):
        loaded = through.load_from_checkpoint(path, weights_only=True)
        assert type(loaded) is type(trained)
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(*inputs), trained.eval()(*inputs))


def test_every_system_has_an_example() -> None:
    assert set(systems()) == set(EXAMPLES)
    assert systems()


@EVERY_SYSTEM
def test_it_trains_tests_predicts_and_loads_from_python(
    cls: type[System], tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    example = EXAMPLES[cls]
    system, loader = example.build(), example.loader()
    assert type(system) is cls
    before = {name: value.clone() for name, value in system.state_dict().items()}
    make_trainer(fast_dev_run=True).fit(system, loader, loader)
    trainer: Trainer = make_trainer(max_epochs=2, enable_checkpointing=True)
    trainer.fit(system, loader, loader)
    assert any(not torch.equal(value, before[name]) for name, value in system.state_dict().items())
    [metrics] = trainer.test(system, loader, verbose=False)
    assert all(np.isfinite(value) for value in metrics.values())
    predictions = trainer.predict(system, loader)
    assert predictions is not None
    assert len(predictions) == len(loader)
    [path] = tmp_path.rglob("*.ckpt")
    assert_loads_alone(path, system, example.inputs())


@EVERY_SYSTEM
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_it_trains_on_a_gpu_and_predicts_the_same_there(
    cls: type[System], precision: str, tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    example = EXAMPLES[cls]
    system, loader = example.build(), example.loader()
    trainer: Trainer = make_trainer(max_epochs=1, accelerator="gpu", precision=precision, enable_checkpointing=True)
    trainer.fit(system, loader, loader)
    [metrics] = trainer.test(system, loader, verbose=False)
    assert all(np.isfinite(value) for value in metrics.values())
    assert trainer.predict(system, loader)
    [path] = tmp_path.rglob("*.ckpt")
    here = System.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    there = System.load_from_checkpoint(path, map_location="cuda", weights_only=True).eval()
    inputs = example.inputs()
    with torch.inference_mode():
        wanted, found = here(*inputs), there(*(each.cuda() for each in inputs))
    torch.testing.assert_close(found.cpu(), wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("cls", slow_except("ViTClassifier", {cls.__name__: cls for cls in systems()}))
def test_it_trains_tests_predicts_and_loads_from_the_command_line(
    cls: type[System], tmp_path: Path, run_command: RunCommand
) -> None:
    example = EXAMPLES[cls]
    quick = (
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
        *("--trainer.limit_test_batches", "1", "--trainer.limit_predict_batches", "1"),
    )
    words = ("--model", cls.__name__, *example.words, *quick)
    fitted = run_command("fit", *words)
    assert fitted.cli is not None, fitted.err
    [path] = tmp_path.rglob("*.ckpt")
    assert_loads_alone(path, fitted.cli.model, example.inputs())
    for command in ("validate", "test", "predict"):
        ran = run_command(command, *words, "--ckpt_path", path)
        assert ran.cli is not None, ran.err
        assert type(ran.cli.model) is cls


# Recipes.

QUICK = (
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1"),
    *("--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"),
    *("--trainer.enable_model_summary", "false", "--trainer.check_val_every_n_epoch", "1"),
)
NUMBERS = (
    *("--data.limit", "300", "--data.train_size", "60", "--data.val_size", "9", "--data.test_size", "9"),
    *("--data.max_tokens", "99"),
)
GRIDS = ("--data.train_size", "32", "--data.val_size", "8", "--data.test_size", "8", "--data.batch_size", "8")
REAL_FASHION = Path("/usr/share/datasets/fashion-mnist")


def photos(folder: Path) -> None:
    """A folder of classes, as for the recipe."""
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            values = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{number}.png")


WITHOUT_ATTENTION = {"captioner_rnn_flickr8k"}
WHOLE = [name for name in recipe_names() if "data" in yaml.safe_load(find_recipe(name).read_text())]
LAID_OVER = [name for name in recipe_names() if name not in WHOLE]


def captioned_photos(folder: Path, size: int) -> tuple[str, ...]:
    """A folder of photos with a table of captions, as for the recipes."""
    photos(folder)
    rows = [
        f"{name}/{number}.png,one of the {name} {word},{split}"
        for name in ("cats", "dogs")
        for number, split in enumerate(["train"] * 6 + ["val", "val", "test", "test"])
        for word in ("sleeps", "sleeps in the sun")
    ]
    (folder / "captions.csv").write_text("\n".join(["image,caption,split", *rows]))
    return ("--data.transform.size", str(size), "--data.batch_size", "4")


def data_for(name: str) -> tuple[str, ...]:
    """Words that point a recipe to available data; skips the test if there is none."""
    recipe = yaml.safe_load(find_recipe(name).read_text())
    data = recipe["data"]
    arguments = data.get("init_args", {})
    match data["class_path"], arguments.get("name"):
        case "DigitsDataModule", _:
            return ("--data.batch_size", "8")
        case "ImageFolderDataModule", _:
            photos(Path(arguments["root"]))
            return ("--data.batch_size", "4", "--data.num_workers", "0")
        case "TorchvisionDataModule", "FashionMNIST" if REAL_FASHION.is_dir():
            return ("--data.batch_size", "8")
        case "NumberBasesDataModule", _:
            return NUMBERS
        case "DigitGridDataModule", _:
            return GRIDS
        case "ParallelTextDataModule", _:
            sentences = "Two dogs play.\nA cat sleeps in the sun.\nSnow!\nIt is late.\n"
            splits = arguments["pairs"]["init_args"]
            sources = [splits] if "path" in splits else [source["init_args"] for source in splits.values()]
            for pairs in sources:
                table = "path" in pairs
                for file in [pairs["path"]] if table else [pairs["source"], pairs["target"]]:
                    text = "".join(f"{line}\t{line}\n" for line in sentences.splitlines()) if table else sentences * 3
                    path = Path("text") / file
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
            held_out = ("--data.held_out.val", "0.25", "--data.held_out.test", "0.25")
            return ("--data.root", "text", "--data.max_tokens", "64", *held_out)
        case "CaptionFolderDataModule", _:
            return captioned_photos(Path(arguments["root"]), 2 * patch_of(recipe, 16))
        case kind, which:
            pytest.skip(f"the data of {kind} {which or ''} is not on this machine")


def small(recipe: dict[str, Any]) -> dict[str, Any]:
    """A long recipe of a large network with two steps and a small network."""
    trainer = recipe["trainer"]
    for arguments in nested_networks(recipe):
        arguments.pop("pretrained", None)  # tests download nothing
    if network_of(recipe).get("dim", 0) >= 512:
        network_of(recipe)["dim"] = 64
    if "max_steps" in trainer:
        trainer |= {"max_steps": 2, "val_check_interval": 1.0}
        network_of(recipe)["depth"] = 1
        for callback in trainer["callbacks"]:
            if "every_n_train_steps" in callback.get("init_args", {}):
                callback["init_args"] |= {"every_n_train_steps": 1, "filename": "0-{step}"}
    return recipe


def network_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a recipe's network, or of its backbone."""
    arguments = recipe["model"]["init_args"]
    return cast(dict[str, Any], (arguments.get("network") or arguments["backbone"])["init_args"])


def nested_networks(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Arguments of a recipe's network, of the backbone in it, and of the network in the backbone."""
    found = [network_of(recipe)]
    for part in ("backbone", "network"):
        found.append(found[-1].get(part, {}).get("init_args", {}))
    return found


def patch_of(recipe: dict[str, Any], otherwise: int) -> int:
    """Patch size of a ViT in a recipe, of which image sizes must be a multiple."""
    found = next((network["patches"] for network in nested_networks(recipe) if "patches" in network), otherwise)
    return found if isinstance(found, int) else int(found["init_args"]["patch_size"])


def recipe_of(name: str) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load(find_recipe(name).read_text())
    return small(recipe)


def config_of(name: str) -> str:
    """A recipe for ``--config``: itself, or a file here that is small enough for a test."""
    if (recipe := recipe_of(name)) == yaml.safe_load(find_recipe(name).read_text()):
        return name
    Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return f"{name}.yaml"


@pytest.mark.parametrize("name", slow_except("vit_digits", {name: name for name in WHOLE}))
def test_a_recipe_runs_on_its_data(name: str, tmp_path: Path, run_command: RunCommand) -> None:
    words = ("--config", config_of(name), *QUICK, *data_for(name))
    fitted = run_command("fit", *words)
    assert fitted.cli is not None, fitted.err
    version = tmp_path / "runs" / name / "version_0"
    assert (version / "loss_curve.png").is_file()
    *_, checkpoint = sorted(version.glob("checkpoints/[0-9]*.ckpt"))
    tested = run_command("test", *words, "--ckpt_path", checkpoint)
    assert tested.cli is not None, tested.err
    metrics = tested.cli.trainer.callback_metrics
    assert 0 <= metrics["test/accuracy" if "test/accuracy" in metrics else "test/token_accuracy"] <= 1
    assert_loads_alone(checkpoint, fitted.cli.model, fitted.cli.model.export_inputs()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", LAID_OVER)
def test_a_partial_recipe_runs_over_the_one_that_it_names(name: str, tmp_path: Path, run_command: RunCommand) -> None:
    [base] = re.findall(rf"--config (\w+) --config {name}", find_recipe(name).read_text())
    words = ("--config", config_of(base), *QUICK, *data_for(base))
    first = run_command("fit", *words)
    assert first.cli is not None, first.err
    *_, checkpoint = sorted(tmp_path.glob(f"runs/{base}/version_0/checkpoints/[0-9]*.ckpt"))
    second = run_command("fit", *words[:2], "--config", name, *words[2:], "--trainer.callbacks.checkpoint", checkpoint)
    assert second.cli is not None, second.err
    assert first.cli.model.objective == DoublyStochastic(label_smoothing=0.1)
    assert second.cli.model.objective == SelfCritical()
    assert "train/reward" in second.cli.trainer.callback_metrics


@pytest.mark.parametrize(
    "name", slow_except("vit_digits", {name: name for name in WHOLE if name not in WITHOUT_ATTENTION})
)
def test_a_recipe_draws_its_attention(name: str, tmp_path: Path, run_command: RunCommand) -> None:
    """On enlarged digits or on numbers, which are available on every machine."""
    recipe = recipe_of(name)
    callbacks = recipe["trainer"]["callbacks"]
    [maps] = [callback for callback in callbacks if callback["class_path"].endswith("AttentionMapLogger")]
    maps["init_args"] = {"every_n_epochs": 1}
    network = network_of(recipe)
    # One layer is enough: every layer and head is drawn alike.
    network |= {"depth": 1} if "depth" in network else {}
    words: tuple[str, ...] = ()
    if recipe["model"]["class_path"].endswith("Captioner"):
        recipe["data"] = {"class_path": "DigitGridDataModule"}
        words = (*GRIDS, "--data.cell_size", str(patch_of(recipe, 16)))
    elif recipe["model"]["class_path"].endswith("Classifier"):
        size = 2 * patch_of(recipe, 4)
        recipe["data"] = {"class_path": "DigitsDataModule", "init_args": {"image_size": size, "batch_size": 8}}
    else:
        # One base on both sides, so that embeddings can be shared.
        recipe["data"] = {"class_path": "NumberBasesDataModule", "init_args": {"target_base": 10}}
        words = NUMBERS
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(recipe))
    ran = run_command("fit", "--config", "other.yaml", *QUICK, *words)
    assert ran.cli is not None, ran.err
    [picture] = (tmp_path / "runs").rglob("figures/attention-*.png")
    with Image.open(picture) as image:
        assert min(image.size) > 100


def test_results_are_ordinary_tensors() -> None:
    """Tensors that a user may train on, not those of inference mode."""
    vit = cast(ViTClassifier, EXAMPLES[ViTClassifier].build())
    cnn = cast(ConvClassifier, EXAMPLES[ConvClassifier].build())
    [inputs] = images()
    maps = vit.attention_maps(inputs)
    for result in (vit.predict(inputs), *maps.layers, maps.rollout, *cnn.attention_gates(inputs).values()):
        assert not result.is_inference()
        scale = torch.ones((), requires_grad=True)
        (scale * result).sum().backward()  # type: ignore[no-untyped-call]
        assert scale.grad is not None
