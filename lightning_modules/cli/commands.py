"""The commands of ``attention-blocks``: group, one line of help, arguments, and the function that runs each.

Nothing here imports torch: a command's function is imported when the command runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.cli.errors import user_errors
from lightning_modules.cli.parsing import ShortErrors, command_parser

DEVICE_HELP = "cpu, cuda, cuda:1 or mps (default: a GPU if available)"


def _no_arguments(parser: ShortErrors) -> None:
    """For commands whose parser is built by Lightning."""


def _checkpoint(parser: ShortErrors) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint file (.ckpt)")


def _device(parser: ShortErrors) -> None:
    parser.add_argument("--device", type=str | None, default=None, help=DEVICE_HELP)


def _generation(parser: ShortErrors, inputs: str) -> None:
    parser.add_argument("--beam", type=int | None, default=None, help="beam size (default: that of the checkpoint)")
    parser.add_argument("--batch-size", type=int, default=64, help=f"{inputs} per batch (default: 64)")


def _classify(parser: ShortErrors) -> None:
    _checkpoint(parser)
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGE", help="image files of any size")
    parser.add_argument("--top", type=int, default=5, help="classes to print per image (default: 5)")
    _device(parser)


def _caption(parser: ShortErrors) -> None:
    _checkpoint(parser)
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGE", help="image files of any size")
    _generation(parser, "images")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    _device(parser)


def _translate(parser: ShortErrors) -> None:
    _checkpoint(parser)
    parser.add_argument(
        "--input",
        type=Path | None,
        default=None,
        metavar="FILE",
        help="one sentence per line (default: standard input)",
    )
    _generation(parser, "sentences")
    _device(parser)


def _plot(parser: ShortErrors) -> None:
    _checkpoint(parser)
    parser.add_argument(
        "inputs", type=str, nargs="+", metavar="INPUT", help="image files or, for translation systems, sentences"
    )
    parser.add_argument("--out", type=Path, default=Path("plots"), help="folder for the PNG files (default: plots)")
    _device(parser)


def _export(parser: ShortErrors) -> None:
    _checkpoint(parser)
    parser.add_argument("--format", type=str, required=True, help="safetensors, torch-export, onnx or ctranslate2")
    parser.add_argument("--out", type=Path, default=Path("exported"), help="output folder (default: exported)")


def _average(parser: ShortErrors) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="checkpoint file to create")
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="checkpoint files of one run, the last one last"
    )


def _recipes(parser: ShortErrors) -> None:
    actions = parser.add_subcommands(required=False, dest="action", metavar="ACTION", description="")
    for name, text in (("show", "Print what one recipe needs and reaches."), ("copy", "Copy a recipe for editing.")):
        action = command_parser(f"recipes {name}", text)
        action.add_argument("name", type=str, metavar="NAME", help="name of a recipe")
        actions.add_subcommand(name, action, help=text)


@dataclass(frozen=True)
class Command:
    """A command of ``attention-blocks``.

    Attributes:
        group: heading that it is listed under.
        help: one line.
        run: ``module:function``, imported when the command runs.
        add_arguments: adds its arguments to its parser.
    """

    group: str
    help: str
    run: str
    add_arguments: Callable[[ShortErrors], None] = _no_arguments

    def function(self) -> Callable[..., Any]:
        """The function that runs the command."""
        module, _, name = self.run.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(f"lightning_modules.cli.{module}"), name)
        return function

    def parser(self, name: str) -> ShortErrors:
        """The command's parser."""
        parser = command_parser(name, self.help)
        self.add_arguments(parser)
        return parser


_TRAIN, _USE, _RECIPES = "Train", "Use a checkpoint", "Recipes"
_LIGHTNING = "lightning_cli:lightning_command"

COMMANDS = {
    "fit": Command(_TRAIN, "Train a system on its data, as a recipe says.", _LIGHTNING),
    "validate": Command(_TRAIN, "Compute the metrics of a checkpoint on the validation split.", _LIGHTNING),
    "test": Command(_TRAIN, "Compute the metrics of a checkpoint on the test split.", _LIGHTNING),
    "predict": Command(_TRAIN, "Write the predictions of a checkpoint to a file.", _LIGHTNING),
    "classify": Command(_USE, "Print the most probable classes of images.", "checkpoint_commands:classify", _classify),
    "caption": Command(_USE, "Describe images, one line per image.", "checkpoint_commands:caption", _caption),
    "translate": Command(
        _USE, "Translate a file or standard input, line by line.", "checkpoint_commands:translate", _translate
    ),
    "plot": Command(
        _USE, "Draw the attention maps of images or sentences, one PNG per input.", "checkpoint_commands:plot", _plot
    ),
    "export": Command(
        _USE,
        "Export a checkpoint to safetensors, torch.export, ONNX or CTranslate2.",
        "checkpoint_commands:export",
        _export,
    ),
    "average": Command(
        _USE, "Average the weights of several checkpoints of one run.", "checkpoint_commands:average", _average
    ),
    "recipes": Command(_RECIPES, "List the recipes; show or copy one of them.", "recipe_command:recipes", _recipes),
}


def is_lightning(name: str) -> bool:
    """Whether a command is one of Lightning's, whose parser is built from the Trainer, the system and the data."""
    return COMMANDS[name].run == _LIGHTNING


def run_command(name: str, words: Sequence[str]) -> None:
    """Runs one of our own commands; errors in the user's input are printed in one line.

    Args:
        name: one of :data:`COMMANDS`.
        words: its arguments.
    """
    options = COMMANDS[name].parser(name).parse_args(list(words))
    with user_errors():
        COMMANDS[name].function()(options)
