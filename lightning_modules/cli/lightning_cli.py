"""Lightning's commands: fit, validate, test and predict, over any system and any DataModule."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import datamodules
import lightning_modules
from lightning_modules.backbones.pretrained import weights_to_come
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.cli.commands import COMMANDS, DEVICE_HELP
from lightning_modules.cli.devices import trainer_arguments
from lightning_modules.cli.errors import refuse, user_errors
from lightning_modules.cli.network_summary import NetworkSummary
from lightning_modules.cli.quiet import quieten
from lightning_modules.cli.run_report import print_evaluation_report, print_files, print_fit_report, shown
from lightning_modules.cli.training_parser import TrainingParser, constructor_errors, trainer_errors
from lightning_modules.system.plain import to_plain
from lightning_modules.system.system import System, read_checkpoint

# Arguments of systems that are taken from the data, so that no recipe repeats them.
LINKED = ("num_classes", "class_names", "transform", "source_tokenizer", "target_tokenizer")

_OPTIONS = {
    "--config RECIPE": "a recipe by name (attention-blocks recipes lists them), or a YAML file",
    "--data.root FOLDER": "folder of the data",
    "--trainer.max_epochs 10": "passes over the training data",
    "--model.lr 3e-4": "learning rate, in place of the optimizer's own",
    "--device cuda": "cpu, cuda, cuda:1 or mps",
}
_EVALUATION_OPTIONS = {
    "--config RECIPE": "the recipe, or the config.yaml of the run",
    "--ckpt_path CHECKPOINT": "checkpoint file (.ckpt)",
    "--data.root FOLDER": "folder of the data",
    "--device cuda": "cpu, cuda, cuda:1 or mps",
}


def epilog(command: str) -> str:
    """The end of a command's help: the options that are set most often, and how any other is set."""
    options = dict(_OPTIONS if command == "fit" else _EVALUATION_OPTIONS)
    if command == "predict":
        options["--out FILE"] = "file for the predictions"
    lines = [f"  {option:<24}  {text}" for option, text in options.items()]
    return "\n".join(
        [
            "The options that are set most often:",
            *lines,
            "",
            "--model.ARGUMENT and --data.ARGUMENT set any argument of the recipe's system and data;",
            "--print_config prints all of them.",
        ]
    )


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the epilog."""


class SystemCLI(LightningCLI):
    """Lightning's command line over any System and any DataModule; facts of the data are linked to the system.

    Args:
        words: as for Lightning; if ``None``, those of the process.
    """

    def __init__(self, words: Sequence[str] | None) -> None:
        super().__init__(
            System,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_class=TrainingParser,
            parser_kwargs={"prog": "attention-blocks", "formatter_class": _Formatter}
            | {name: _parser_texts(name) for name in self.subcommands()},
            save_config_kwargs={"overwrite": True},
            args=None if words is None else list(words),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds our own options, and links facts of the data to the arguments of the system of the same names."""
        parser.add_argument("--device", type=str | None, default=None, help=DEVICE_HELP)
        if "predict" in self.subcommands():
            help_text = "file for the predictions, one JSON object per row if it ends in .jsonl, else one text per line"
            parser.add_argument("--out", type=Path | None, default=None, help=help_text)
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", plain_fields, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the words, and verifies the checkpoint that they name."""
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        self._asked = self.config[command].model.init_args.clone()
        path = self.config[command].ckpt_path
        if path == "best" or (path == "last" and command != "fit"):
            refuse(f"ckpt_path: {path!r} needs a run in the same process, and {command} trains nothing before it loads "
                   "the checkpoint; give the path of a .ckpt file, which fit prints when it ends")  # fmt: skip
        if path is None and command != "fit":
            rank_zero_info(f"{command} without --ckpt_path uses the weights that the system starts with")
        # Anything without a suffix is a word of Lightning's; a folder is a checkpoint in several files.
        if path is not None and Path(path).suffix and not Path(path).is_dir() and "://" not in path:
            with user_errors():
                read_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Lets errors of all constructors pass through jsonargparse."""
        self.parser.add_instantiator(_construct, object)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer, and says where a checkpoint overrules what was asked for."""
        config = self.config[self.subcommand]
        resumes = config.ckpt_path is not None
        overruled = [
            name
            for name, value in vars(self._asked).items()
            if resumes and name not in LINKED and value != config.model.init_args.get(name)
        ]
        if overruled:
            rank_zero_info(
                f"ckpt_path: {', '.join(overruled)} of the checkpoint is used, not that of the recipe or the command "
                "line; the callback StartFrom loads its weights alone"
            )
        with constructor_errors(), weights_to_come() if resumes else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401
        """Builds the trainer, on the device asked for."""
        config = self.config_init[self.subcommand]
        callbacks = config.trainer.callbacks or []
        configured = callbacks if isinstance(callbacks, list) else [callbacks]
        own: list[Any] = []
        if config.trainer.enable_model_summary is not False and not any(
            isinstance(c, ModelSummary) for c in configured
        ):
            own.append(NetworkSummary())
        if self.subcommand == "predict":
            own.append(PredictionWriter(config.out))
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": own}
        if config.device is not None:
            kwargs |= trainer_arguments(config.device, config.trainer.devices)
        return super().instantiate_trainer(**kwargs)

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Trains, then prints metrics, files and the next commands."""
        self._load_data()
        with trainer_errors():
            self.trainer.fit(**kwargs)
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print_fit_report(self.trainer, self.model)

    def validate(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Evaluates on the validation split, then prints metrics and files."""
        self._evaluate(self.trainer.validate, **kwargs)

    def test(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Evaluates on the test split, then prints metrics and files."""
        self._evaluate(self.trainer.test, **kwargs)

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Writes the predictions to a file, and prints its path."""
        self._load_data()
        with trainer_errors(), user_errors():
            self.trainer.predict(return_predictions=False, **kwargs)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PredictionWriter) and callback.path is not None:
                print_files({"predictions": shown(callback.path)})

    def _load_data(self) -> None:
        """Loads the data before the Trainer does, so that errors in them are one line."""
        # A process that a launcher or the Trainer has started leaves it to the Trainer which process prepares the data.
        if isinstance(self.datamodule, datamodules.DataModule) and "LOCAL_RANK" not in os.environ:
            with user_errors():
                self.datamodule.prepare_data()
                self.datamodule.setup()

    def _evaluate(self, run: Callable[..., list[Any]], **kwargs: Any) -> None:  # noqa: ANN401
        self._load_data()
        with trainer_errors():
            results = run(verbose=False, **kwargs)
        print_evaluation_report(self.trainer, results)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands, and the arguments of the Trainer's methods that are no options."""
        evaluation = {"model", "dataloaders", "datamodule", "verbose", "return_predictions"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": evaluation,
            "test": evaluation,
            "predict": evaluation,
        }


