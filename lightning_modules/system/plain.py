"""Constructor arguments as plain data, so that a checkpoint holds no pickled objects."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datamodules.tokenizers.tokenizer import Tokenizer

# Packages whose classes and functions are named by where users import them from, so that files can move.
_PACKAGES = ("attention_blocks", "datamodules", "lightning_modules")


def import_path(thing: object) -> str | None:
    """Path that a class or function can be imported by, or ``None`` if it cannot be imported.

    Public names of this library are named by their package, everything else by the module that defines it.

    Example:
        >>> from attention_blocks import MultiHeadAttention
        >>> import_path(MultiHeadAttention)
        'attention_blocks.MultiHeadAttention'
        >>> from torch import nn
        >>> import_path(nn.Linear)
        'torch.nn.modules.linear.Linear'
        >>> import_path(lambda: None) is None
        True
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module is None or name is None:
        return None
    package = module.partition(".")[0]
    for path in (package, module) if package in _PACKAGES else (module,):
        if import_object(f"{path}.{name}") is thing:
            return f"{path}.{name}"
    return None


def import_object(path: str) -> object | None:
    """Object that a path such as "torch.nn.Linear" names, or ``None`` if there is none.

    Example:
        >>> import_object("lightning_modules.System").__name__
        'System'
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if error.name is None or not path.startswith(error.name):
                raise  # the module exists, and one that it imports does not
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None


def to_plain(value: object, argument: str) -> object:
    """Describes a value in the words of a YAML recipe, from which jsonargparse builds it again.

    A class, and a :class:`functools.partial` of one, become ``{"class_path": ..., "init_args": ...}``, as does a
    tokenizer, whose whole definition is one text; a function
    its import path; a dataclass the mapping of its fields; a member of an enum its name; numbers, text, lists and
    mappings stay what they are, though in Python's own types: a safe loader knows no ``numpy.float64``.

    Args:
        value: what was given to a constructor.
        argument: the argument's name, for the error.

    Raises:
        ValueError: the value has no such description, as a lambda or an instance of a class has none.

    Example:
        >>> from functools import partial
        >>> from attention_blocks import MultiHeadAttention
        >>> to_plain(partial(MultiHeadAttention, num_heads=4), "attention")
        {'class_path': 'attention_blocks.MultiHeadAttention', 'init_args': {'num_heads': 4}}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping) and all(isinstance(key, (int, float, str)) for key in value):
        return {to_plain(key, argument): to_plain(item, f"{argument}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, f"{argument}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Tokenizer):
        return {"class_path": import_path(type(value)), "init_args": {"definition": value.definition}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        plain = {name: to_plain(getattr(value, name), f"{argument}.{name}") for name in fields}
        # Where one of several kinds may stand, the kind has to be said.
        return plain if type(value).__base__ is object else {"class_path": import_path(type(value)), "init_args": plain}
    init_args: dict[str, object] = {}
    while isinstance(value, functools.partial) and not value.args:
        init_args = {**value.keywords, **init_args}
        value = value.func
    path = import_path(value)
    if isinstance(value, type) and path is not None:
        return {"class_path": path, "init_args": to_plain(init_args, argument)} if init_args else {"class_path": path}
    if inspect.isfunction(value) and path is not None and not init_args:
        return path
    raise ValueError(
        f"{argument}={value!r} cannot be written to a checkpoint as plain data; give a class, a functools.partial of "
        "one with keyword arguments, or a function that can be imported (a lambda or a local one cannot)"
    )
