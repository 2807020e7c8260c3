from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli.recipe_files import RECIPES, describe, expand_config, find_recipe, recipe_names


def test_the_recipes_that_ship_are_found_by_bare_name() -> None:
    assert "vit_digits" in recipe_names()
    assert recipe_names() == sorted(recipe_names())
    for name in recipe_names():
        assert find_recipe(name) == RECIPES / f"{name}.yaml"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_trains_and_how_to_run_it(name: str) -> None:
    text = find_recipe(name).read_text(encoding="utf-8")
    assert describe(name)
    assert text.startswith(f"# {describe(name)}\n")
    settings = yaml.safe_load(text)
    if "data" not in settings:  # laid over another, whose data it takes
        assert re.search(rf"attention-blocks fit --config [a-z]\w+ --config {name}", text)
        return
    assert f"attention-blocks fit --config {name}" in text
    assert settings.keys() >= {"seed_everything", "trainer", "model", "data"}
    # What the data knows is linked, never typed.
    assert not settings["model"]["init_args"].keys() & {"num_classes", "class_names", "transform"}


def test_a_path_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "vit_digits"):
        (tmp_path / name).write_text("trainer:\n")
        assert find_recipe(name) == Path(name)  # a file here comes before a recipe of its name
    assert find_recipe(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vit_digit", "did you mean vit_digits"),
        ("VIT_digits", "did you mean .*vit_digits"),
        ("recipes/vit_digitz.yaml", "did you mean vit_digits"),
        ("zzzz", "there are .*vit_digits"),
        ("", "there are .*vit_digits"),
        (".", "there are .*vit_digits"),
    ],
)
def test_an_unknown_recipe_gets_its_near_matches(name: str, hint: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"config: there is no file and no recipe '{name}'; {hint}"):
        find_recipe(name)


def test_names_are_expanded_after_config_only() -> None:
    digits = str(RECIPES / "vit_digits.yaml")
    assert expand_config(["fit", "--config", "vit_digits", "--trainer.x", "vit_digits"]) == [
        "fit",
        "--config",
        digits,
        "--trainer.x",
        "vit_digits",
    ]
    assert expand_config(["test", "-c", "vit_digits", "--config=vit_digits"]) == [
        "test",
        "-c",
        digits,
        f"--config={digits}",
    ]
    assert expand_config(["fit", "--config"]) == ["fit", "--config"]
    assert expand_config([]) == []
    with pytest.raises(FileNotFoundError, match="no recipe 'nothing'"):
        expand_config(["fit", "--config=nothing"])
