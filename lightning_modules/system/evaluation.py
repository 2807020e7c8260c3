"""Views of modules: evaluation of a shared module without changing its mode."""

from __future__ import annotations

import copy
import functools
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.jit import ScriptModule
from torch.nn.modules.lazy import LazyModuleMixin

M = TypeVar("M", bound=nn.Module)

# Views of modules by the ids of the modules.
_Views = dict[int, nn.Module]

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_CALLED_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WITHOUT_MODULES = frozenset({"_modules", "_parameters", "_buffers", *_HOOKS})

# Attributes of these types, not of subtypes, are searched for modules.
_CONTAINERS = frozenset({list, tuple, dict})
_CALLABLES = frozenset({types.MethodType, types.FunctionType, functools.partial})

# A function may wrap a function that wraps a function ...
_MAX_WRAPPERS = 8


def module_view(module: M) -> M:
    """Copy of a module that shares its parameters and buffers, but has its own mode, hooks and submodules.

    The view computes the same as the module: parameters and buffers are the same tensors, gradients reach them, and a
    parameter that is replaced in either is replaced in both. Changing the mode of the view, registering a hook on it,
    or setting an attribute leaves the module alone. Hooks of the module are called with the view.

    References between modules of the tree lead to their views, also those that are not submodules: attributes, lists,
    tuples and dictionaries of modules, bound methods, ``functools.partial`` and closures, such as a ``forward`` that
    was replaced on one module. What is not a module is shared.

    A view of a compiled module is not compiled. Metrics of torchmetrics and lazy modules without shapes are shared as
    they are. Do not keep a view: it does not see submodules, hooks and attributes that the module gets later.

    Args:
        module: any module.

    Raises:
        ValueError: a submodule is wrapped by ``FullyShardedDataParallel``, the first version of FSDP, which replaces
            weights in the modules that it has wrapped.

    Example:
        >>> layer = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
        >>> view = module_view(layer)
        >>> view[0].weight is layer[0].weight
        True
        >>> view.eval()[1].training, layer[1].training
        (False, True)
    """
    views, _ = _views(module)
    return views[id(module)]  # type: ignore[return-value]


def evaluation_view(module: M) -> M:
    """Module in evaluation mode: the module itself if it and all its submodules are, else a view of it.

    The view, see :func:`module_view`, sets ``training`` only and calls no ``eval()`` or ``train()``, which some layers
    use to change their weights. The given module is never changed, so that several threads can evaluate it at once,
    even while it trains.

    Args:
        module: any module.

    Raises:
        ValueError: see :func:`module_view`; only if some module is in training mode.

    Example:
        >>> import torch
        >>> layer = nn.Dropout()
        >>> evaluation_view(layer)(torch.ones(1, 3))
        tensor([[1., 1., 1.]])
        >>> layer.training
        True
        >>> layer = layer.eval()
        >>> evaluation_view(layer) is layer
        True
    """
    if not _is_training(module):
        return module
    views, created = _views(module)
    for view in created:
        vars(view)["training"] = False
    for view in views.values():
        if isinstance(view, ScriptModule):
            view.eval()
    return views[id(module)]  # type: ignore[return-value]


def _is_training(module: nn.Module) -> bool:
    """Whether a module or one of its submodules is in training mode, metrics excepted."""
    pending, seen = [module], {id(module)}
    for part in pending:
        if getattr(part, "training", False) and not isinstance(part, _metric_types()):
            return True
        for child in tuple(part._modules.values()):
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                pending.append(child)
    return False


def _views(root: nn.Module) -> tuple[_Views, list[nn.Module]]:
    """The views of a module and its submodules by their ids, and the list of those that are new Python modules."""
    views: _Views = {}
    found: list[nn.Module] = []
    created: list[nn.Module] = []
    copiers: dict[type, Callable[[nn.Module], nn.Module]] = {}

    def add(module: nn.Module) -> None:
        found.append(module)  # kept, so that no id is used again meanwhile
        inner = _uncompiled(module)
        if id(inner) not in views:
            cls = type(inner)
            if cls not in copiers:
                copiers[cls] = _copier(cls)
            views[id(inner)] = view = copiers[cls](inner)
            if view is not inner and not isinstance(view, ScriptModule):
                created.append(view)
        views[id(module)] = views[id(inner)]

    add(root)
    for view in created:
        for child in view._modules.values():
            if child is not None and id(child) not in views:
                add(child)
    for view in created:
        _rebind_attributes(view, views)
    return views, created


def _blank(module: nn.Module) -> nn.Module:
    """A view whose submodules and attributes are still those of the module."""
    # Not the class's own __new__: that of GraphModule creates a class without the forward pass.
    view = object.__new__(type(module))
    state = vars(view)
    state.update(vars(module))
    state["_modules"] = state["_modules"].copy()
    for name in _HOOKS:
        if name in state:
            state[name] = state[name].copy()
    # By nn.Module.compile(), which binds it to the module.
    state.pop("_compiled_call_impl", None)
    if isinstance(module, nn.RNNBase):
        # Weights that hooks compute are set in this list.
        state["_flat_weights"] = list(state["_flat_weights"])
    return view