def _construct(class_type: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    return class_type(*args, **kwargs)


def _parser_texts(command: str) -> dict[str, Any]:
    """Description, usage and epilog of a command's parser."""
    return {
        "description": f"{COMMANDS[command].help} The options that are set most often are at the end.",
        "usage": f"attention-blocks {command} --config RECIPE [--trainer.ARGUMENT VALUE] [--model.ARGUMENT VALUE] "
        "[--data.ARGUMENT VALUE]",
        "epilog": epilog(command),
    }


def plain_fields(value: object) -> object:
    """A dataclass as the mapping that jsonargparse builds it from, anything else as it is."""
    return to_plain(value, "data") if dataclasses.is_dataclass(value) else value


def lightning_command(words: Sequence[str] | None) -> SystemCLI:
    """Runs ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        words: of the command line, the command first, with recipes given by their path; if ``None``, those of the
            process.

    Returns:
        The finished command line with its trainer, model and data.
    """
    command = (sys.argv[1:] if words is None else words)[0]
    quieten()
    for package in (lightning_modules, datamodules):
        for name in package.__all__:
            getattr(package, name)  # imports it, so that recipes can name it without its module

    class OneCommand(SystemCLI):
        """Builds the parser of one command, which takes a quarter of the time of all four."""

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {command: SystemCLI.subcommands()[command]}

    return OneCommand(words)
