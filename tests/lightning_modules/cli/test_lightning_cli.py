from __future__ import annotations

import csv
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules import ClassificationDataModule, DigitsDataModule, ImageSource, ImageTransform, TensorImages
from datamodules.splits import Split
from lightning_modules import System, ViTClassifier, WarmupCosine
from lightning_modules.cli.recipe_files import recipe_names
from lightning_modules.system.plain import import_object
from tests.user_blocks import DistanceAttention

Refused = Callable[..., None]

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import RunCommand, Trained


class Stripes(ClassificationDataModule):
    """A user's own data: stripes across and down."""

    def __init__(self, batch_size: int = 8, height: int = 8) -> None:
        super().__init__(ImageTransform((height, 8), channels=1), batch_size=batch_size)

    @property
    def class_names(self) -> list[str]:
        return ["across", "down"]

    def load(self) -> Mapping[Split, ImageSource]:
        down = torch.tensor([0, 255], dtype=torch.uint8).repeat(20, 1, 8, 4)
        return {"train": TensorImages(torch.cat([down.mT, down]), torch.arange(2).repeat_interleave(20))}


class InOrder(LightningDataModule):
    """A user's own data on Lightning's base alone, without shuffling."""

    num_classes = 3
    class_names = ("ant", "bee", "cow")
    transform = ImageTransform(8, channels=1, mean=0.25)

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def _loader(self) -> DataLoader[tuple[Tensor, ...]]:
        images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(images, torch.arange(32) % 3), self.batch_size)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader()


class WithoutFacts(LightningDataModule):
    """A user's own data that says nothing about itself."""


class WithABug(LightningDataModule):
    """A user's own data whose constructor has a bug."""

    def __init__(self) -> None:
        super().__init__()
        raise ZeroDivisionError("a bug")


class WithoutItsFile(LightningDataModule):
    """A user's own data that says what its parts mean when they fail."""

    def __init__(self) -> None:
        super().__init__()
        try:
            int("a broken index")
        except ValueError as error:
            raise ValueError("index: it is broken; make it anew") from error


def test_fit_leaves_a_checkpoint_its_configuration_and_the_loss_curve(trained: Trained) -> None:
    assert (trained.version / "config.yaml").is_file()
    with Image.open(trained.version / "loss_curve.png") as image:
        assert min(image.size) > 100
    with (trained.version / "metrics.csv").open() as file:
        [*_, last] = csv.DictReader(file)
    assert last["train/loss_epoch"]
    loaded = ViTClassifier.load_from_checkpoint(trained.checkpoint, weights_only=True)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded.predict(images), trained.model.predict(images))
    assert loaded.class_names == [str(digit) for digit in range(10)]
    assert loaded.transform == DigitsDataModule().transform


def test_the_saved_configuration_trains_the_same_again(
    tmp_path: Path, run_command: RunCommand, trained: Trained
) -> None:
    ran = run_command("fit", "--config", trained.version / "config.yaml")
    assert ran.cli is not None
    for name, value in trained.model.state_dict().items():
        assert torch.equal(ran.cli.model.state_dict()[name], value), name
    assert (tmp_path / "runs" / "vit_digits" / "version_0" / "loss_curve.png").is_file()


@pytest.mark.parametrize(("command", "metric"), [("validate", "val/accuracy"), ("test", "test/calibration_error")])
def test_a_checkpoint_is_evaluated(
    command: str, metric: str, run_command: RunCommand, trained: Trained, tiny_digits: list[str]
) -> None:
    ran = run_command(command, *tiny_digits, "--ckpt_path", trained.checkpoint)
    assert ran.cli is not None
    metrics = ran.cli.trainer.callback_metrics
    assert metric in metrics
    assert metric in ran.out
    if command == "validate":
        torch.testing.assert_close(metrics["val/loss"], trained.metrics["val/loss"])


def test_predictions_come_from_the_checkpoint(
    run_command: RunCommand, trained: Trained, tiny_digits: list[str]
) -> None:
    ran = run_command("predict", *tiny_digits, "--ckpt_path", trained.checkpoint)
    assert ran.cli is not None
    images, _ = next(iter(ran.cli.datamodule.predict_dataloader()))
    expected = trained.model.predict(images).softmax(dim=1)
    torch.testing.assert_close(ran.cli.model.predict(images).softmax(dim=1), expected)


def test_what_the_checkpoint_was_built_with_comes_before_the_recipe(
    run_command: RunCommand, trained: Trained, tiny_digits: list[str]
) -> None:
    words = [word if word != "16" else "64" for word in tiny_digits]  # dim
    assert words != tiny_digits
    ran = run_command("validate", *words, "--ckpt_path", trained.checkpoint)
    assert ran.cli is not None
    assert ran.cli.model.network.head.in_features == 16


