from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lightning_modules.cli.commands import COMMANDS
from lightning_modules.cli.main import check_packages, console

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import RunCommand

HEAVY = ("torch", "lightning", "timm", "matplotlib")


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_every_command_under_its_group(words: list[str], run_command: RunCommand) -> None:
    ran = run_command(*words)
    assert ran.code == 0
    lines = ran.out.splitlines()
    for name, command in COMMANDS.items():
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert line.endswith(command.help)
        headings = [heading for heading in lines[: lines.index(line)] if heading.endswith(":")]
        assert headings[-1] == f"{command.group}:"


def test_version(run_command: RunCommand) -> None:
    ran = run_command("--version")
    assert ran.code == 0
    assert ran.out.startswith("attention-blocks ")


@pytest.mark.parametrize(
    ("word", "near"), [("fti", "fit"), ("clasify", "classify"), ("--helpp", "--help"), ("zzz", "fit, validate, test")]
)
def test_a_mistyped_command_gets_its_near_match(
    word: str, near: str, run_command: RunCommand, refused: Callable[..., None]
) -> None:
    refused(run_command(word), repr(word), near)


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", "recipes"])
    runpy.run_module("lightning_modules", run_name="__main__")
    assert "vit_digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["fti"], ["recipes"], ["recipes", "show", "vit_digits"], ["translate", "--help"]],
)
def test_what_needs_no_network_imports_none(words: list[str]) -> None:
    code = (
        "import contextlib, sys\nfrom lightning_modules.cli.main import main\n"
        f"with contextlib.suppress(SystemExit):\n    main({words!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def _as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path as scripts have it, without the working directory, and modules as they are to be restored."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])


@pytest.mark.usefixtures("_as_a_script")
def test_the_script_finds_modules_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["attention-blocks", "recipes"])
    console()
    assert sys.path[0] == str(tmp_path)


@pytest.mark.slow
def test_the_script_loads_a_checkpoint_of_a_users_network(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "my_network.py").write_text(MY_NETWORK)
    code = "import my_network; my_network.save('mine.ckpt')"
    subprocess.run([sys.executable, "-c", code], check=True)
    done = as_script("classify", "mine.ckpt", picture.name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == picture.name


MY_NETWORK = """
from functools import partial
from lightning import Trainer
from torch import nn
from datamodules import ImageTransform
from lightning_modules import Classifier


class Mean(nn.Module):
    def __init__(self, num_classes, image_size, channels):
        super().__init__()
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images):
        return self.head(images.mean(dim=(2, 3)))


def save(path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Classifier(3, ImageTransform(8, channels=1), Mean))
    trainer.save_checkpoint(path)
"""


def as_script(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with a script's path, which lacks the working directory."""
    code = (
        f"import sys; sys.path[:] = [{str(Path(__file__).parents[3])!r}, *(path for path in sys.path if path)]; "
        f"sys.argv[1:] = {list(words)!r}; from lightning_modules.cli.main import console; console()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["datamodules", "attention_blocks"])
def test_a_folder_that_shadows_a_package_of_ours_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    done = as_script("recipes")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert str(tmp_path / name) in line


def test_our_own_packages_shadow_nothing() -> None:
    check_packages()
