"""The front door: ``attention-blocks`` and ``python -m lightning_modules``.

Imports neither torch nor Lightning, so that help, recipes and mistakes are answered at once; the module of a command is
imported when the command runs.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.cli.commands import COMMANDS, is_lightning, run_command
from lightning_modules.cli.errors import refuse, user_errors
from lightning_modules.cli.parsing import ShortErrors
from lightning_modules.cli.recipe_files import expand_config

if TYPE_CHECKING:
    from lightning_modules.cli.lightning_cli import SystemCLI

PACKAGES = ("attention_blocks", "datamodules", "lightning_modules")


def main(args: Sequence[str] | None = None) -> SystemCLI | None:
    """Runs one command, as ``attention-blocks`` and ``python -m lightning_modules`` do.

    Args:
        args: words of the command line, without the program's name; if omitted, those of the process.

    Returns:
        After ``fit``, ``validate``, ``test`` and ``predict`` the finished command line, with its trainer, model and
        data.
    """
    words = list(sys.argv[1:] if args is None else args)
    name = words[0] if words else "--help"
    if name not in COMMANDS:
        _front_parser().parse_args([name])
        raise AssertionError(f"{name} is answered by the parser")
    check_packages()
    if not is_lightning(name):
        run_command(name, words[1:])
        return None
    with user_errors():
        words = expand_config(words)
    from lightning_modules.cli.lightning_cli import lightning_command  # imports torch, Lightning and timm

    if args is None:
        # Lightning reads the process's own words, also to start the further processes of a multi-GPU run.
        sys.argv[1:] = words
        return lightning_command(None)
    return lightning_command(words)


def console() -> None:
    """The ``attention-blocks`` script: finds modules in the working directory, as ``python -m`` does."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        main()
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def check_packages() -> None:
    """Exits with one line if a file or folder of the user's is imported in place of one of our packages."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        locations = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        ours = Path(__file__).resolve().parents[2] / name
        if locations and Path(locations[0]).resolve() != ours:
            refuse(
                f"{locations[0]} is imported in place of the package {name} of attention-blocks; rename it, or run the "
                "command in another folder"
            )


class _FrontParser(ShortErrors):
    """Takes nothing but ``--help`` and ``--version``; other words are mistyped commands."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        word = self.args[0]
        near = difflib.get_close_matches(word, COMMANDS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(COMMANDS)}"
        refuse(f"there is no {'option' if word.startswith('-') else 'command'} {word!r}; {hint}")


def _front_parser() -> _FrontParser:
    try:
        version = importlib.metadata.version("attention-blocks")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        version = "unknown"
    return _FrontParser(
        prog="attention-blocks",
        usage="attention-blocks COMMAND [...]",
        description="Train attention models from recipes, and use their checkpoints.",
        epilog=_command_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        version=version,
    )


def _command_list() -> str:
    lines: list[str] = []
    group = None
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"] if lines else [f"{group}:"]
        lines.append(f"  {name:<10} {command.help}")
    return "\n".join([*lines, "", "attention-blocks COMMAND --help explains a command."])
