from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from lightning_modules.cli.commands import COMMANDS, is_lightning

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import RunCommand

OURS = [name for name in COMMANDS if not is_lightning(name)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_function_and_a_line_of_help(name: str) -> None:
    assert callable(COMMANDS[name].function())
    assert "\n" not in COMMANDS[name].help


@pytest.mark.parametrize("name", OURS)
def test_every_command_explains_itself(name: str, run_command: RunCommand) -> None:
    ran = run_command(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: attention-blocks {name}")
    assert COMMANDS[name].help in " ".join(ran.out.split())
    assert len(ran.out.splitlines()) < 30


@pytest.mark.parametrize("name", ["classify", "caption", "plot"])
def test_missing_arguments_are_named(name: str, run_command: RunCommand, refused: Callable[..., None]) -> None:
    refused(run_command(name), "CHECKPOINT", "INPUT" if name == "plot" else "IMAGE")


def test_values_are_text_as_they_were_given() -> None:
    options = COMMANDS["plot"].parser("plot").parse_args(["a.ckpt", "null", "12", "ein: Vogel"])
    assert options.inputs == ["null", "12", "ein: Vogel"]
