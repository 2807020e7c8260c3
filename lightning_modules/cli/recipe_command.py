"""The command ``recipes``: lists recipes, shows what one needs and reaches, copies one for editing."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

from jsonargparse import Namespace

from lightning_modules.cli.recipe_files import FACTS, find_recipe, recipe_head, recipe_names


def recipes(options: Namespace) -> None:
    """Lists all recipes, or shows or copies one."""
    if options.action == "show":
        print("\n".join([*_entry(options.show.name), "", *recipe_head(options.show.name).usage]))
    elif options.action == "copy":
        copy_recipe(options.copy.name)
    else:
        for name in recipe_names():
            print("\n".join(_entry(name)), end="\n\n")
        print("Train one:  attention-blocks fit --config NAME")
        print("How to run one:  attention-blocks recipes show NAME")


def copy_recipe(name: str) -> None:
    """Copies a recipe into the working directory.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: there is a file of its name already.
    """
    source, target = find_recipe(name), Path(f"{Path(name).stem}.yaml")
    if target.exists():
        raise ValueError(f"{target} exists already; move it away first")
    shutil.copyfile(source, target)
    print(f"wrote {target}: attention-blocks fit --config {target}")


def _entry(name: str) -> list[str]:
    """A recipe's name, its description and its facts, as lines."""
    head = recipe_head(name)
    width = max(map(len, FACTS))
    lines = [name, *_wrapped(head.description, "  ", "  ")]
    for fact in FACTS:
        lines += _wrapped(head.facts[fact], f"  {fact:<{width}}  ", " " * (width + 4))
    return lines


def _wrapped(text: str, first: str, later: str) -> list[str]:
    columns = min(shutil.get_terminal_size().columns, 100)
    return textwrap.wrap(text, columns, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
