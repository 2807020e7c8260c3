"""What users can subclass or meet in a signature can be imported from the package itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator

import pytest

PACKAGES = ("attention_blocks", "datamodules", "lightning_modules")
PUBLIC = [
    pytest.param(package, name, id=f"{package}.{name}")
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if not inspect.ismodule(getattr(importlib.import_module(package), name))
]


CLASSES = [
    pytest.param(*case.values, id=case.id)
    for case in PUBLIC
    if inspect.isclass(getattr(importlib.import_module(str(case.values[0])), str(case.values[1])))
]


def constructor(package: str, name: str) -> Callable[..., None]:
    """The constructor of a class, as far as it is written here."""
    cls = getattr(importlib.import_module(package), name)
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = base.__module__.partition(".")[0] in PACKAGES
            return typing.cast(Callable[..., None], base.__init__) if own else lambda self: None
    return lambda self: None


def functions(thing: object) -> Iterator[Callable[..., object]]:
    """A function, or a class's constructor and public methods that are its own."""
    if inspect.isfunction(thing):
        yield thing
    elif inspect.isclass(thing):
        if hasattr(thing, "_fields") or dataclasses.is_dataclass(thing):
            yield thing  # whose annotations are those of its constructor
        for name, member in vars(thing).items():
            function = getattr(member, "__func__", member.fget if isinstance(member, property) else member)
            if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
                yield function


def types_in(annotation: object) -> Iterator[type]:
    """The classes that an annotation is composed of."""
    origin = typing.get_origin(annotation)
    if isinstance(annotation, (list, tuple)):
        for part in annotation:
            yield from types_in(part)
    elif origin is not None and origin is not typing.Literal:
        yield from types_in(typing.get_args(annotation))
        yield from types_in(origin)
    elif isinstance(annotation, type):
        yield annotation


def is_public(thing: object, name: str, module: str) -> bool:
    package = module.partition(".")[0]
    return package not in PACKAGES or getattr(importlib.import_module(package), name, None) is thing


# Annotations of an optional package, which is imported for type checkers only.
OPTIONAL = {"PreTrainedModel": object, "PreTrainedTokenizerBase": object}


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_every_type_in_a_public_signature_is_exported(package: str, name: str) -> None:
    thing = getattr(importlib.import_module(package), name)
    missing = set()
    for function in functions(thing):
        for annotation in typing.get_type_hints(function, localns=OPTIONAL).values():
            for found in types_in(annotation):
                if not is_public(found, found.__qualname__, found.__module__):
                    missing.add(f"{found.__module__}.{found.__qualname__}")
    assert not missing


@pytest.mark.parametrize(("package", "name"), CLASSES)
def test_every_default_of_a_constructor_is_exported(package: str, name: str) -> None:
    """A printed configuration names them."""
    for parameter in inspect.signature(constructor(package, name)).parameters.values():
        default = parameter.default
        if default is not parameter.empty and (inspect.isfunction(default) or inspect.isclass(default)):
            assert is_public(default, default.__qualname__, default.__module__), parameter


@pytest.mark.parametrize(("package", "name"), CLASSES)
def test_every_base_of_a_public_class_is_exported(package: str, name: str) -> None:
    bases = [base for base in getattr(importlib.import_module(package), name).__mro__ if base.__name__[0] != "_"]
    missing = [base for base in bases if not is_public(base, base.__qualname__, base.__module__)]
    assert not missing


@pytest.mark.parametrize(("package", "name"), CLASSES)
def test_a_constructor_takes_at_most_12_arguments(package: str, name: str) -> None:
    assert len(inspect.signature(constructor(package, name)).parameters) <= 1 + 12  # and self
