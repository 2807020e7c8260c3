"""Inserts attention blocks into any CNN, and removes them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from attention_blocks.feature_maps.ease_in import EaseIn
from attention_blocks.feature_maps.locations import Example, FeatureMaps, Location, find_feature_maps, matching
from attention_blocks.feature_maps.with_attention import WithAttention, network_parts, original_parts

Block = Callable[[int], nn.Module]


class Insertion(NamedTuple):
    """A block inserted into a network.

    Attributes:
        location: name of the module that it was inserted after.
        block: the block.
        channels: C of the feature map.
        height: H of the feature map, for the example images.
        width: W of the feature map, for the example images.
    """

    location: str
    block: nn.Module
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        block = self.block.block if isinstance(self.block, EaseIn) else self.block
        parameters = sum(p.numel() for p in self.block.parameters())
        shape = f"{self.channels} channels, {self.height} x {self.width}"
        return f"{self.location}: {type(block).__name__}, {shape}, {parameters:,} parameters"


def insert_attention(
    model: nn.Module,
    block: Block,
    where: Location | Sequence[Location],
    *,
    ease_in: bool = False,
    example: Example | None = None,
) -> list[Insertion]:
    """Inserts an attention block after chosen modules of a CNN.

    Each module is replaced by a :class:`WithAttention`, which calls the module itself and then the block: as its
    children ``host`` and ``attention``. Weights of the network without attention can still be loaded; those of the
    blocks are missing then, so pass ``strict=False``.

    The sizes of the feature maps are recorded by running the network on zeros; weights, running statistics and
    training mode do not change. Blocks have the device and the dtype of the feature map that they are applied to.

    Args:
        model: any network of feature maps, from timm, torchvision or your own; changed in place.
        block: creates a block, called as ``block(channels)``: a class, or a ``functools.partial`` of one.
        where: one or more locations. A name, in which ``*`` matches any part between dots: ``"layer*.*.bn2"``. A type
            of module: after each module of that type. A number n: the end of the stage whose feature maps are n times
            smaller than the image, or nearly so if the network does not pad.
        ease_in: wrap each block in :class:`EaseIn`, so that the output of the network is unchanged at first; for
            networks that are already trained.
        example: images to run the network on, (B, C, H, W), or all of its inputs. If omitted, zeros of the size that
            timm's networks state, or of 64 to 224 pixels.

    Returns:
        The insertions, in the order in which the network calls the modules.

    Raises:
        ValueError: a location matches no module that returns a feature map, a module is called more than once, there
            is a block already, the network does not run on the example, with the blocks or without, or a block cannot
            be created for the channels or changes the shape. The network is unchanged then.
        TypeError: ``block`` is a module, or does not create one; ``where`` or ``model`` has another type.

    Example:
        >>> from attention_blocks import SqueezeExcite, insert_attention, remove_attention
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> for insertion in insert_attention(model, SqueezeExcite, nn.ReLU):
        ...     print(insertion)
        1: SqueezeExcite, 16 channels, 62 x 62, 49 parameters
        >>> remove_attention(model)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a network, an nn.Module, got {model!r}")
    if isinstance(block, nn.Module) or not callable(block):
        got = f"a module, {type(block).__name__}" if isinstance(block, nn.Module) else repr(block)
        raise TypeError(f"block must create a block as block(channels), as the class SqueezeExcite does, got {got}")
    maps = find_feature_maps(model, example)
    chosen: set[str] = set()
    for location in where if isinstance(where, Sequence) and not isinstance(where, str) else [where]:
        chosen.update(matching(location, model, maps))
    if not chosen:
        raise ValueError("where is empty; pass a name, a type of module, or how many times smaller the maps are")
    taken = inserted(model)
    insertions = []
    for name in (name for name in maps.outputs if name in chosen):
        shapes = maps.outputs[name]
        if len(shapes) > 1:
            parent = name.rpartition(".")[0]
            once = [name for name, shapes in maps.outputs.items() if len(shapes) == 1]
            other = parent if parent in once else next(iter(once), "")
            raise ValueError(
                f"where: {name!r} is called {len(shapes)} times in the network; choose a module that is called once"
                + (f", such as {other!r}" if other else "")
            )
        if name in taken:
            raise ValueError(
                f"where: there is a block after {name!r} already; remove_attention(model) removes all blocks"
            )
        insertions.append(_create(partial(EaseIn, block=block) if ease_in else block, name, maps, model.training))
    parts = dict(original_parts(model))
    wrappers = [WithAttention(parts[insertion.location], insertion.block) for insertion in insertions]
    _replace(model, {wrapper.host: wrapper for wrapper in wrappers})
    try:
        _check_they_act(model, example, insertions)
    except ValueError:
        _remove(model, wrappers)
        raise
    return insertions


