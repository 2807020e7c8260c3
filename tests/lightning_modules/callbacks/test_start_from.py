"""A training that starts from the weights of a checkpoint, and from nothing else of it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from lightning import LightningModule
from torch.optim import SGD

from datamodules import ImageTransform
from lightning_modules import Captioner, Likelihood, SelfCritical, StartFrom, VisionTransformer, ViTClassifier

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier, MakeLoader, MakeTrainer, RunCommand, Trained

WORDS = (
    *("--config", "captioner_digits", "--data.train_size", "32", "--data.val_size", "8", "--data.batch_size", "8"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"),
    *("false", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
)
LIKELY = ("--model.objective", "Likelihood", "--model.objective.label_smoothing", "0.1")
CRITICAL = ("--model.objective", "SelfCritical", "--model.objective.samples", "2")
SLOWLY = ("--model.optimizer.init_args.lr", "1e-9")


@pytest.mark.slow
def test_another_objective_and_rate_from_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    first = run_command("fit", *WORDS, *LIKELY)
    assert first.cli is not None, first.err
    [checkpoint] = tmp_path.glob("runs/captioner_digits/version_0/checkpoints/[0-9]*.ckpt")
    start = ("--trainer.callbacks+=StartFrom", f"--trainer.callbacks.checkpoint={checkpoint}")
    second = run_command("fit", *WORDS, *CRITICAL, *SLOWLY, *start)
    assert second.cli is not None, second.err
    assert isinstance(first.cli.model, Captioner)
    assert isinstance(second.cli.model, Captioner)
    assert first.cli.model.objective == Likelihood(label_smoothing=0.1)
    assert second.cli.model.objective == SelfCritical(samples=2)
    assert "train/reward" in second.cli.trainer.callback_metrics
    assert second.cli.trainer.global_step == 2
    for name, value in first.cli.model.named_parameters():
        torch.testing.assert_close(second.cli.model.get_parameter(name), value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.slow
def test_resuming_a_checkpoint_logs_the_arguments_that_it_overrules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: RunCommand, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command("fit", *WORDS, *LIKELY).cli is not None
    [checkpoint] = tmp_path.glob("runs/captioner_digits/version_0/checkpoints/[0-9]*.ckpt")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        for words, overruled in ((LIKELY, False), (CRITICAL, True)):
            caplog.clear()
            ran = run_command("fit", *WORDS, *words, "--ckpt_path", checkpoint, "--trainer.max_epochs", "2")
            assert ran.cli is not None, ran.err
            assert (re.search(r"ckpt_path: .*objective", caplog.text) is not None) is overruled, caplog.text


def test_a_resumed_run_has_its_own_weights(
    tmp_path: Path,
    make_classifier: MakeClassifier,
    make_loader: MakeLoader,
    make_trainer: MakeTrainer,
) -> None:
    def again(checkpoint: Path, callback: StartFrom) -> ViTClassifier:
        model = make_classifier(class_names=["an ant", "a bee", "a cow"])
        trainer = make_trainer(max_epochs=1, callbacks=[callback])
        trainer.fit(model, make_loader(), ckpt_path=checkpoint, weights_only=True)
        return model

    paths = []
    for name in ("one.ckpt", "other.ckpt"):
        model = make_classifier(class_names=["an ant", "a bee", "a cow"])
        trainer = make_trainer(max_epochs=1)
        trainer.fit(model, make_loader())
        paths.append(tmp_path / name)
        trainer.save_checkpoint(paths[-1])
    found = again(paths[0], StartFrom(paths[1]))
    for name, value in ViTClassifier.load_from_checkpoint(paths[0]).named_parameters():
        assert torch.equal(found.get_parameter(name), value), name


def test_a_training_starts_from_the_weights_alone(
    tmp_path: Path, make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    first, trainer = make_classifier(), make_trainer(max_epochs=2)
    trainer.fit(first, make_loader())
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = make_classifier(label_smoothing=0.25, optimizer=partial(SGD, lr=0.0))
    trainer = make_trainer(max_epochs=1, callbacks=[StartFrom(tmp_path / "first.ckpt")])
    trainer.fit(second, make_loader())
    for name, value in first.named_parameters():
        assert torch.equal(second.get_parameter(name), value), name
    assert isinstance(trainer.optimizers[0], SGD)
    assert second.hparams["label_smoothing"] == 0.25
    assert trainer.global_step == 2  # counted from 0


def test_refuses_another_network_or_other_classes(
    trained: Trained, make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer(callbacks=[StartFrom(trained.checkpoint)])
    with pytest.raises(ValueError, match=r"checkpoint=.*class_names"):
        trainer.fit(make_classifier(), make_loader())
    digits = trained.model.class_names
    same = ViTClassifier(10, ImageTransform(8, channels=1), partial(VisionTransformer, patches=4), class_names=digits)
    with pytest.raises(ValueError, match=r"checkpoint=.*network"):
        trainer.fit(same, make_loader())
    with pytest.raises(ValueError, match=r"StartFrom .* got LightningModule"):
        StartFrom(trained.checkpoint).setup(trainer, LightningModule(), "fit")
