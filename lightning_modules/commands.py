"""The commands beside Lightning's: recipes, and what a trained checkpoint can do."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from lightning_modules.callbacks import draw_attention
from lightning_modules.classification import Classifier
from lightning_modules.recipe_files import describe, find_recipe, recipe_names
from lightning_modules.system import System


def recipes(options: argparse.Namespace) -> None:
    """Lists the recipes, or copies one to where it can be edited."""
    if options.name is None:
        table = Table("recipe", "what it trains", title="attention-blocks fit --config RECIPE")
        for name in recipe_names():
            table.add_row(name, describe(name))
        Console().print(table)
        return
    target = Path(f"{Path(options.name).stem}.yaml")
    if target.exists():
        raise ValueError(f"{target} exists already; move it away first")
    shutil.copyfile(find_recipe(options.name), target)
    print(f"wrote {target}: attention-blocks fit --config {target}")


def classify(options: argparse.Namespace) -> None:
    """Prints the likeliest classes of each image."""
    system = Classifier.load_from_checkpoint(options.checkpoint, map_location="cpu")
    for image, guesses in zip(options.images, system.classify(options.images, top=options.top), strict=True):
        print(image)
        for guess in guesses:
            print(f"  {guess.probability:7.2%}  {guess.label}")


def plot(options: argparse.Namespace) -> None:
    """Writes one PNG an image: what the attention looked at."""
    system = System.load_from_checkpoint(options.checkpoint, map_location="cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    written: set[Path] = set()
    for number, image in enumerate(options.images, start=1):
        target = options.out / f"{Path(image).stem}.png"
        if target in written:  # images of one name from several folders
            target = target.with_stem(f"{target.stem}-{number}")
        written.add(target)
        draw_attention(system, [image]).savefig(target, dpi=150)
        print(f"wrote {target}")


COMMANDS = {"recipes": recipes, "classify": classify, "plot": plot}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="attention-blocks")
    commands = parser.add_subparsers(required=True)
    adders = {}
    for name, run in COMMANDS.items():
        adders[name] = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        adders[name].set_defaults(run=run)
    adders["recipes"].set_defaults(name=None)
    copy = adders["recipes"].add_subparsers().add_parser("copy", help="copy a recipe into this folder, to be edited")
    copy.add_argument("name", metavar="NAME", help="the recipe's bare name")
    for name in ("classify", "plot"):
        adders[name].add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a file that training wrote")
        adders[name].add_argument("images", nargs="+", metavar="IMAGE", help="image files of any size")
    adders["classify"].add_argument("--top", type=int, default=5, help="how many classes an image (5)")
    adders["plot"].add_argument("--out", type=Path, default=Path("plots"), help="folder for the PNGs (plots)")
    return parser


def run_command(words: Sequence[str]) -> None:
    """Runs one of :data:`COMMANDS`; what the user got wrong is said in one line."""
    parser = _parser()
    options = parser.parse_args(words)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError) as error:
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    """Says what the user got wrong, without a traceback, and exits as argparse does."""
    print(f"attention-blocks: error: {error}", file=sys.stderr)
    sys.exit(2)