def _copier(cls: type[nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Function that creates the view of a module of a class."""
    if issubclass(cls, ScriptModule):
        return _scripted
    if issubclass(cls, _metric_types()):
        return lambda module: module
    if issubclass(cls, LazyModuleMixin):
        return _lazy
    if issubclass(cls, _loaded("torch.distributed.fsdp", "FullyShardedDataParallel")):
        raise ValueError(
            "a module with FullyShardedDataParallel in it cannot be evaluated while it is in training mode; call "
            "eval() first, or shard it by fully_shard (Lightning's ModelParallelStrategy)"
        )
    return _blank


def _scripted(module: nn.Module) -> nn.Module:
    """View of a module of TorchScript, whose state is in C++."""
    # A shallow copy shares tensors and submodules. A traced module wraps a scripted one.
    view: nn.Module = copy.copy(vars(module).get("_actual_script_module", module))
    for name, child in view.named_children():
        setattr(view, name, _scripted(child))
    return view


def _lazy(module: nn.Module) -> nn.Module:
    """The lazy module itself, whose first call creates its parameters; a view if it has them."""
    assert isinstance(module, LazyModuleMixin)  # noqa: S101
    return module if module.has_uninitialized_params() else _blank(module)


def _metric_types() -> tuple[type, ...]:
    """The types of metrics, which have no mode, if their library is in use."""
    return (*_loaded("torchmetrics", "Metric"), *_loaded("torchmetrics", "MetricCollection"))


def _uncompiled(module: nn.Module) -> nn.Module:
    """The module itself, without the wrapper of ``torch.compile``."""
    while isinstance(module, _loaded("torch._dynamo", "OptimizedModule")):
        module = module._orig_mod  # type: ignore[assignment]
    return module


def _loaded(library: str, name: str) -> tuple[type, ...]:
    """A class of a library that takes long to import, unless nobody has imported it."""
    found = getattr(sys.modules.get(library), name, None)
    return () if found is None else (found,)


def _rebind_attributes(view: nn.Module, views: _Views) -> None:
    """Replaces the modules that a view refers to by their views."""
    state = vars(view)
    children = state["_modules"]
    for name, child in children.items():
        if child is not None:
            children[name] = views[id(child)]
    for name in _CALLED_HOOKS:
        if hooks := state.get(name):
            for number, hook in hooks.items():
                hooks[number] = _rebound(hook, views)
    changed = {}
    for name, value in state.items():
        kind = type(value)
        if kind in _CALLABLES or (kind in _CONTAINERS and name not in _WITHOUT_MODULES) or id(value) in views:
            new = _rebound(value, views)
            if new is not value:
                changed[name] = new
    state.update(changed)


def _rebound(value: Any, views: _Views, wrappers: int = _MAX_WRAPPERS, *, in_container: bool = False) -> Any:  # noqa: ANN401
    """A value with the views of the modules that it refers to; the value itself if there are none."""
    view = views.get(id(value))
    if view is not None:
        return view
    kind = type(value)
    if kind in _CONTAINERS:
        return value if in_container else _rebound_container(value, views, wrappers)
    if kind not in _CALLABLES:
        return views.get(id(_uncompiled(value)), value) if isinstance(value, nn.Module) else value
    if not wrappers:
        return value
    if kind is types.MethodType:
        function = _rebound(value.__func__, views, wrappers - 1)
        owner = views.get(id(value.__self__), value.__self__)
        same = function is value.__func__ and owner is value.__self__
        return value if same else types.MethodType(function, owner)
    if kind is functools.partial:
        return _rebound_partial(value, views, wrappers - 1)
    return _rebound_function(value, views, wrappers - 1)


def _rebound_container(values: Any, views: _Views, wrappers: int) -> Any:  # noqa: ANN401
    items = list(values.values() if type(values) is dict else values)
    new = [_rebound(item, views, wrappers, in_container=True) for item in items]
    if all(after is before for after, before in zip(new, items, strict=True)):
        return values
    return dict(zip(values, new, strict=True)) if type(values) is dict else type(values)(new)


def _rebound_partial(value: functools.partial[Any], views: _Views, wrappers: int) -> functools.partial[Any]:
    parts = (value.func, value.args, value.keywords)
    function, arguments, keywords = (_rebound(part, views, wrappers) for part in parts)
    if function is value.func and arguments is value.args and keywords is value.keywords:
        return value
    new = functools.partial(function, *arguments, **keywords)
    vars(new).update(vars(value))
    return new


def _rebound_function(value: types.FunctionType, views: _Views, wrappers: int) -> Any:  # noqa: ANN401
    compiled_from = getattr(value, "_torchdynamo_orig_callable", None)
    if compiled_from is not None:
        # Compiled code is bound to the module that it was compiled for.
        function = _rebound(compiled_from, views, wrappers)
        return value if function is compiled_from else function
    cells = value.__closure__ or ()
    new_cells = tuple(_rebound_cell(cell, views, wrappers) for cell in cells)
    defaults = _rebound(value.__defaults__, views, wrappers)
    keyword_defaults = _rebound(value.__kwdefaults__, views, wrappers)
    unchanged = all(new is cell for new, cell in zip(new_cells, cells, strict=True))
    if unchanged and defaults is value.__defaults__ and keyword_defaults is value.__kwdefaults__:
        return value
    new = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, new_cells or None)
    new.__kwdefaults__ = keyword_defaults
    new.__qualname__ = value.__qualname__
    vars(new).update(vars(value))
    return new


def _rebound_cell(cell: types.CellType, views: _Views, wrappers: int) -> types.CellType:
    """The cell itself, which functions share, or a new one with views."""
    try:
        content = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    new = _rebound(content, views, wrappers)
    return cell if new is content else types.CellType(new)
