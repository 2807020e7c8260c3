"""Where in a CNN attention can go: the modules that give feature maps, and how a caller names them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attention_blocks.evaluating import evaluating

Place = int | str | type[nn.Module]
Example = Tensor | Sequence[Tensor]

_SIDES_TRIED = (64, 224, 32)
# How far a map may be from the size that is asked for, since some networks do not pad: by a sixth.
_NEAR = 0.23


class Maps(NamedTuple):
    """The feature maps of a network, found by running it once.

    Attributes:
        image: shape of the images it was run on.
        given: the shapes that each module gives, (B, C, H, W), once a call, in the order in which the modules end.
        taken: the shape that each module is given first.
        channels_last: the modules whose maps are (B, H, W, C).
    """

    image: torch.Size
    given: dict[str, list[torch.Size]]
    taken: dict[str, torch.Size]
    channels_last: set[str]


def find_maps(model: nn.Module, example: Example | None, counts: Callable[[nn.Module], bool]) -> Maps:
    """Runs a network once, on zeros where there is no example, and without a trace.

    Args:
        model: any network.
        example: what to run it on.
        counts: whether a module is one of the network's own.

    Raises:
        ValueError: it does not run.
    """
    failure: Exception | None = None
    for inputs in _examples(model) if example is None else [(example,) if isinstance(example, Tensor) else example]:
        try:
            return _record(model, inputs, counts)
        except Exception as error:
            failure = error
    given = "example" if example is not None else f"model (tried with images of {_SIDES_TRIED} pixels; give an example)"
    raise ValueError(f"{given}: the sizes of the maps cannot be found, since the network does not run: {failure}")


def _examples(model: nn.Module) -> Iterator[Sequence[Tensor]]:
    parameter = next(model.parameters(), torch.zeros(()))
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ValueError("model has no convolution, so it gives no feature maps to insert attention behind")
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    sizes = [tuple(stated)] if stated else [(first.in_channels, side, side) for side in _SIDES_TRIED]
    for size in sizes:
        yield (torch.zeros(1, *size, dtype=parameter.dtype, device=parameter.device),)


def _record(model: nn.Module, inputs: Sequence[Tensor], counts: Callable[[nn.Module], bool]) -> Maps:
    image = next((given.shape for given in inputs if given.ndim == 4), None)
    if image is None:
        raise ValueError(f"no images, (B, C, H, W), among inputs of {[tuple(given.shape) for given in inputs]}")
    maps = Maps(image, {}, {}, set())

    def note(name: str, module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            if _is_channels_last(output.shape, image):
                maps.channels_last.add(name)
                return
            maps.given.setdefault(name, []).append(output.shape)
            if arguments and isinstance(arguments[0], Tensor) and arguments[0].ndim == 4:
                maps.taken.setdefault(name, arguments[0].shape)

    own = [(name, module) for name, module in model.named_modules() if name and counts(module)]
    handles = [module.register_forward_hook(partial(note, name)) for name, module in own]
    try:
        with evaluating(model), torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _is_channels_last(shape: torch.Size, image: torch.Size) -> bool:
    """Whether the second and third sizes are as far apart as the image's sides, and the last two are not."""
    wanted = math.log(image[2] / image[3])

    def apart(first: int, second: int) -> float:
        return abs(math.log(max(shape[first], 1) / max(shape[second], 1)) - wanted)

    return apart(1, 2) < 1e-6 and apart(2, 3) > 0.3  # a map of a few places may be off by rounding


def matching(place: Place, model: nn.Module, maps: Maps) -> list[str]:
    """The modules that a place means.

    Raises:
        ValueError: there is none.
        TypeError: a place is neither name nor type nor number.
    """
    if isinstance(place, type):
        found = [name for name in maps.given if isinstance(model.get_submodule(name), place)]
        near = sorted({type(model.get_submodule(name)).__name__ for name in maps.given})
        last = [name for name in maps.channels_last if isinstance(model.get_submodule(name), place)]
    elif isinstance(place, int) and not isinstance(place, bool):
        found = _stage_end(place, model, maps)
        near = sorted({str(round(maps.image[2] / shapes[-1][2])) for shapes in maps.given.values()}, key=int)
        last = [] if maps.given else sorted(maps.channels_last)
    elif isinstance(place, str):
        found = [name for name in maps.given if _fits(name, place)]
        near = difflib.get_close_matches(place, maps.given, n=5, cutoff=0.4) or list(maps.given)[:5]
        last = [name for name in maps.channels_last if _fits(name, place)]
    else:
        raise TypeError(f"where must be a name, a type of module or a number, or several of these, got {place!r}")
    if not found:
        shown = place.__name__ if isinstance(place, type) else repr(place)
        why = f"; {min(last)!r} has its channels last, (B, H, W, C), which blocks do not take" if last else ""
        raise ValueError(
            f"where: nothing that gives a feature map matches {shown}; near it: {', '.join(near) or 'none'}{why}"
        )
    return found


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _stage_end(smaller: int, model: nn.Module, maps: Maps) -> list[str]:
    """The last module whose map is so much smaller than the image, in front of the way down to the next size.

    A pooling of the whole map, which is as small as the last stage's on small images, is no stage.
    """
    if smaller < 1:
        return []
    off = {name: _off(shapes[-1], maps.image, smaller) for name, shapes in maps.given.items()}
    nearest = min(off.values(), default=math.inf)
    if nearest > _NEAR:
        return []
    found = [
        name for name in off if off[name] == nearest and "Adaptive" not in type(model.get_submodule(name)).__name__
    ]
    return [name for name in found if not _on_the_way_down(name, model, maps)][-1:] or found[-1:]


def _off(shape: torch.Size, image: torch.Size, smaller: int) -> float:
    """How far a map is from 1 / smaller of the image, in octaves; 0 where it is that, rounded up."""
    if all(side == -(-whole // smaller) for side, whole in zip(shape[2:], image[2:], strict=True)):
        return 0.0
    return max(abs(math.log2(whole / side / smaller)) for side, whole in zip(shape[2:], image[2:], strict=True))


def _on_the_way_down(name: str, model: nn.Module, maps: Maps) -> bool:
    """Whether a module is the beginning of one that takes maps of this size and gives smaller ones.

    A stage or a block in a plain sequence of them is not, though the sequence goes further down.
    """
    size, parts = maps.given[name][-1][2:], name.split(".")
    for depth in range(1, len(parts)):
        parent, child = ".".join(parts[:depth]), ".".join(parts[: depth + 1])
        if parent in maps.taken and maps.taken[parent][2:] == size and maps.given[parent][-1][2] < size[0]:
            in_sequence = type(model.get_submodule(parent)) is nn.Sequential
            if not (in_sequence and any(True for _ in model.get_submodule(child).children())):
                return True
    return False
