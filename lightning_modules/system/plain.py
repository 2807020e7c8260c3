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

# Packages whose public names are imported from the package itself, so that files can move.
_PACKAGES = ("attention_blocks", "datamodules", "lightning_modules")


def import_path(thing: object) -> str | None:
    """Import path of a class or function, or ``None`` if it cannot be imported.

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
    """Object at an import path such as "torch.nn.Linear", or ``None`` if there is none.

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
                raise  # the module exists, but one of its imports does not
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None


def to_plain(value: object, argument: str) -> object:
    """Converts a constructor argument to plain data in the format of YAML recipes, from which jsonargparse rebuilds it.

    ====================================================  ==================================================
    value                                                 plain data
    ====================================================  ==================================================
    class, :class:`functools.partial` of one, tokenizer   ``{"class_path": ..., "init_args": ...}``
    function                                              import path
    dataclass                                             mapping of its fields; with a class path if derived
    enum member                                           name
    NumPy scalar                                          Python scalar
    path                                                  string
    number, string                                        itself
    list, tuple, mapping                                  list or mapping of converted items
    ====================================================  ==================================================

    Args:
        value: value of the argument.
        argument: name of the argument, for the error message.

    Raises:
        ValueError: the value cannot be described, such as a lambda or an instance of an ordinary class.

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
        # A dataclass with a base is one of several that the argument accepts, so its class has to be named.
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