def inserted(model: nn.Module) -> dict[str, nn.Module]:
    """Blocks that :func:`insert_attention` has inserted into a network, by location.

    A location is the name of a module in the network without attention; ``model.get_submodule(location)`` finds the
    module with the block.

    Args:
        model: the network.

    Example:
        >>> inserted(nn.Conv2d(3, 8, 3))
        {}
    """
    return {name: part.attention for name, part in network_parts(model) if isinstance(part, WithAttention)}


def remove_attention(model: nn.Module) -> None:
    """Removes all blocks that :func:`insert_attention` has inserted, which restores the original network.

    Args:
        model: the network; changed in place.

    Raises:
        ValueError: there are none; or ``model`` is not the whole network, but a module with attention after it.

    Example:
        >>> from attention_blocks import SqueezeExcite, insert_attention, remove_attention
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        >>> _ = insert_attention(model, SqueezeExcite, "0")
        >>> remove_attention(model)
        >>> inserted(model)
        {}
    """
    if isinstance(model, WithAttention):
        raise ValueError("model is a module with attention after it; pass the network that it is a part of")
    wrappers = [part for _, part in network_parts(model) if isinstance(part, WithAttention)]
    if not wrappers:
        raise ValueError("model holds no inserted attention")
    _remove(model, wrappers)


def _remove(model: nn.Module, wrappers: Iterable[WithAttention]) -> None:
    """Puts the original modules back in the places of those with attention."""
    originals: dict[nn.Module, nn.Module] = {}
    for wrapper in wrappers:
        host = wrapper.host
        while isinstance(host, WithAttention):
            host = host.host
        originals[wrapper] = host
    _replace(model, originals)


def _replace(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replaces modules wherever a module of the network refers to them, keeping the order of children.

    Besides children, these are attributes, and lists, tuples and dictionaries of modules, which some networks keep next
    to their children and call.
    """
    new = {id(module): replacement for module, replacement in replacements.items()}

    def replaced(value: Any) -> Any:  # noqa: ANN401
        if type(value) is dict:
            return {key: new.get(id(item), item) for key, item in value.items()}
        return type(value)(new.get(id(item), item) for item in value)

    for owner in list(model.modules()):
        for name, child in owner._modules.items():
            if id(child) in new:
                owner._modules[name] = new[id(child)]
        attributes = vars(owner)
        for name, value in attributes.items():
            if id(value) in new:
                attributes[name] = new[id(value)]
            elif type(value) in (list, tuple, dict) and name != "_modules":
                items = value.values() if type(value) is dict else value
                if any(id(item) in new for item in items):
                    attributes[name] = replaced(value)


def _check_they_act(model: nn.Module, example: Example | None, insertions: Sequence[Insertion]) -> None:
    try:
        attended = find_feature_maps(model, example).attended
    except ValueError as error:
        raise ValueError(f"where: attention cannot be inserted there; {error}") from error
    idle = [insertion.location for insertion in insertions if insertion.location not in attended]
    if idle:
        raise ValueError(
            f"where: the network does not call {idle[0]!r} as its submodule, so attention after it would not be "
            "applied; choose another module, such as the one that it is a part of"
        )


def _create(block: Block, location: str, maps: FeatureMaps, training: bool) -> Insertion:
    shape, like = maps.outputs[location][0], maps.like[location]
    try:
        created = block(shape[1])
    except ValueError as error:
        raise ValueError(f"block: cannot be created for the {shape[1]} channels of {location!r}: {error}") from error
    if not isinstance(created, nn.Module):
        raise TypeError(f"block must create an nn.Module from a number of channels, got {created!r}")
    created.to(like)
    with torch.no_grad():
        output = created.eval()(like.new_zeros(shape))
    if output.shape != shape:
        raise ValueError(
            f"block: {type(created).__name__} turns {tuple(shape)} into {tuple(output.shape)} after {location!r}; "
            "only blocks that keep the shape can be inserted"
        )
    return Insertion(location, created.train(training), *shape[1:])
