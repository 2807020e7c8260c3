"""What the layout promises: no import circle, networks apart from systems, small files, a test file per module."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from tests.paths import ROOT

PACKAGES = ("attention_blocks", "datamodules", "lightning_modules")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES if path.stem != "__init__"}


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever the import stands: inside a function or for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_is_no_import_circle() -> None:
    graph = {name: {found for found in imports(path) if found in MODULES} for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > len(graph)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_600_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.stem != "__main__"])
def test_a_module_has_its_test_file(name: str) -> None:
    folder, _, module = name.replace(".", "/").rpartition("/")
    assert (ROOT / "tests" / folder / f"test_{module}.py").is_file()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("lightning_modules.")])
def test_networks_and_systems_share_no_file(name: str) -> None:
    from lightning_modules import System

    module = importlib.import_module(name)
    classes = [thing for _, thing in inspect.getmembers(module, inspect.isclass) if thing.__module__ == name]
    systems = [cls for cls in classes if issubclass(cls, System)]
    # The decoders' metrics and the like are modules too; networks are those with a forward pass of their own.
    networks = [cls for cls in classes if issubclass(cls, nn.Module) and not issubclass(cls, System)]
    assert not (systems and networks), f"{name}: {systems} stand with {networks}"
