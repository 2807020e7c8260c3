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


def import_path(thing: object) -> str | None:
    """Where a class or function can be imported from, or ``None`` if it cannot be.

    Example:
        >>> from torch import nn
        >>> import_path(nn.Linear)
        'torch.nn.modules.linear.Linear'
        >>> import_path(lambda: None) is None
        True
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module is None or name is None:
        return None
    try:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return f"{module}.{name}" if found is thing else None


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
        {'class_path': 'attention_blocks.sequence.multi_head.MultiHeadAttention', 'init_args': {'num_heads': 4}}
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
