"""Locations in a CNN where attention can be inserted: modules that return feature maps, and how to select them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attention_blocks.feature_maps.with_attention import WithAttention, network_parts, original_parts

Location = int | str | type[nn.Module]
Example = Tensor | Sequence[Tensor]

_SIDES_TRIED = (64, 224, 32)
# Largest deviation of a feature map from the wanted size, in octaves (a sixth), since some networks do not pad.
_NEAR = 0.23


class FeatureMaps(NamedTuple):
    """Shapes of the feature maps in a network, recorded by running it once.

    Attributes:
        image: shape of the images it was run on.
        outputs: for each module, by name, the shapes (B, C, H, W) of its outputs, one per call; in the order in which
            the modules finish.
        inputs: for each module, by name, the shape of its first input.
        like: for each module, by name, an empty tensor with the dtype and the device of its output.
        channels_last: names of the modules whose outputs are (B, H, W, C).
        attended: names of the modules after which inserted attention was called.
    """

    image: torch.Size
    outputs: dict[str, list[torch.Size]]
    inputs: dict[str, torch.Size]
    like: dict[str, Tensor]
    channels_last: set[str]
    attended: set[str]


def find_feature_maps(model: nn.Module, example: Example | None) -> FeatureMaps:
    """Runs a network once without side effects and records the shapes of its feature maps.

    Modules have their names in the network without inserted attention, and their outputs are those before it.

    Args:
        model: any network.
        example: inputs to run it on; defaults to zeros.

    Raises:
        ValueError: the network does not run.
    """
    failure: Exception | None = None
    for inputs in _examples(model) if example is None else [(example,) if isinstance(example, Tensor) else example]:
        try:
            return _record(model, inputs)
        except Exception as error:
            failure = error
    source = "example" if example is not None else f"model (tried images of {_SIDES_TRIED} pixels; pass an example)"
    raise ValueError(f"{source}: the feature maps cannot be recorded, since the network does not run: {failure}")


def _examples(model: nn.Module) -> Iterator[Sequence[Tensor]]:
    parameter = next(model.parameters(), torch.zeros(()))
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ValueError("model has no convolution, so there are no feature maps to insert attention after")
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    sizes = [tuple(stated)] if stated else [(first.in_channels, side, side) for side in _SIDES_TRIED]
    for size in sizes:
        yield (torch.zeros(1, *size, dtype=parameter.dtype, device=parameter.device),)


def _record(model: nn.Module, inputs: Sequence[Tensor]) -> FeatureMaps:
    image = next((x.shape for x in inputs if x.ndim == 4), None)
    if image is None:
        raise ValueError(f"no images, (B, C, H, W), among inputs of {[tuple(x.shape) for x in inputs]}")
    maps = FeatureMaps(image, {}, {}, {}, set(), set())

    def record(name: str, module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            if _is_channels_last(output.shape, image):
                maps.channels_last.add(name)
                return
            maps.outputs.setdefault(name, []).append(output.shape)
            maps.like[name] = output.new_empty(0)
            if arguments and isinstance(arguments[0], Tensor) and arguments[0].ndim == 4:
                maps.inputs.setdefault(name, arguments[0].shape)

    def record_attention(name: str, *call: object) -> None:
        maps.attended.add(name)

    handles = []
    for name, part in network_parts(model):
        if isinstance(part, WithAttention):
            handles.append(part.attention.register_forward_hook(partial(record_attention, name)))
        elif name:
            handles.append(part.register_forward_hook(partial(record, name)))
    # The attributes alone, since train() of some layers changes their weights. The model is about to change anyway, so
    # that nobody else can be using it.
    modes = {part: part.training for part in model.modules()}
    try:
        for part in modes:
            part.training = False
        with torch.no_grad():
            model(*inputs)
    finally:
        for part, training in modes.items():
            part.training = training
        for handle in handles:
            handle.remove()
    return maps


def _is_channels_last(shape: torch.Size, image: torch.Size) -> bool:
    """Whether the second and third sizes have the aspect ratio of the image, and the last two do not."""
    wanted = math.log(image[2] / image[3])

    def deviation(first: int, second: int) -> float:
        return abs(math.log(max(shape[first], 1) / max(shape[second], 1)) - wanted)

    return deviation(1, 2) < 1e-6 and deviation(2, 3) > 0.3  # the sizes of tiny feature maps are rounded


def matching(location: Location, model: nn.Module, maps: FeatureMaps) -> list[str]:
    """Names of the modules that a location selects.

    Args:
        location: a name pattern, a type of module, or how many times smaller than the image the feature maps are.
        model: the network.
        maps: its feature maps.

    Raises:
        ValueError: it selects none.
        TypeError: it is neither a name nor a type nor a number.
    """
    parts = dict(original_parts(model))
    if isinstance(location, type):
        found = [name for name in maps.outputs if isinstance(parts[name], location)]
        near = sorted({type(parts[name]).__name__ for name in maps.outputs})
        last = [name for name in maps.channels_last if isinstance(parts[name], location)]
    elif isinstance(location, int) and not isinstance(location, bool):
        found = _stage_end(location, parts, maps)
        near = sorted({str(round(maps.image[2] / shapes[-1][2])) for shapes in maps.outputs.values()}, key=int)
        last = [] if maps.outputs else sorted(maps.channels_last)
    elif isinstance(location, str):
        found = [name for name in maps.outputs if _fits(name, location)]
        near = difflib.get_close_matches(location, maps.outputs, n=5, cutoff=0.4) or list(maps.outputs)[:5]
        last = [name for name in maps.channels_last if _fits(name, location)]
    else:
        raise TypeError(f"where must be a name, a type of module or a number, or several of these, got {location!r}")
    if not found:
        shown = location.__name__ if isinstance(location, type) else repr(location)
        why = f"; {min(last)!r} has its channels last, (B, H, W, C), which blocks do not support" if last else ""
        raise ValueError(
            f"where: no module that returns a feature map matches {shown}; near matches: "
            f"{', '.join(near) or 'none'}{why}"
        )
    return found


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _stage_end(stride: int, parts: Mapping[str, nn.Module], maps: FeatureMaps) -> list[str]:
    """Last module of the stage whose feature maps are ``stride`` times smaller than the image.

    Global pooling is not a stage, though on small images its output is as small as the last stage's.
    """
    if stride < 1:
        return []
    deviations = {name: _deviation(shapes[-1], maps.image, stride) for name, shapes in maps.outputs.items()}
    smallest = min(deviations.values(), default=math.inf)
    if smallest > _NEAR:
        return []
    found = [
        name
        for name, deviation in deviations.items()
        if deviation == smallest and "Adaptive" not in type(parts[name]).__name__
    ]
    return [name for name in found if not _starts_downsampling(name, parts, maps)][-1:] or found[-1:]


def _deviation(shape: torch.Size, image: torch.Size, stride: int) -> float:
    """Deviation of a feature map from 1 / stride of the image, in octaves; 0 if it is that size, rounded up."""
    if all(side == -(-whole // stride) for side, whole in zip(shape[2:], image[2:], strict=True)):
        return 0.0
    return max(abs(math.log2(whole / side / stride)) for side, whole in zip(shape[2:], image[2:], strict=True))


def _starts_downsampling(name: str, parts: Mapping[str, nn.Module], maps: FeatureMaps) -> bool:
    """Whether a module belongs to the start of a module that downsamples its input.

    A stage or block in a plain sequence does not, though the sequence as a whole downsamples.
    """
    size, path = maps.outputs[name][-1][2:], name.split(".")
    for depth in range(1, len(path)):
        parent, child = ".".join(path[:depth]), ".".join(path[: depth + 1])
        if parent in maps.inputs and maps.inputs[parent][2:] == size and maps.outputs[parent][-1][2] < size[0]:
            in_sequence = type(parts[parent]) is nn.Sequential
            if not (in_sequence and any(True for _ in parts[child].children())):
                return True
    return False
