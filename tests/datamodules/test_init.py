"""The public names of datamodules, and the arguments that its DataModules share."""

from __future__ import annotations

import inspect

import pytest

import datamodules
from datamodules import DataModule

CLASSES = {name: thing for name, thing in vars(datamodules).items() if inspect.isclass(thing)}
DATA_MODULES = [cls for cls in CLASSES.values() if issubclass(cls, DataModule)]


def test_names_are_listed_once_in_order() -> None:
    assert sorted(set(datamodules.__all__)) == list(datamodules.__all__)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_line_of_meaning(name: str) -> None:
    text = inspect.getdoc(CLASSES[name]) or ""
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize("cls", DATA_MODULES, ids=lambda cls: cls.__name__)
def test_data_modules_share_one_vocabulary(cls: type[DataModule[object, object, object]]) -> None:  # type: ignore[type-var]
    """An argument that two DataModules have means the same: it has one type."""
    assert {"num_workers", "seed"} <= inspect.signature(cls).parameters.keys()
    for name, parameter in inspect.signature(cls).parameters.items():
        for other in DATA_MODULES:
            same = inspect.signature(other).parameters.get(name)
            if same is not None and name in {"held_out", "seed", "in_memory", "cache_dir", "bad_input", "num_workers"}:
                assert same.annotation == parameter.annotation
