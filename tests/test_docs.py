"""The documents: every public name is listed, every link leads somewhere, every snippet and command works."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning
import pytest

from lightning_modules.cli.commands import COMMANDS, is_lightning
from lightning_modules.cli.main import main
from tests.paths import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EVERY_DOCUMENT = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(document: Path, program: str) -> list[list[str]]:
    """The words of each command of a document's shell blocks that begins with a program."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    found: list[list[str]] = []
    for line in lines:
        for command in line.split("|"):
            found.append(shlex.split(command, comments=True))
    prefix = program.split()
    return [words[len(prefix) :] for words in found if words[: len(prefix)] == prefix]


@pytest.mark.parametrize("package", ["attention_blocks", "lightning_modules", "datamodules"])
def test_every_public_name_is_in_the_index(package: str) -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [name for name in importlib.import_module(package).__all__ if f"`{name}`" not in index]
    assert not missing, f"docs/index.md lacks {missing}; give each a line"


def test_the_index_lists_nothing_else() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    public = {
        name
        for package in ("attention_blocks", "lightning_modules", "datamodules")
        for name in importlib.import_module(package).__all__
    }
    listed = set(re.findall(r"^\| `(\w+)` \|", index, flags=re.MULTILINE))
    assert listed - public == set()


@EVERY_DOCUMENT
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


@EVERY_DOCUMENT
def test_no_document_has_the_roles_of_docstrings(document: Path) -> None:
    assert ":`" not in document.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if blocks(path, "python")], ids=lambda path: path.name)
def test_the_python_snippets_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, as one program, with a training of two batches."""
    monkeypatch.chdir(tmp_path)
    brief: Callable[..., lightning.Trainer] = partial(
        lightning.Trainer, fast_dev_run=2, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False
    )
    monkeypatch.setattr(lightning, "Trainer", lambda max_epochs: brief())
    names: dict[str, object] = {}
    for snippet in blocks(document, "python"):
        exec(snippet, names)  # noqa: S102 # it is our own text


def test_the_first_snippet_of_the_readme_says_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks(ROOT / "README.md", "python")[0], {})  # noqa: S102 # it is our own text
    shapes = ["torch.Size([2, 1, 32]) torch.Size([2, 1, 7])", "torch.Size([2, 1, 64]) torch.Size([2, 4, 1, 7])"]
    assert capsys.readouterr().out.splitlines() == shapes


@EVERY_DOCUMENT
def test_our_own_commands_parse(document: Path) -> None:
    for name, *words in commands(document, "attention-blocks"):
        assert name in COMMANDS or name.startswith("--"), name
        if name in COMMANDS and not is_lightning(name):
            COMMANDS[name].parser(name).parse_args([word for word in words if word != "..."])


@pytest.mark.slow
@EVERY_DOCUMENT
def test_trainings_parse(document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["attention-blocks"])
    for words in commands(document, "attention-blocks"):
        if words[0] in COMMANDS and is_lightning(words[0]) and "--help" not in words and "RECIPE" not in words:
            known = words[: words.index("--ckpt_path")] if "--ckpt_path" in words else words
            with pytest.raises(SystemExit) as end:
                main([*known, "--print_config"])
            assert end.value.code == 0, words


@EVERY_DOCUMENT
def test_the_benchmarks_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for module in re.findall(r"python -m (benchmarks\.\w+|examples\.\w+)", text):
        assert importlib.util.find_spec(module), module
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)", text):
        assert re.search(rf"^{target}:", targets, flags=re.MULTILINE), target