def test_a_training_goes_on_from_its_checkpoint(
    run_command: RunCommand, trained: Trained, tiny_digits: list[str]
) -> None:
    ran = run_command("fit", *tiny_digits, "--ckpt_path", trained.checkpoint, "--trainer.max_epochs", "3")
    assert ran.cli is not None
    assert ran.cli.trainer.global_step == 6
    assert ran.cli.trainer.current_epoch == 3
    schedule = ran.cli.trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(schedule, WarmupCosine)
    assert (schedule.last_epoch, schedule.total_steps) == (6, 6)


SMALL_VIT = """
trainer: {{accelerator: cpu, max_epochs: 1, logger: false, enable_progress_bar: false, enable_model_summary: false}}
model:
  class_path: ViTClassifier
  init_args:
    network:
      class_path: VisionTransformer
      init_args: {{patches: 4, dim: 16, depth: 1, attention: {attention}}}
data: {data}
"""


def test_a_users_own_data_and_attention_are_named_by_import_path(tmp_path: Path, run_command: RunCommand) -> None:
    attention = "{class_path: tests.user_blocks.DistanceAttention, init_args: {sharpness: 0.5}}"
    data = f"{{class_path: {__name__}.Stripes, init_args: {{height: 16}}}}"
    (tmp_path / "mine.yaml").write_text(SMALL_VIT.format(attention=attention, data=data))
    ran = run_command("fit", "--config", "mine.yaml")
    assert ran.cli is not None
    [checkpoint] = tmp_path.rglob("*.ckpt")
    loaded = System.load_from_checkpoint(checkpoint, weights_only=True)
    assert isinstance(loaded, ViTClassifier)
    assert loaded.class_names == ["across", "down"]
    assert loaded.transform.image_size == (16, 8)
    assert isinstance(loaded.network.encoder.layers[0].attention, DistanceAttention)
    images = torch.randn(2, 1, 16, 8)
    assert torch.equal(loaded.predict(images), ran.cli.model.predict(images))


def test_data_on_lightnings_base_alone_will_do(tmp_path: Path, run_command: RunCommand) -> None:
    data = f"{{class_path: {__name__}.InOrder}}"
    (tmp_path / "mine.yaml").write_text(SMALL_VIT.format(attention="SelfAttention", data=data).replace("16", "64"))
    ran = run_command("fit", "--config", "mine.yaml")
    assert ran.cli is not None
    assert ran.cli.model.class_names == ["ant", "bee", "cow"]
    assert ran.cli.model.transform == InOrder.transform


def test_training_features_are_flags(run_command: RunCommand, tiny_digits: list[str]) -> None:
    ran = run_command(
        "fit",
        *tiny_digits,
        *("--trainer.precision", "bf16-mixed"),
        *("--trainer.accumulate_grad_batches", "2"),
        *("--trainer.gradient_clip_val", "1.0"),
        *("--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"),
        *("--model.init_args.mixup", "0.5"),
        *("--model.init_args.cutmix", "0.5"),
        *("--model.init_args.layer_decay", "0.75"),
        *("--model.init_args.network.init_args.drop_path", "0.2"),
        *("--model.init_args.network.init_args.num_registers", "2"),
        *("--model.init_args.optimizer", "SGD"),
        *("--model.init_args.optimizer.init_args.lr", "0.5"),
    )
    assert ran.cli is not None
    assert ran.cli.trainer.precision == "bf16-mixed"
    assert ran.cli.trainer.global_step == 1
    optimizer = ran.cli.trainer.optimizers[0]
    assert type(optimizer).__name__ == "SGD"
    [checkpoint] = Path("runs").rglob("*.ckpt")
    loaded = ViTClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    assert loaded.network.num_prefix_tokens == 3


def test_the_configuration_can_be_printed_and_used(
    tmp_path: Path, run_command: RunCommand, tiny_digits: list[str]
) -> None:
    ran = run_command("fit", *tiny_digits, "--print_config")
    assert ran.code == 0
    printed = yaml.safe_load(ran.out)
    assert printed["model"]["init_args"]["network"]["init_args"]["dim"] == 16
    assert not printed["model"]["init_args"].keys() & {"num_classes", "class_names", "transform"}
    (tmp_path / "printed.yaml").write_text(ran.out)
    again = run_command("fit", "--config", "printed.yaml", "--trainer.fast_dev_run", "true")
    assert again.cli is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["printed.yaml"]


