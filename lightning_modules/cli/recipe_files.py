"""The recipes that ship inside the package, found by bare name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """The bare names of all recipes, in alphabetical order.

    Example:
        >>> "vit_digits" in recipe_names()
        True
    """
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe, given its bare name or a path.

    Raises:
        FileNotFoundError: there is neither such a file nor such a recipe; the near matches are named.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    near = difflib.get_close_matches(Path(name).stem, recipe_names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(recipe_names())}"
    raise FileNotFoundError(f"config: there is no file and no recipe {name!r}; {hint}")


def describe(name: str) -> str:
    """The first line of a recipe's opening comment."""
    first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ")


def expand_config(args: Sequence[str]) -> list[str]:
    """Replaces bare recipe names after ``--config`` or ``-c`` by the files they stand for.

    Raises:
        FileNotFoundError: as :func:`find_recipe`.

    Example:
        >>> expand_config(["fit", "--config=vit_digits"])[1].endswith("vit_digits.yaml")
        True
    """
    expanded: list[str] = []
    for index, word in enumerate(args):
        flag, equals, name = word.partition("=")
        if equals and flag in ("--config", "-c"):
            expanded.append(f"{flag}={find_recipe(name)}")
        elif index and args[index - 1] in ("--config", "-c"):
            expanded.append(str(find_recipe(word)))
        else:
            expanded.append(word)
    return expanded
