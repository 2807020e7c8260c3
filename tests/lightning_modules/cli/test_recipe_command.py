from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lightning_modules.cli.recipe_files import RECIPES, recipe_head, recipe_names

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import RunCommand

Refused = Callable[..., None]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_recipes_lists_all_with_their_facts_and_nothing_cut(
    columns: int, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    ran = run_command("recipes")
    assert ran.code is None
    assert max(map(len, ran.out.splitlines()[:-2])) <= columns
    entries = dict(entry.split(maxsplit=1) for entry in ran.out.split("\n\n")[:-1])
    assert list(entries) == recipe_names()
    for name, entry in entries.items():
        head, text = recipe_head(name), " ".join(entry.split())
        assert text.startswith(head.description)
        for fact, value in head.facts.items():
            assert f"{fact} {value}" in text


def test_one_recipe_is_shown_with_its_commands(run_command: RunCommand) -> None:
    ran = run_command("recipes", "show", "rnn_number_bases")
    assert ran.code is None
    assert ran.out.startswith("rnn_number_bases\n")
    assert recipe_head("rnn_number_bases").facts["reaches"] in " ".join(ran.out.split())
    assert "attention-blocks fit --config rnn_number_bases" in ran.out
    assert "vit_digits" not in ran.out


@pytest.mark.parametrize("action", ["show", "copy"])
def test_an_unknown_recipe(action: str, tmp_path: Path, run_command: RunCommand, refused: Refused) -> None:
    refused(run_command("recipes", action, "vit_digit"), "'vit_digit'", "vit_digits")
    assert not list(tmp_path.iterdir())


def test_an_unknown_action_gets_its_near_match(run_command: RunCommand, refused: Refused) -> None:
    refused(run_command("recipes", "shw", "vit_digits"), "'shw'", "show")


def test_a_copied_recipe_can_be_edited_and_trains(
    tmp_path: Path, run_command: RunCommand, tiny_digits: list[str]
) -> None:
    ran = run_command("recipes", "copy", "vit_digits")
    assert ran.code is None
    assert "attention-blocks fit --config vit_digits.yaml" in ran.out
    copy = tmp_path / "vit_digits.yaml"
    text = copy.read_text(encoding="utf-8")
    assert text == (RECIPES / "vit_digits.yaml").read_text(encoding="utf-8")
    copy.write_text(text.replace("name: vit_digits", "name: edited"), encoding="utf-8")
    fitted = run_command("fit", "--config", "./vit_digits.yaml", *tiny_digits[2:])
    assert fitted.cli is not None
    assert list((tmp_path / "runs" / "edited").glob("version_0/checkpoints/*.ckpt"))


def test_a_recipe_is_not_copied_over_a_file(tmp_path: Path, run_command: RunCommand, refused: Refused) -> None:
    (tmp_path / "vit_digits.yaml").write_text("mine")
    refused(run_command("recipes", "copy", "vit_digits"), "vit_digits.yaml", "move it away")
    assert (tmp_path / "vit_digits.yaml").read_text() == "mine"
