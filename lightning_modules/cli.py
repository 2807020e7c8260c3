"""The command line: Lightning's fit, validate, test and predict, and what to do with a trained checkpoint."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from lightning import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import datamodules  # noqa: F401 # imported so that recipes can name its classes without their modules
import lightning_modules  # noqa: F401 # likewise
from lightning_modules.commands import COMMANDS, run_command
from lightning_modules.plain import to_plain
from lightning_modules.recipe_files import expand_config
from lightning_modules.system import System

# What only the data knows, and no recipe says twice.
LINKED = ("num_classes", "class_names", "transform")

EPILOG = "With a trained checkpoint, and without: attention-blocks {" + ",".join(COMMANDS) + "} --help"


class SystemCLI(LightningCLI):
    """Lightning's command line over any System and any DataModule, with what the data knows linked to the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links the data's facts to those arguments of the model that bear their names."""
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", plain_fields, apply_on="instantiate")


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
    try:
        words = expand_config(words)
    except FileNotFoundError as error:
        sys.exit(f"attention-blocks: error: {error}")
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
    return SystemCLI(
        System,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_kwargs={"epilog": EPILOG} | {name: {"usage": usage(name)} for name in SystemCLI.subcommands()},
        save_config_kwargs={"overwrite": True},
        args=None if words is None else list(words),
    )


def console() -> None:
    """The ``attention-blocks`` command; what :func:`main` returns would be taken for an exit status."""
    main()
