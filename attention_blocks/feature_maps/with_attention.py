"""A module of a network together with the attention block that is inserted after it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn

# Tools look these names up in each module to see whether they have already changed it: torch's parametrizations and
# compiled modules, accelerate's hooks. Those of the host must not be taken for the wrapper's own.
_MARKS = frozenset({"parametrizations", "_orig_mod", "_hf_hook", "_old_forward"})


class WithAttention(nn.Module):
    """Applies attention to the output of a module, in whose place it stands in the network.

    ::

        x ── host ── attention ──▶

    For the rest of the network it stands in for the host: attributes, items and length are the host's, and attributes
    that the host has are set in the host. A state dict of the network without attention fits: the host's keys are
    found without the prefix ``host.``.

    Iteration yields the host's items and then the attention, so that a network that calls the parts of a stage one by
    one applies the attention too.

    Args:
        host: the module; it is not changed.
        attention: block that is applied to the host's output.

    Attributes:
        host: the module.
        attention: the block.

    Example:
        >>> import torch
        >>> norm = WithAttention(nn.BatchNorm2d(8), nn.Sigmoid())
        >>> norm.num_features
        8
        >>> norm.load_state_dict(nn.BatchNorm2d(8).state_dict())
        <All keys matched successfully>
    """

    host: nn.Module
    attention: nn.Module

    def __init__(self, host: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.host = host
        self.attention = attention
        self.training = host.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 # the host's
        """Applies host and attention to the host's arguments."""
        return self.attention(self.host(*args, **kwargs))

    def _is_hosts(self, name: str) -> bool:
        """Whether an attribute is looked up in the host; not whether the host has it."""
        state = vars(self)  # empty while the module is unpickled
        if "host" not in state.get("_modules", ()) or name in state or hasattr(type(self), name):
            return False
        own = {"attention", *state["_modules"], *state["_parameters"], *state["_buffers"]}
        # Methods such as __deepcopy__ are those of one object.
        return not (name in own or name in _MARKS or (name.startswith("__") and name.endswith("__")))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 # the host's
        return getattr(self.host, name) if self._is_hosts(name) else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 # the host's
        if self._is_hosts(name) and hasattr(self.host, name):
            setattr(self.host, name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_hosts(name):
            delattr(self.host, name)
        else:
            super().__delattr__(name)

    # Special methods are looked up in the class, never by __getattr__.

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 # the host's
        return self.host[index]  # type: ignore[index]

    def __setitem__(self, index: Any, value: Any) -> None:  # noqa: ANN401 # the host's
        self.host[index] = value  # type: ignore[operator]

    def __delitem__(self, index: Any) -> None:  # noqa: ANN401 # the host's
        del self.host[index]  # type: ignore[operator]

    def __len__(self) -> int:
        return len(self.host)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True  # like other modules, whether or not the host has a length

    def __iter__(self) -> Iterator[Any]:
        # A network that iterates over a stage calls its parts one by one, and then never calls this module.
        return chain(iter(self.host), [self.attention])  # type: ignore[call-overload]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        keys = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        if self._are_hosts(keys):
            hosts = [key for key in keys if not key.startswith("attention.") or _has(self.host, key)]
            # All are taken out first, since a new name may be the old name of another.
            values = [state_dict.pop(prefix + key) for key in hosts]
            state_dict.update({f"{prefix}host.{key}": value for key, value in zip(hosts, values, strict=True)})
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _are_hosts(self, keys: list[str]) -> bool:
        """Whether keys are those of the host without attention, and so lack the prefix ``host.``.

        The host may have children named "host" and "attention" itself, so the reading that explains more keys is taken.
        """
        prefixed = [key.removeprefix("host.") for key in keys if key.startswith("host.")]
        ours, hosts = (sum(_has(self.host, key) for key in names) for names in (prefixed, keys))
        # Neither explains any old names, which the host converts itself.
        return hosts > ours or not prefixed


def _has(module: nn.Module | None, key: str) -> bool:
    """Whether a key of a state dict, with the attention inside of the module or without it, belongs to a module."""
    if module is None:
        return False
    name, _, rest = key.partition(".")
    if rest:
        found = _has(module._modules.get(name), rest)
    else:
        found = name in module._parameters or name in module._buffers or name == "_extra_state"
    return found or (isinstance(module, WithAttention) and _has(module.host, key))


def network_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of a network by their names in the network without attention; blocks are left out.

    At a location with attention, the :class:`WithAttention` comes first, and then the module itself under the same
    name. A module that has several names is yielded once, as by ``named_modules``.

    Args:
        model: the network.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), WithAttention(nn.ReLU(), nn.Sigmoid()))
        >>> [(name, type(part).__name__) for name, part in network_parts(model)]
        [('', 'Sequential'), ('0', 'Conv2d'), ('1', 'WithAttention'), ('1', 'ReLU')]
    """
    yield from _parts(model, "", set())


def _parts(module: nn.Module, name: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    yield name, module
    if isinstance(module, WithAttention):
        yield from _parts(module.host, name, seen)
        return
    for child_name, child in module.named_children():
        yield from _parts(child, f"{name}.{child_name}" if name else child_name, seen)


def original_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of a network without the attention inserted into it, by their names in that network.

    Args:
        model: the network.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), WithAttention(nn.ReLU(), nn.Sigmoid()))
        >>> [name for name, part in original_parts(model)]
        ['', '0', '1']
    """
    return ((name, part) for name, part in network_parts(model) if not isinstance(part, WithAttention))
