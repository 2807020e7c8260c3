from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli.recipe_files import FACTS, RECIPES, expand_config, find_recipe, recipe_head, recipe_names


def test_the_recipes_that_ship_are_found_by_bare_name() -> None:
    assert "vit_digits" in recipe_names()
    assert recipe_names() == sorted(recipe_names())
    for name in recipe_names():
        assert find_recipe(name) == RECIPES / f"{name}.yaml"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_states_its_facts_and_how_to_run_it(name: str) -> None:
    head = recipe_head(name)
    assert re.fullmatch(r"[A-Z].{30,}\.", head.description)
    assert list(head.facts) == list(FACTS)
    assert head.facts["family"] in ("classification", "translation", "captioning")
    assert all(head.facts.values())
    settings = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
    usage = "\n".join(head.usage)
    if "data" not in settings:  # used on top of another recipe, whose data it takes
        assert re.search(rf"attention-blocks fit --config [a-z]\w+ --config {name}", usage)
        return
    assert f"attention-blocks fit --config {name}" in usage
    assert settings.keys() >= {"seed_everything", "trainer", "model", "data"}
    # Facts of the data are linked, never typed.
    assert not settings["model"]["init_args"].keys() & {"num_classes", "class_names", "transform"}


def test_a_head_without_a_fact_is_an_error(tmp_path: Path) -> None:
    head = "# Trains something.\n# family: classification\n# data: photos\n#   of dogs\n# reaches: 99 %\n"
    (tmp_path / "mine.yaml").write_text(head)
    with pytest.raises(ValueError, match=r"mine.yaml: .* lacks time;"):
        recipe_head(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(head + "# time: an hour\n#\n# Run it.\n#\ntrainer:\n# a comment\n")
    found = recipe_head(str(tmp_path / "mine.yaml"))
    assert found.description == "Trains something."
    assert found.facts == {"family": "classification", "data": "photos of dogs", "time": "an hour", "reaches": "99 %"}
    assert found.usage == ["Run it."]


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