@pytest.mark.parametrize("words", [["fit", "--config", "vit_digit"], ["test", "--config=vit_digit"]])
def test_an_unknown_recipe(words: list[str], run_command: RunCommand, refused: Refused) -> None:
    ran = run_command(*words)
    refused(ran, "no recipe 'vit_digit'; did you mean vit_digits")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.network.init_args.patches", "3"], "patch height 3 does not divide image height 8; resize to 6"),
        (["--model.network.init_args.patches", "16"], "image height 8 is smaller than a patch of 16; choose"),
        (["--model.label_smoothing", "1.5"], "label_smoothing must lie in [0, 1), got 1.5"),
        (["--model.network.init_args.attention.init_args.num_heads", "3"], "num_heads (3) must divide query_dim (16)"),
        (["--data.batch_size", "0"], "batch_size must be 1 or more, got 0"),
        (["--data", "ImageFolderDataModule", "--data.root", "/no/such/folder"], "root='/no/such/folder': there is no"),
        (["--data", "ImageFolderDataModule", "--data.root", "."], "root='.' has no class folders"),
        (["--data", f"{__name__}.WithoutFacts"], "num_classes must be 2 or more"),
        (["--data", f"{__name__}.WithoutItsFile"], "index: it is broken; make it anew"),
        (["--ckpt_path", "nothing.ckpt"], "checkpoint_path: there is no file 'nothing.ckpt'"),
    ],
)
def test_what_our_constructors_refuse_is_one_line(
    words: list[str], message: str, run_command: RunCommand, tiny_digits: list[str], refused: Refused
) -> None:
    ran = run_command("fit", *tiny_digits, *words)
    refused(ran, f"attention-blocks: error: {message}")


