"""Inserts attention blocks into any CNN, and removes them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attention_blocks.evaluating import evaluating
from attention_blocks.feature_maps.ease_in import EaseIn
from attention_blocks.feature_maps.locations import Example, Location, find_feature_maps, matching

Block = Callable[[int], nn.Module]

# Name of the submodule that holds the inserted blocks of a network.
_NAME = "inserted_attention"


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


class InsertedAttention(nn.ModuleDict):
    """Inserted blocks by location, with ``/`` in place of the dots of its name.

    The network's own modules keep their names and weights; each block is applied to the output of the module at its
    location. Called itself, as the last child of an ``nn.Sequential`` is, it is the identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, nn.Module] = {}
        self.handles: dict[str, RemovableHandle] = {}

    def put(self, location: str, block: nn.Module, host: nn.Module) -> None:
        """Applies a block to the output of a module."""
        self[location.replace(".", "/")] = block
        self.hosts[location] = host
        self.handles[location] = host.register_forward_hook(_ApplyAfter(block))

    def follow(self, network: nn.Module) -> None:
        """Applies each block to the output of the module that is at its location now."""
        for location, host in list(self.hosts.items()):
            if (now := network.get_submodule(location)) is not host:
                self.handles[location].remove()
                self.put(location, self[location.replace(".", "/")], now)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``."""
        return x


class _ApplyAfter:
    """Forward hook that replaces the output of a module by the output of a block on it."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        return self.block(output)


def insert_attention(
    model: nn.Module,
    block: Block,
    where: Location | Sequence[Location],
    *,
    ease_in: bool = False,
    example: Example | None = None,
) -> list[Insertion]:
    """Inserts an attention block after chosen modules of a CNN.

    The sizes of the feature maps are recorded by running the network once, on zeros; weights, running statistics and
    training mode do not change.

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
            is a block already, the network does not run on the example, or a block cannot be created for the channels
            or changes the shape. The network is unchanged then.
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
    blocks = {id(part) for home in _homes(model).values() for part in home.modules()}
    maps = find_feature_maps(model, example, lambda module: id(module) not in blocks)
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
        insertions.append(_create(partial(EaseIn, block=block) if ease_in else block, name, shapes[0], model))
    home = getattr(model, _NAME, None)
    if home is None:
        home = InsertedAttention()
        model.add_module(_NAME, home)
    for insertion in insertions:
        home.put(insertion.location, insertion.block, model.get_submodule(insertion.location))
    return insertions


def inserted(model: nn.Module) -> dict[str, nn.Module]:
    """Blocks that :func:`insert_attention` has inserted into a network, by location.

    Example:
        >>> inserted(nn.Conv2d(3, 8, 3))
        {}
    """
    found = {}
    for prefix, home in _homes(model).items():
        found.update({prefix + name.replace("/", "."): block for name, block in home.items()})
    return found


def follow_replaced(model: nn.Module) -> None:
    """Applies inserted blocks to the modules that are at their locations now, if modules were replaced.

    ``nn.SyncBatchNorm.convert_sync_batchnorm`` replaces batch norms, and loses the blocks inserted after them;
    ``ConvClassifier`` calls this function when training starts.

    Example:
        >>> from attention_blocks import SqueezeExcite, insert_attention
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
        >>> _ = insert_attention(model, SqueezeExcite, "1")
        >>> model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        >>> follow_replaced(model)
    """
    for prefix, home in _homes(model).items():
        home.follow(model.get_submodule(prefix.removesuffix(".")))


def remove_attention(model: nn.Module) -> None:
    """Removes all blocks that :func:`insert_attention` has inserted, which restores the original network.

    Raises:
        ValueError: there are none.

    Example:
        >>> from attention_blocks import SqueezeExcite, insert_attention, remove_attention
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        >>> _ = insert_attention(model, SqueezeExcite, "0")
        >>> remove_attention(model)
        >>> inserted(model)
        {}
    """
    homes = _homes(model)
    if not homes:
        raise ValueError("model holds no inserted attention")
    for prefix, home in homes.items():
        for handle in home.handles.values():
            handle.remove()
        delattr(model.get_submodule(prefix.removesuffix(".")), _NAME)


def _homes(model: nn.Module) -> dict[str, InsertedAttention]:
    """Inserted blocks of a network and of those of its parts that have their own, by the part's name and a dot."""
    return {
        name.removesuffix(_NAME): module
        for name, module in model.named_modules()
        if isinstance(module, InsertedAttention)
    }


def _create(block: Block, location: str, shape: torch.Size, model: nn.Module) -> Insertion:
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        created = block(shape[1])
    except ValueError as error:
        raise ValueError(f"block: cannot be created for the {shape[1]} channels of {location!r}: {error}") from error
    if not isinstance(created, nn.Module):
        raise TypeError(f"block must create an nn.Module from a number of channels, got {created!r}")
    created.to(device=parameter.device, dtype=parameter.dtype)
    with evaluating(created), torch.no_grad():
        output = created(torch.zeros(shape, device=parameter.device, dtype=parameter.dtype))
    if output.shape != shape:
        raise ValueError(
            f"block: {type(created).__name__} turns {tuple(shape)} into {tuple(output.shape)} after {location!r}; "
            "only blocks that keep the shape can be inserted"
        )
    return Insertion(location, created.train(model.training), *shape[1:])
