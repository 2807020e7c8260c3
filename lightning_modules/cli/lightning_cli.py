"""The command line: Lightning's fit, validate, test and predict, and what to do with a trained checkpoint."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from lightning import LightningDataModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import datamodules  # noqa: F401 # imported so that recipes can name its classes without their modules
import lightning_modules
from lightning_modules.backbones.pretrained import weights_to_come
from lightning_modules.cli.commands import COMMANDS, refuse, run_command
from lightning_modules.cli.recipe_files import expand_config
from lightning_modules.system.plain import to_plain
from lightning_modules.system.system import System, read_checkpoint

# What only the data knows, and no recipe says twice.
LINKED = ("num_classes", "class_names", "transform", "source_tokenizer", "target_tokenizer")

EPILOG = "Further commands, each with its own --help: " + ", ".join(f"attention-blocks {name}" for name in COMMANDS)


class SystemCLI(LightningCLI):
    """Lightning's command line over any System and any DataModule, with what the data knows linked to the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links the data's facts to those arguments of the model that bear their names."""
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", plain_fields, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Reads the words, and the checkpoint that they name, if only to see that it is one."""
        super().parse_arguments(parser, args)
        self._asked = self.config[self.config.subcommand].model.init_args.clone()
        path = self.config[self.config.subcommand].ckpt_path
        # What is no path is a word of Lightning's, such as "best"; a folder is a checkpoint in several files.
        if path is not None and Path(path).suffix and not Path(path).is_dir() and "://" not in path:
            with user_errors():
                read_checkpoint(path)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer, and says where a checkpoint overrules what was asked for."""
        resumes = self.config[self.config.subcommand].ckpt_path is not None
        model = self.config[self.config.subcommand].model
        overruled = [
            name
            for name, value in vars(self._asked).items()
            if resumes and name not in LINKED and value != model.init_args.get(name)
        ]
        if overruled:
            rank_zero_info(
                f"ckpt_path: the checkpoint's own {', '.join(overruled)} counts, not what the recipe or the command "
                "line says; the callback StartFrom takes its weights alone"
            )
        with user_errors(), weights_to_come() if resumes else nullcontext():
            super().instantiate_classes()


@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with what our constructors say about their arguments, without all that led there."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        told: BaseException = error
        while told.__cause__ is not None and _raised_in(told).startswith("jsonargparse"):
            told = told.__cause__  # what ours says; jsonargparse's wrapping tells of all that it tried besides
        refuse(told if isinstance(told, (ValueError, FileNotFoundError)) else error)


def _raised_in(error: BaseException) -> str:
    """The module whose line raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", ""))


def plain_fields(value: object) -> object:
    """A dataclass as the mapping that jsonargparse builds it from, anything else as it is."""
    return to_plain(value, "data") if dataclasses.is_dataclass(value) else value


def usage(command: str) -> str:
    """What an error shows, instead of the hundreds of options that ``--help`` explains."""
    return f"attention-blocks {command} --config RECIPE [--trainer.max_epochs 10] [--model.init_args.… …] [--data.… …]"


def main(args: Sequence[str] | None = None) -> SystemCLI | None:
    """Runs one command, as ``attention-blocks`` and ``python -m lightning_modules`` do.

    Args:
        args: the words of the command line, the program's name left out; those of the process when left out.

    Returns:
        The finished command line with its trainer, model and data, after a Lightning command.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] in COMMANDS:
        run_command(words)
        return None
    with user_errors():
        words = expand_config(words)
    if args is None:
        # Lightning reads the process's own words, also to start the further processes of a multi-GPU run.
        sys.argv[1:] = words
        return lightning_command(None)
    return lightning_command(words)


def lightning_command(words: Sequence[str] | None) -> SystemCLI:
    """Runs ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        words: of the command line, with recipes given by their path; those of the process when ``None``.

    Returns:
        The finished command line with its trainer, model and data.
    """
    for name in lightning_modules.__all__:
        getattr(lightning_modules, name)  # imports it, so that recipes can name it without its module
    return SystemCLI(
        System,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "attention-blocks", "epilog": EPILOG}
        | {name: {"usage": usage(name)} for name in SystemCLI.subcommands()},
        save_config_kwargs={"overwrite": True},
        args=None if words is None else list(words),
    )


def console() -> None:
    """The ``attention-blocks`` command; what :func:`main` returns would be taken for an exit status."""
    main()