def test_one_class_only(tmp_path: Path, run_command: RunCommand, tiny_digits: list[str], refused: Refused) -> None:
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "cats" / "1.png")
    ran = run_command("fit", *tiny_digits, "--data", "ImageFolderDataModule", "--data.root", tmp_path / "photos")
    refused(ran, "root=", "'cats'")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_truncated_checkpoint(
    command: str,
    tmp_path: Path,
    run_command: RunCommand,
    trained: Trained,
    tiny_digits: list[str],
    refused: Refused,
) -> None:
    whole = trained.checkpoint.read_bytes()
    (tmp_path / "short.ckpt").write_bytes(whole[: len(whole) // 2])
    ran = run_command(command, *tiny_digits, "--ckpt_path", "short.ckpt")
    refused(ran, "checkpoint_path: 'short.ckpt' cannot be read as a checkpoint")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("fit", ["--config", "--data.root", "--trainer.max_epochs", "--model.lr", "--device"]),
        ("predict", ["--config", "--ckpt_path", "--data.root", "--device", "--out"]),
    ],
)
def test_help_ends_with_the_options_that_are_set_most_often(
    command: str, options: list[str], run_command: RunCommand
) -> None:
    ran = run_command(command, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: attention-blocks {command} --config RECIPE")
    end = [line.split()[0] for line in ran.out.splitlines()[-10:] if line.startswith("  --")]
    assert end == options


VIT = ("fit", "--config", "vit_digits")


@pytest.mark.parametrize(
    ("words", "key", "hint"),
    [
        (["fit"], "data, model", "--config RECIPE"),
        (["fit", "--config"], "--config", ""),
        (["fit", "--confg", "vit_digits"], "--confg", "--config"),
        ([*VIT, "--trainer.max_epoch", "3"], "--trainer.max_epoch;", "--trainer.max_epochs"),
        ([*VIT, "--trainer.max_epochs", "many"], "--trainer.max_epochs", "expected int or null, got 'many'"),
        ([*VIT, "--trainer.precision", "half"], "--trainer.precision", "'16-mixed'"),
        ([*VIT, "--model.init_args.lrr", "3"], "ViTClassifier has no argument 'lrr'", "did you mean lr?"),
        ([*VIT, "--model.network.dpth", "3"], "VisionTransformer has no argument 'dpth'", "depth"),
        ([*VIT, "--model.network.attention.num_hads", "3"], "SelfAttention has no argument 'num_hads'", "num_heads"),
        ([*VIT, "--model.optimizer.lrr", "3"], "AdamW has no argument 'lrr'", "did you mean lr?"),
        ([*VIT, "--data.batch_sizes", "3"], "DigitsDataModule has no argument 'batch_sizes'", "batch_size"),
        ([*VIT, "--model", "VitClassifier"], "--model: there is no class or function 'VitClassifier'", "ViTClassifier"),
        ([*VIT, "--model.network", "VisionTransfomer"], "--model.network: ", "VisionTransformer"),
        ([*VIT, "--model.network", "nothing.Network"], "--model.network: ", "no module 'nothing'"),
        ([*VIT, "--trainer.callbacks+", "ErlyStopping"], "--trainer.callbacks: ", "EarlyStopping"),
        ([*VIT, "--data", "torch.nn.Linear"], "--data: ", "subclass of LightningDataModule"),
        ([*VIT, "--config", "wrong.yaml"], "label_smothing", "label_smoothing"),
        ([*VIT, "--config", "trainer.yaml"], "trainer.max_epoch'", "trainer.max_epochs"),
        ([*VIT, "--config", "class.yaml"], "'ViTClassifer'", "ViTClassifier"),
        ([*VIT, "--config", "section.yaml"], "modl", "model"),
        ([*VIT, "--config", "syntax.yaml"], "config", "line 2"),
    ],
)
def test_a_wrong_word_is_named_with_its_near_matches(
    words: list[str], key: str, hint: str, tmp_path: Path, run_command: RunCommand, refused: Refused
) -> None:
    for name, text in {
        "wrong": "model: {init_args: {label_smothing: 0.1}}",
        "trainer": "trainer: {max_epoch: 3}",
        "class": "model: {class_path: lightning_modules.ViTClassifer}",
        "section": "modl: {class_path: lightning_modules.ViTClassifier}",
        "syntax": "trainer: [",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    refused(run_command(*words), key, hint)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_best_checkpoint_of_no_run_is_refused(
    command: str, run_command: RunCommand, tiny_digits: list[str], refused: Refused
) -> None:
    refused(run_command(command, *tiny_digits, "--ckpt_path", "best"), "ckpt_path: 'best'", ".ckpt")


def test_early_stopping_stops_or_names_the_metrics_that_there_are(
    run_command: RunCommand, tiny_digits: list[str]
) -> None:
    words = ("--trainer.callbacks+", "EarlyStopping", "--trainer.max_epochs", "3")
    ran = run_command("fit", *tiny_digits, *words, "--trainer.callbacks.monitor", "val/los")
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("attention-blocks: error: ")
    for word in ("`val/los`", "`val/loss`"):
        assert word in ran.err.splitlines()[-1]
    stopping = ("--trainer.callbacks.monitor", "val/loss", "--trainer.callbacks.patience", "1")
    ran = run_command("fit", *tiny_digits, *words, *stopping, "--trainer.callbacks.min_delta", "100.0")
    assert ran.cli is not None
    assert ran.cli.trainer.current_epoch == 2


def test_the_learning_rate_is_one_option(run_command: RunCommand, tiny_digits: list[str]) -> None:
    ran = run_command("fit", *tiny_digits, "--model.lr", "0.25", "--model.lr_scheduler", "null")
    assert ran.cli is not None
    assert {group["lr"] for group in ran.cli.trainer.optimizers[0].param_groups} == {0.25}


def test_the_learning_rate_finder_sets_it(run_command: RunCommand, tiny_digits: list[str]) -> None:
    finder = ("--trainer.callbacks+", "LearningRateFinder", "--trainer.callbacks.num_training_steps", "30")
    never = ("--trainer.callbacks.early_stop_threshold", "null", "--trainer.limit_train_batches", "30")
    ran = run_command("fit", *tiny_digits, *finder, *never)
    assert ran.cli is not None
    assert ran.cli.model.lr is not None
    schedule = ran.cli.trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(schedule, WarmupCosine)
    assert schedule.base_lrs == pytest.approx([ran.cli.model.lr] * len(schedule.base_lrs))
    assert schedule.last_epoch == ran.cli.trainer.global_step == 30


def test_a_constructors_bug_keeps_its_traceback(run_command: RunCommand, tiny_digits: list[str]) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_command("fit", *tiny_digits, "--data", f"{__name__}.WithABug")


def test_one_device_flag_for_all(run_command: RunCommand, tiny_digits: list[str], refused: Refused) -> None:
    words = [word for word in tiny_digits if word not in ("--trainer.accelerator", "cpu")]
    ran = run_command("fit", *words, "--device", "cpu")
    assert ran.cli is not None
    assert ran.cli.trainer.strategy.root_device == torch.device("cpu")
    assert ran.cli.trainer.num_devices == 1
    refused(run_command("test", *words, "--device", "cuda:99"), "device", "'cuda:99'")


def test_predictions_are_written_and_their_file_is_named(
    tmp_path: Path, run_command: RunCommand, trained: Trained, tiny_digits: list[str]
) -> None:
    ran = run_command("predict", *tiny_digits, "--ckpt_path", trained.checkpoint, "--out", "deep/labels.txt")
    assert ran.cli is not None
    assert str(Path("deep") / "labels.txt") in ran.out
    images, _ = next(iter(ran.cli.datamodule.predict_dataloader()))
    wanted = [guesses[0].label for guesses in trained.model.classify(images, top=1)]
    # The first batch: with torch 2.3, whose import reorders a cached union, a limit of 1 is parsed as all batches.
    assert (tmp_path / "deep" / "labels.txt").read_text().splitlines()[: len(wanted)] == wanted
    ran = run_command("predict", *tiny_digits, "--ckpt_path", trained.checkpoint)
    assert ran.cli is not None
    assert ran.cli.trainer.log_dir is not None
    written = Path(ran.cli.trainer.log_dir) / "predictions.jsonl"
    assert str(written) in ran.out
    assert [json.loads(line)["label"] for line in written.read_text().splitlines()][: len(wanted)] == wanted


@pytest.mark.parametrize("name", recipe_names())
def test_a_printed_configuration_names_no_file_of_ours(name: str, run_command: RunCommand) -> None:
    recipes = ["captioner_attention_flickr8k", name] if name == "self_critical" else [name]
    settings = [word for recipe in recipes for word in ("--config", recipe)]
    if name == "self_critical":
        Path("none.ckpt").touch()
        settings += ["--trainer.callbacks.checkpoint", "none.ckpt"]
    ran = run_command("fit", *settings, "--print_config")
    assert ran.code == 0, ran.err
    paths = re.findall(r"(?:attention_blocks|datamodules|lightning_modules)(?:\.\w+)+", ran.out)
    assert paths
    for path in paths:
        assert path.count(".") == 1, path
        assert not inspect.ismodule(import_object(path)), path


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch cannot run several processes")
def test_two_processes_find_the_weights_of_one_on_the_same_global_batches(
    tmp_path: Path, run_command: RunCommand
) -> None:
    """Process r gets every second image from the r-th on, so that two batches of 4 are one of 8."""
    settings = SMALL_VIT.format(
        attention="{class_path: SelfAttention, init_args: {num_heads: 2}}",
        data="{class_path: in_order.InOrder}",
    ).replace("trainer:", "seed_everything: 7\ntrainer:")
    (tmp_path / "in_order.py").write_text(IN_ORDER)
    (tmp_path / "two.yaml").write_text(settings)
    words = ["--config", "two.yaml", "--model.init_args.optimizer", "SGD", "--model.init_args.optimizer.lr", "0.5"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lightning_modules", "fit", *words),
            *("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "2"),
            *("--data.batch_size", "4", "--trainer.callbacks", "AttentionMapLogger"),
            *("--trainer.default_root_dir", "two"),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [checkpoint] = (tmp_path / "two").rglob("*.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        ran = run_command("fit", *words, "--data.batch_size", "8", "--trainer.max_epochs", "2")
        assert ran.cli is not None
        one = ran.cli.model
        two = ViTClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    assert torch.load(checkpoint, weights_only=True)["global_step"] == ran.cli.trainer.global_step == 8
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch cannot run several processes")
def test_two_processes_run_a_recipe_with_its_callbacks(tmp_path: Path) -> None:
    """Averaged weights, the loss curve and the maps: what every recipe has."""
    words = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.max_epochs", "1")
    done = subprocess.run(
        [sys.executable, "-m", "lightning_modules", "fit", "--config", "vit_digits", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    version = tmp_path / "runs" / "vit_digits" / "version_0"
    assert (version / "loss_curve.png").is_file()
    [checkpoint] = version.glob("checkpoints/*.ckpt")
    assert ViTClassifier.load_from_checkpoint(checkpoint).classify([torch.zeros(1, 8, 8)])


IN_ORDER = """
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from datamodules import ImageTransform


class InOrder(LightningDataModule):
    num_classes = 3
    class_names = ("ant", "bee", "cow")
    transform = ImageTransform(8, channels=1)

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        dataset = TensorDataset(images, torch.arange(32) % 3)
        # Lightning's own sampler would shuffle.
        sampler = DistributedSampler(dataset, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        return DataLoader(dataset, self.batch_size, sampler=sampler)

    val_dataloader = train_dataloader
"""


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_errors_in_the_data_are_one_line(command: str, tmp_path: Path, run_command: RunCommand) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20)).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos" / "ant" / "4.png").write_text("not an image")
    words = ("--config", "vit_image_folder", "--data.root", "photos", "--data.bad_input", "error", "--device", "cpu")
    ran = run_command(command, *words)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert "bad_input='skip'" in ran.err
    assert "4.png" in ran.err
