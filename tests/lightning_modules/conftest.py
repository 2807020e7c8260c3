"""What the tests of the systems share: a quiet Lightning, a tiny classifier, and the command line in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import matplotlib as mpl
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from attention_blocks import SelfAttention
from datamodules import ImageTransform
from lightning_modules import VisionTransformer, ViTClassifier
from lightning_modules.cli import SystemCLI, main

Loader = DataLoader[tuple[Tensor, ...]]
TINY = partial(VisionTransformer, patch_size=4, dim=16, depth=2, attention=partial(SelfAttention, num_heads=2))
# The recipe of the digits, made so small that a run takes half a second.
TINY_DIGITS = [
    "--config",
    "vit_digits",
    *("--trainer.accelerator", "cpu"),
    *("--trainer.max_epochs", "1"),
    *("--trainer.limit_train_batches", "2"),
    *("--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1"),
    *("--trainer.limit_predict_batches", "1"),
    *("--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
    *("--model.init_args.network.init_args.dim", "16"),
    *("--model.init_args.network.init_args.depth", "2"),
    *("--data.init_args.batch_size", "8"),
]


class MakeClassifier(Protocol):
    def __call__(self, network: Callable[..., nn.Module] = ..., **arguments: object) -> ViTClassifier: ...


class MakeTrainer(Protocol):
    def __call__(self, logger: Logger | bool = ..., **arguments: object) -> Trainer: ...


class MakeLoader(Protocol):
    def __call__(self, count: int = ..., batch_size: int = ..., *, shuffle: bool = ...) -> Loader: ...


class Ran(NamedTuple):
    """How a command ended.

    Attributes:
        cli: the finished command line, after one of Lightning's commands.
        code: the exit status; ``None`` where the command just returned.
        out: what it printed.
        err: what it printed as errors.
    """

    cli: SystemCLI | None
    code: int | str | None
    out: str
    err: str


RunCommand = Callable[..., Ran]


class Trained(NamedTuple):
    """What a tiny training by the command line left behind.

    Attributes:
        folder: where it was started.
        version: the folder with its pictures, configuration and metrics.
        checkpoint: the file.
        model: the system, as it was when the training ended.
        metrics: the last ones of the trainer.
    """

    folder: Path
    version: Path
    checkpoint: Path
    model: ViTClassifier
    metrics: Mapping[str, Tensor]


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    mpl.use("Agg")
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _same_draws() -> Iterator[None]:
    """Every test draws the same numbers, alone or in company, and leaves the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_classifier() -> MakeClassifier:
    """Makes a classifier of three classes of grey images of 8x8 pixels."""

    def make(network: Callable[..., nn.Module] = TINY, **arguments: object) -> ViTClassifier:
        settings: dict[str, object] = {"num_classes": 3, "transform": ImageTransform(8, channels=1), "network": network}
        return ViTClassifier(**{**settings, **arguments})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_loader() -> MakeLoader:
    """Makes a loader of random grey images of 8x8 pixels and their classes, always the same."""

    def make(count: int = 16, batch_size: int = 8, *, shuffle: bool = False) -> Loader:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(count) % 3), batch_size, shuffle=shuffle)

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """Makes a trainer on the CPU that writes nothing unless asked to."""

    def make(logger: Logger | bool = False, **arguments: object) -> Trainer:
        settings: dict[str, object] = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return Trainer(logger=logger, **{**settings, **arguments})  # type: ignore[arg-type]

    return make


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Runs the command line inside this process."""

    def run(*words: object) -> Ran:
        cli, code = None, None
        capsys.readouterr()
        try:
            cli = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        return Ran(cli, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _quiet: None) -> Trained:
    """A checkpoint that the command line trained on the digits."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["attention-blocks"])
        cli = main(["fit", *TINY_DIGITS])
    assert cli is not None
    assert isinstance(cli.model, ViTClassifier)
    [checkpoint] = folder.glob("runs/vit_digits/version_0/checkpoints/*.ckpt")
    return Trained(folder, checkpoint.parents[1], checkpoint, cli.model, dict(cli.trainer.callback_metrics))


@pytest.fixture
def tiny_digits() -> list[str]:
    """The words that make the recipe of the digits tiny."""
    return list(TINY_DIGITS)
