"""Attention blocks put into any CNN, and taken out again."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attention_blocks.evaluating import evaluating
from attention_blocks.feature_maps.ease_in import EaseIn

Place = int | str | type[nn.Module]
Block = Callable[[int], nn.Module]

# Where a network keeps its inserted blocks.
_NAME = "inserted_attention"
_SIDES_TRIED = (64, 224, 32)


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
        self.handles: dict[str, RemovableHandle] = {}

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
    example: Tensor | None = None,
) -> list[Insertion]:
    """Puts an attention block behind chosen modules of a CNN.

    The sizes of the maps are found by running the network once, on zeros and without a trace: no weight, no running
    mean and no mode is changed.

    Args:
        model: any network of feature maps, from timm, torchvision or one's own; changed in place.
        block: makes a block as ``block(channels)``: a class, or a ``functools.partial`` of one.
        where: one or more places. A name, in which ``*`` stands for any part between dots: ``"layer*.*.bn2"``. A type
            of module: behind each of its kind. A number n: the end of the stage whose maps are 1 / n of the image.
        ease_in: wraps each block in :class:`EaseIn`, so that the network's output is unchanged at first. For networks
            that are trained already.
        example: images to run the network on, (B, C, H, W); zeros of the size that timm's networks state, or of 64 to
            224 pixels, when left out.

    Returns:
        What was put where, in the order in which the network comes by.

    Raises:
        ValueError: a place matches nothing that gives a feature map, a module is called more than once, a block stands
            there already, the network does not run on the example, or a block changes the shape. The network is then
            as it was.

    Example:
        >>> from attention_blocks import SqueezeExcite, insert_attention, remove_attention
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> for insertion in insert_attention(model, SqueezeExcite, nn.ReLU):
        ...     print(insertion)
        1: SqueezeExcite, 16 channels, 62 x 62, 49 parameters
        >>> remove_attention(model)
    """
    maps, image = _find_maps(model, example)
    chosen: set[str] = set()
    for place in [where] if isinstance(where, (int, str, type)) else where:
        chosen.update(_matching(place, model, maps, image))
    if not chosen:
        raise ValueError("where names no place; give a name, a type of module, or how much smaller the maps are")
    taken = {name.replace("/", ".") for name in inserted(model)}
    insertions = []
    for name in (name for name in maps if name in chosen):
        shapes = maps[name]
        if len(shapes) > 1:
            raise ValueError(
                f"where: {name!r} is called {len(shapes)} times in the network; choose a place that is one"
            )
        if name in taken:
            raise ValueError(f"where: there is a block behind {name!r} already; remove_attention(model) takes all out")
        insertions.append(_make(partial(EaseIn, block=block) if ease_in else block, name, shapes[0], model))
    if not hasattr(model, _NAME):
        model.add_module(_NAME, InsertedAttention())
    home = model.get_submodule(_NAME)
    assert isinstance(home, InsertedAttention)  # noqa: S101 (put there above)
    for insertion in insertions:
        home[insertion.place.replace(".", "/")] = insertion.block
        host = model.get_submodule(insertion.place)
        home.handles[insertion.place] = host.register_forward_hook(_Behind(insertion.block))
    return insertions


def inserted(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks that :func:`insert_attention` has put into a network, by place.

    Example:
        >>> inserted(nn.Conv2d(3, 8, 3))
        {}
    """
    home = getattr(model, _NAME, None)
    return {} if home is None else {name.replace("/", "."): block for name, block in home.items()}


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
    home = getattr(model, _NAME, None)
    if home is None:
        raise ValueError("model holds no inserted attention")
    for handle in home.handles.values():
        handle.remove()
    delattr(model, _NAME)


def _find_maps(model: nn.Module, example: Tensor | None) -> tuple[dict[str, list[torch.Size]], torch.Size]:
    """The shapes of the maps that each module gives, in the order in which they end, and that of the images."""
    failure: Exception | None = None
    for images in [example] if example is not None else _examples(model):
        try:
            return _record(model, images), images.shape
        except Exception as error:
            failure = error
    given = "example" if example is not None else f"model (tried with images of {_SIDES_TRIED} pixels; give an example)"
    raise ValueError(f"{given}: the sizes of the maps cannot be found, since the network does not run: {failure}")


def _record(model: nn.Module, images: Tensor) -> dict[str, list[torch.Size]]:
    maps: dict[str, list[torch.Size]] = {}

    def note(name: str, module: nn.Module, arguments: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            maps.setdefault(name, []).append(output.shape)

    own = (pair for pair in model.named_modules() if pair[0] and not pair[0].startswith(_NAME))
    handles = [module.register_forward_hook(partial(note, name)) for name, module in own]
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _examples(model: nn.Module) -> Iterator[Tensor]:
    parameter = next(model.parameters(), torch.zeros(()))
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ValueError("model has no convolution, so it gives no feature maps to insert attention behind")
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    sizes = [tuple(stated)] if stated else [(first.in_channels, side, side) for side in _SIDES_TRIED]
    for size in sizes:
        yield torch.zeros(1, *size, dtype=parameter.dtype, device=parameter.device)


def _matching(place: Place, model: nn.Module, maps: dict[str, list[torch.Size]], image: torch.Size) -> Iterable[str]:
    if isinstance(place, type):
        found = [name for name in maps if isinstance(model.get_submodule(name), place)]
        near = sorted({type(model.get_submodule(name)).__name__ for name in maps})
    elif isinstance(place, int):
        sides = [-(-side // max(place, 1)) for side in image[2:]]
        found = [name for name, shapes in maps.items() if list(shapes[-1][2:]) == sides][-1:]
        near = sorted({str(round(image[2] / shapes[-1][2])) for shapes in maps.values()}, key=int)
    else:
        found = [name for name in maps if _fits(name, place)]
        near = difflib.get_close_matches(place, maps, n=5, cutoff=0.4) or list(maps)[:5]
    if not found:
        shown = place.__name__ if isinstance(place, type) else repr(place)
        raise ValueError(f"where: nothing that gives a feature map matches {shown}; near it: {', '.join(near)}")
    return found


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _make(block: Block, place: str, shape: torch.Size, model: nn.Module) -> Insertion:
    parameter = next(model.parameters(), torch.zeros(()))
    made = block(shape[1]).to(device=parameter.device, dtype=parameter.dtype)
    with evaluating(made), torch.no_grad():
        given = made(torch.zeros(shape, device=parameter.device, dtype=parameter.dtype))
    if given.shape != shape:
        raise ValueError(
            f"block: {type(made).__name__} makes {tuple(given.shape)} of {tuple(shape)} behind {place!r}; "
            "only what keeps the shape can be inserted"
        )
    return Insertion(place, made.train(model.training), *shape[1:])
