"""The public names: complete, documented, and with one vocabulary of arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import datamodules
from datamodules import DataModule

PACKAGE = Path(datamodules.__file__).parent
TESTS = Path(__file__).parent
NAMES = datamodules.__all__
CLASSES = {name: getattr(datamodules, name) for name in NAMES if inspect.isclass(getattr(datamodules, name))}
DATA_MODULES = {name: cls for name, cls in CLASSES.items() if issubclass(cls, DataModule)}
# Former names, and the names that replace them.
RENAMED = {
    "val_share": "held_out",
    "test_share": "held_out",
    "split_seed": "seed",
    "cache": "in_memory",
    "folder": "cache_dir",
    "bad_files": "bad_input",
    "bad_lines": "bad_input",
    "bad_line": "on_bad_input",
}


def test_names_are_listed_once_in_order() -> None:
    assert sorted(set(NAMES)) == list(NAMES)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_line_of_meaning(name: str) -> None:
    text = inspect.getdoc(CLASSES[name]) or ""
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    "file",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_every_file_has_its_tests(file: Path) -> None:
    mirrored = TESTS / file.relative_to(PACKAGE).with_name(f"test_{file.name}")
    assert mirrored.is_file(), f"write {mirrored.relative_to(TESTS.parent.parent)}"


def mentioned(annotation: object) -> Iterator[type]:
    """Classes of the package in an annotation, however deep."""
    if inspect.isclass(annotation) and annotation.__module__.startswith("datamodules"):
        yield annotation
    for part in typing.get_args(annotation):
        yield from mentioned(part)


def public_functions(thing: object) -> Iterator[object]:
    """A function, or the public methods of a class that the package defines, its constructor among them."""
    if inspect.isfunction(thing):
        yield thing
    if not inspect.isclass(thing):
        return
    if hasattr(thing, "_fields") or is_dataclass(thing):
        yield thing
    for name, member in vars(thing).items():
        if name == "__init__" or not name.startswith("_"):
            function = member.fget if isinstance(member, property) else inspect.unwrap(getattr(member, "func", member))
            if inspect.isfunction(function):
                yield function


@pytest.mark.parametrize("name", NAMES)
def test_every_type_in_a_public_signature_is_public(name: str) -> None:
    for function in public_functions(getattr(datamodules, name)):
        for argument, annotation in typing.get_type_hints(function).items():
            if argument.startswith("_"):
                continue
            for cls in mentioned(annotation):
                assert cls.__name__ in NAMES, f"export {cls.__name__}, the type of {argument} in {function}"


@pytest.mark.parametrize("name", DATA_MODULES)
def test_data_modules_share_one_vocabulary(name: str) -> None:
    parameters = inspect.signature(DATA_MODULES[name]).parameters
    assert len(parameters) <= 12
    assert not RENAMED.keys() & parameters.keys()
    assert {"num_workers", "seed"} <= parameters.keys()
