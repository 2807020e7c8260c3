"""Constructor arguments as plain data, so that a checkpoint holds no pickled objects."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path


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

    A class, and a :class:`functools.partial` of one, become ``{"class_path": ..., "init_args": ...}``; a function
    its import path; a dataclass the mapping of its fields; numbers, text, lists and mappings stay what they are.

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
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{argument}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, f"{argument}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name), f"{argument}.{field.name}") for field in fields}
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
