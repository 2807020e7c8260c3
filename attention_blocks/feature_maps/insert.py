"""Attention blocks put into any CNN, and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attention_blocks.evaluating import evaluating
from attention_blocks.feature_maps.ease_in import EaseIn
from attention_blocks.feature_maps.places import Example, Place, find_maps, matching

Block = Callable[[int], nn.Module]

# Where a network keeps its inserted blocks.
_NAME = "inserted_attention"


class Insertion(NamedTuple):
    """A block that was put into a network.

    Attributes:
        place: the module whose output it works on.
        block: the block itself.
        channels: C of the map there.
        height: H, for images of the size that was looked at.
        width: W, likewise.
    """

    place: str
    block: nn.Module
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        block = self.block.block if isinstance(self.block, EaseIn) else self.block
        parameters = sum(p.numel() for p in self.block.parameters())
        shape = f"{self.channels} channels, {self.height} x {self.width}"
        return f"{self.place}: {type(block).__name__}, {shape}, {parameters:,} parameters"


class InsertedAttention(nn.ModuleDict):
    """The blocks put into a network, by place, ``/`` standing for the dots of its name.

    They stand beside the network's own modules, which stay as they are, names and weights and all; each is called
    behind the module at its place. Called itself, as the last of an ``nn.Sequential`` is, it does nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, nn.Module] = {}
        self.handles: dict[str, RemovableHandle] = {}

    def put(self, place: str, block: nn.Module, host: nn.Module) -> None:
        """Lets a block work on what a module gives."""
        self[place.replace(".", "/")] = block
        self.hosts[place] = host
        self.handles[place] = host.register_forward_hook(_Behind(block))

    def follow(self, network: nn.Module) -> None:
        """Lets each block work on what stands at its place now."""
        for place, host in list(self.hosts.items()):
            if (now := network.get_submodule(place)) is not host:
                self.handles[place].remove()
                self.put(place, self[place.replace(".", "/")], now)

    def forward(self, x: Tensor) -> Tensor:
        """The identity."""
        return x


class _Behind:
    """Called with what a module gives, it gives what a block makes of that."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        return self.block(output)


def insert_attention(
    model: nn.Module,
    block: Block,
    where: Place | Sequence[Place],
    *,
    ease_in: bool = False,
    example: Example | None = None,
) -> list[Insertion]:
    """Puts an attention block behind chosen modules of a CNN.

    The sizes of the maps are found by running the network once, on zeros and without a trace: no weight, no running
    mean and no mode is changed.

    Args:
        model: any network of feature maps, from timm, torchvision or one's own; changed in place.
        block: makes a block as ``block(channels)``: a class, or a ``functools.partial`` of one.
        where: one or more places. A name, in which ``*`` stands for any part between dots: ``"layer*.*.bn2"``. A type
            of module: behind each of its kind. A number n: the end of the stage whose maps are 1 / n of the image, or
            near that where the network does not pad.
        ease_in: wraps each block in :class:`EaseIn`, so that the network's output is unchanged at first. For networks
            that are trained already.
        example: images to run the network on, (B, C, H, W), or several inputs that it takes; zeros of the size that
            timm's networks state, or of 64 to 224 pixels, when left out.

    Returns:
        What was put where, in the order in which the network comes by.

    Raises:
        ValueError: a place matches nothing that gives a feature map, a module is called more than once, a block stands
            there already, the network does not run on the example, or a block cannot be made for the channels there
            or changes the shape. The network is then as it was.
        TypeError: ``block`` is made already, or makes no module; ``where`` or ``model`` is something else altogether.

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
        given = f"a {type(block).__name__} that is made already" if isinstance(block, nn.Module) else repr(block)
        raise TypeError(f"block must make a block as block(channels), as the class SqueezeExcite does, got {given}")
    blocks = {id(part) for home in _homes(model).values() for part in home.modules()}
    maps = find_maps(model, example, lambda module: id(module) not in blocks)
    chosen: set[str] = set()
    for place in where if isinstance(where, Sequence) and not isinstance(where, str) else [where]:
        chosen.update(matching(place, model, maps))
    if not chosen:
        raise ValueError("where names no place; give a name, a type of module, or how much smaller the maps are")
    taken = inserted(model)
    insertions = []
    for name in (name for name in maps.given if name in chosen):
        shapes = maps.given[name]
        if len(shapes) > 1:
            parent = name.rpartition(".")[0]
            once = [name for name, shapes in maps.given.items() if len(shapes) == 1]
            other = parent if parent in once else next(iter(once), "")
            raise ValueError(
                f"where: {name!r} is called {len(shapes)} times in the network; choose a place that is called once"
                + (f", such as {other!r}" if other else "")
            )
        if name in taken:
            raise ValueError(f"where: there is a block behind {name!r} already; remove_attention(model) takes all out")
        insertions.append(_make(partial(EaseIn, block=block) if ease_in else block, name, shapes[0], model))
    home = getattr(model, _NAME, None)
    if home is None:
        home = InsertedAttention()
        model.add_module(_NAME, home)
    for insertion in insertions:
        home.put(insertion.place, insertion.block, model.get_submodule(insertion.place))
    return insertions


def inserted(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks that :func:`insert_attention` has put into a network, by place.

    Example:
        >>> inserted(nn.Conv2d(3, 8, 3))
        {}
    """
    found = {}
    for prefix, home in _homes(model).items():
        found.update({prefix + name.replace("/", "."): block for name, block in home.items()})
    return found


def follow_replaced(model: nn.Module) -> None:
    """Lets inserted blocks work on what stands at their places now, where modules were replaced since.

    ``nn.SyncBatchNorm.convert_sync_batchnorm`` replaces batch norms, and loses the blocks behind them;
    ``ConvClassifier`` calls this when its training starts.

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
    """Takes out every block that :func:`insert_attention` has put into a network, which is then as it was before.

    Raises:
        ValueError: there is none.

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
    """What was inserted into a network and, each by itself, into parts of it, by the name of the part and a dot."""
    return {
        name.removesuffix(_NAME): module
        for name, module in model.named_modules()
        if isinstance(module, InsertedAttention)
    }


def _make(block: Block, place: str, shape: torch.Size, model: nn.Module) -> Insertion:
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        made = block(shape[1])
    except ValueError as error:
        raise ValueError(f"block: none can be made for the {shape[1]} channels behind {place!r}: {error}") from error
    if not isinstance(made, nn.Module):
        raise TypeError(f"block must make an nn.Module of a number of channels, got {made!r}")
    made.to(device=parameter.device, dtype=parameter.dtype)
    with evaluating(made), torch.no_grad():
        given = made(torch.zeros(shape, device=parameter.device, dtype=parameter.dtype))
    if given.shape != shape:
        raise ValueError(
            f"block: {type(made).__name__} makes {tuple(given.shape)} of {tuple(shape)} behind {place!r}; "
            "only what keeps the shape can be inserted"
        )
    return Insertion(place, made.train(model.training), *shape[1:])
