from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_modules.cli.parsing import ShortErrors, command_parser


class Engine:
    """Something with arguments."""

    def __init__(self, power: int = 1, cylinders: int = 4) -> None:
        self.power, self.cylinders = power, cylinders


class Turbine(Engine):
    """Another one."""

    def __init__(self, power: int = 1, blades: int = 20) -> None:
        super().__init__(power)
        self.blades = blades


@pytest.fixture
def parser() -> ShortErrors:
    """A parser with an argument of each kind."""
    parser = command_parser("drive", "Drives somewhere.")
    parser.add_argument("places", type=str, nargs="+", metavar="PLACE")
    parser.add_argument("--speed", type=int | None, default=None)
    parser.add_argument("--map", type=Path, required=True, metavar="FILE")
    parser.add_subclass_arguments(Engine, "engine", required=False)
    return parser


@pytest.fixture
def error(parser: ShortErrors, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Returns the error line for some words."""

    def ask(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(list(words))
        assert ended.value.code == 2
        line, help_line = capsys.readouterr().err.splitlines()
        assert help_line == "Help: attention-blocks drive --help"
        return line.removeprefix("attention-blocks: error: ")

    return ask


def test_good_words_are_parsed(parser: ShortErrors) -> None:
    options = parser.parse_args(["Bonn", "--map", "a.txt", "--engine", f"{__name__}.Turbine", "--engine.blades", "3"])
    assert (options.places, options.map, options.engine.init_args.blades) == (["Bonn"], Path("a.txt"), 3)


def test_missing_arguments_are_named_as_the_help_names_them(error: Callable[..., str]) -> None:
    found = error()
    assert "PLACE" in found
    assert "--map" in found


@pytest.mark.parametrize("word", ["--sped", "--spe"])
def test_a_misspelt_option_is_not_taken_for_another(word: str, error: Callable[..., str]) -> None:
    found = error("Bonn", "--map", "a.txt", word, "3")
    assert word in found
    assert "did you mean --speed?" in found


def test_a_value_of_another_type(error: Callable[..., str]) -> None:
    assert error("Bonn", "--map", "a.txt", "--speed", "fast") == "--speed: expected int or null, got 'fast'"


def test_an_unknown_argument_of_a_class_is_compared_with_its_own(error: Callable[..., str]) -> None:
    found = error("Bonn", "--map", "a.txt", "--engine", f"{__name__}.Turbine", "--engine.blade", "3")
    assert found == "--engine: Turbine has no argument 'blade'; did you mean blades?"
    found = error("Bonn", "--map", "a.txt", "--engine", f"{{class_path: {__name__}.Engine, init_args: {{powr: 3}}}}")
    assert found == "--engine: Engine has no argument 'powr'; did you mean power?"


@pytest.mark.parametrize("path", ["Turbin", f"{__name__}.Turbin"])
def test_an_unknown_class(path: str, error: Callable[..., str]) -> None:
    assert "--engine: there is no class or function 'Turbin'" in error("Bonn", "--map", "a.txt", "--engine", path)


def test_a_class_of_another_kind(error: Callable[..., str]) -> None:
    found = error("Bonn", "--map", "a.txt", "--engine", "pathlib.Path")
    assert "--engine: " in found
    assert "subclass of Engine" in found
