"""The recipes that ship inside the package, found by bare name."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"

# Facts that the head of every recipe states, in this order.
FACTS = ("family", "data", "time", "reaches")


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


@dataclass(frozen=True)
class RecipeHead:
    """The comment at the head of a recipe.

    Attributes:
        description: a sentence on what it trains.
        facts: a text for each of :data:`FACTS`.
        usage: the lines that follow: the commands to run, and remarks.
    """

    description: str
    facts: dict[str, str]
    usage: list[str]


def recipe_head(name: str) -> RecipeHead:
    """The description and the facts at the head of a recipe.

    The head is the description, in one or more comment lines, then a comment line per fact (``# family: ...``), which
    is continued by lines that are indented, then an empty comment line and the commands.

    Raises:
        FileNotFoundError: as :func:`find_recipe`.
        ValueError: the head lacks a fact.

    Example:
        >>> recipe_head("vit_digits").facts["family"]
        'classification'
    """
    path = find_recipe(name)
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    texts = [line[1:].removeprefix(" ") for line in lines]
    end = texts.index("") if "" in texts else len(texts)
    description: list[str] = []
    facts: dict[str, list[str]] = {}
    for text in texts[:end]:
        fact, colon, value = text.partition(": ")
        if colon and fact in FACTS:
            facts[fact] = [value]
        else:
            (list(facts.values())[-1] if facts else description).append(text.strip())
    if missing := [fact for fact in FACTS if fact not in facts]:
        raise ValueError(f"{path}: its head lacks {', '.join(missing)}; add comment lines such as '# time: 2 minutes'")
    usage = texts[end + 1 :]
    while usage and not usage[-1]:
        usage.pop()
    return RecipeHead(" ".join(description), {fact: " ".join(facts[fact]) for fact in FACTS}, usage)


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
