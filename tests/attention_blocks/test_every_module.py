"""Tests of every public module that is not an attention block, each built and called by a recipe."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import attention_blocks
from attention_blocks import (
    ALiBi,
    Attention,
    DecoderLayer,
    DropPath,
    EncoderLayer,
    FeatureMapAttention,
    FeedForward,
    LayerScale,
    LearnedPosition,
    LearnedPosition2d,
    NoPosition,
    RelativePositionBias,
    Residual,
    RMSNorm,
    RotaryPosition,
    SequenceBatchNorm,
    SinCosPosition2d,
    SinusoidalPosition,
    SwiGLU,
    TransformerDecoder,
    TransformerEncoder,
)
from tests.marks import slow_except


class Recipe:
    """How to build and call a module.

    Args:
        build: creates the module.
        inputs: the shape of each tensor, such as "B T 16"; letters are dynamic sizes in export. A length that is an
            argument of its own is a letter after a hash, "#T".
    """

    def __init__(self, build: Callable[[], nn.Module], *inputs: str) -> None:
        self.build = build
        self.inputs = inputs

    def module(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The module in eval mode, every parameter random, so that no zero hides an error."""
        module = self.build().to(dtype).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.5)
        return module

    def arguments(
        self, dtype: torch.dtype = torch.float64, sizes: dict[str, int] | None = None
    ) -> tuple[Tensor | int, ...]:
        """Inputs of the given sizes; small by default."""
        sizes = {"B": 2, "T": 3, "K": 5, **(sizes or {})}
        made: list[Tensor | int] = []
        for words in self.inputs:
            if words.startswith("#"):
                made.append(sizes[words[1:]])
            else:
                shape = [sizes[word] if word in sizes else int(word) for word in words.split()]
                made.append(torch.randn(shape, dtype=dtype))
        return tuple(made)

    def open_sizes(self) -> tuple[dict[int, Dim] | None, ...]:
        """Dynamic shapes for export."""
        letters = {letter: Dim(letter, max=64) for letter in ("B", "T", "K")}
        return tuple(
            None
            if words.startswith("#")
            else {axis: letters[word] for axis, word in enumerate(words.split()) if word in letters}
            for words in self.inputs
        )


RECIPES = {
    ALiBi: Recipe(partial(ALiBi, 4), "#T", "#K"),
    DecoderLayer: Recipe(partial(DecoderLayer, 16, 8), "B T 16", "B K 8"),
    DropPath: Recipe(partial(DropPath, 0.5), "B T 16"),
    EncoderLayer: Recipe(partial(EncoderLayer, 16, layer_scale=0.5, drop_path=0.5), "B T 16"),
    FeedForward: Recipe(partial(FeedForward, 16), "B T 16"),
    LayerScale: Recipe(partial(LayerScale, 16), "B T 16"),
    LearnedPosition: Recipe(partial(LearnedPosition, 16, 64), "B T 16"),
    LearnedPosition2d: Recipe(partial(LearnedPosition2d, 16, (3, 4)), "B 3 4 16"),
    NoPosition: Recipe(partial(NoPosition, 16), "B T 16"),
    RMSNorm: Recipe(partial(RMSNorm, 16), "B T 16"),
    RelativePositionBias: Recipe(partial(RelativePositionBias, 4), "#T", "#K"),
    Residual: Recipe(partial(Residual, 16, layer_scale=0.5, drop_path=0.5), "B T 16", "B T 16"),
    RotaryPosition: Recipe(partial(RotaryPosition, 16), "B 4 T 16"),
    SequenceBatchNorm: Recipe(partial(SequenceBatchNorm, 16), "B T 16"),
    SinCosPosition2d: Recipe(partial(SinCosPosition2d, 16), "B 3 4 16"),
    SinusoidalPosition: Recipe(partial(SinusoidalPosition, 16), "B T 16"),
    SwiGLU: Recipe(partial(SwiGLU, 16), "B T 16"),
    TransformerDecoder: Recipe(partial(TransformerDecoder, 16, 2, 8), "B T 16", "B K 8"),
    TransformerEncoder: Recipe(partial(TransformerEncoder, 16, 2), "B T 16"),
}
every_module = pytest.mark.parametrize("recipe", RECIPES.values(), ids=[module.__name__ for module in RECIPES])
every_traced_module = pytest.mark.parametrize(
    "recipe", slow_except("RMSNorm", {module.__name__: recipe for module, recipe in RECIPES.items()})
)


def _tensors(output: object) -> list[Tensor]:
    """All tensors in the output of a module."""

    def walk(part: object) -> Iterator[Tensor]:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, tuple):
            for piece in part:
                yield from walk(piece)

    return list(walk(output))


def test_every_public_module_has_a_recipe() -> None:
    public = (getattr(attention_blocks, name) for name in attention_blocks.__all__)
    modules = {thing for thing in public if inspect.isclass(thing) and issubclass(thing, nn.Module)}
    missing = {module.__name__ for module in modules if not issubclass(module, (Attention, FeatureMapAttention))} - {
        module.__name__ for module in RECIPES
    }
    assert not missing, (
        f"add a Recipe for {', '.join(sorted(missing))} to RECIPES: how to build it, what to call it with"
    )


@every_module
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients(recipe: Recipe, training: bool) -> None:
    module, arguments = recipe.module().train(training), recipe.arguments()
    names = [name for name, _ in module.named_parameters()]
    inputs = [x.requires_grad_() for x in arguments if isinstance(x, Tensor)]
    others = [x for x in arguments if not isinstance(x, Tensor)]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        parameters = dict(zip(names, tensors[len(inputs) :], strict=True))
        arguments = (*tensors[: len(inputs)], *others)
        return tuple(_tensors(torch.func.functional_call(module, parameters, arguments)))

    leaves = (*inputs, *module.parameters())
    if leaves:
        assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert all(output.isfinite().all() for output in run(*leaves))


@every_module
def test_tables_that_must_not_decay_are_declared(recipe: Recipe) -> None:
    """Parameters that our modules hold directly are tables or scales; weights that decay belong to torch's layers."""
    for module in recipe.build().modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear) or not type(module).__module__.startswith("attention_blocks."):
            continue
        declared: set[str] = getattr(module, "no_weight_decay", set)()
        assert declared <= own.keys()
        assert declared == {name for name, parameter in own.items() if parameter.ndim > 1}


@pytest.mark.parametrize("kind", [LearnedPosition, LearnedPosition2d, RelativePositionBias])
def test_tables_of_positions_do_not_decay(kind: type[nn.Module]) -> None:
    module = RECIPES[kind].build()
    assert isinstance(module, (LearnedPosition, LearnedPosition2d, RelativePositionBias))
    assert module.no_weight_decay() == {"table"}


@every_traced_module
def test_compiles_without_a_graph_break(recipe: Recipe) -> None:
    torch._dynamo.reset()
    module, arguments = recipe.module(), recipe.arguments()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(_tensors(compiled(*arguments)), _tensors(module(*arguments)))


@every_traced_module
def test_exports_with_dynamic_sizes(recipe: Recipe) -> None:
    module = recipe.module()
    if not any(isinstance(x, Tensor) for x in recipe.arguments()) and not hasattr(torch, "get_autocast_dtype"):
        pytest.skip("before torch 2.4, programs without input tensors that hold constants cannot be exported")
    program = export(module, recipe.arguments(), dynamic_shapes=recipe.open_sizes()).module()
    # A length that is an argument is a constant of the program.
    lengths = {words[1:] for words in recipe.inputs if words.startswith("#")}
    for sizes in ({"B": 4, "T": 7, "K": 2}, {"B": 2, "T": 2, "K": 9}):
        arguments = recipe.arguments(sizes={letter: size for letter, size in sizes.items() if letter not in lengths})
        torch.testing.assert_close(_tensors(program(*arguments)), _tensors(module(*arguments)))


@every_module
def test_state_survives_a_file(recipe: Recipe) -> None:
    module, arguments, file = recipe.module(), recipe.arguments(), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = recipe.build().double().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(_tensors(other(*arguments)), _tensors(module(*arguments)), rtol=0, atol=0)


@every_module
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_is_near_float64(recipe: Recipe, dtype: torch.dtype) -> None:
    module, arguments = recipe.module(torch.float32), recipe.arguments(torch.float32)
    with torch.autocast("cpu", dtype):
        autocast = _tensors(module(*arguments))
    low = [x.to(dtype) if isinstance(x, Tensor) else x for x in arguments]
    whole = _tensors(module.to(dtype)(*low))
    # Rounded weights and inputs in float64, so that the difference is the error of the module itself.
    wide = [x.double() if isinstance(x, Tensor) else x for x in low]
    exact = _tensors(module.double()(*wide))
    for found, also, wanted in zip(autocast, whole, exact, strict=True):
        wanted = wanted.double()
        tolerance = 32 * torch.finfo(dtype).eps * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
        torch.testing.assert_close(also.double(), wanted, rtol=0, atol=tolerance)
        assert also.dtype in (dtype, torch.float32)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@every_module
def test_state_is_in_the_state_dict(recipe: Recipe) -> None:
    """A module that starts without data gives the same result, however its weights are loaded."""
    module, arguments = recipe.module(), recipe.arguments()
    assert _state(module).keys() == module.state_dict().keys()
    with torch.device("meta"):
        empty, assigned = (recipe.build().double().eval() for _ in range(2))
    empty.to_empty(device="cpu").load_state_dict(module.state_dict())
    assigned.load_state_dict(module.state_dict(), assign=True)
    for other in (empty, assigned):
        torch.testing.assert_close(_tensors(other(*arguments)), _tensors(module(*arguments)), rtol=0, atol=0)


def _reset(module: nn.Module) -> None:
    """Children first, so that a module that initialises torch's layers in its own way has the last word."""
    for child in module.children():
        _reset(child)
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()  # type: ignore[operator]


@every_module
def test_parameters_are_reset_to_those_of_a_new_module(recipe: Recipe) -> None:
    module, new = recipe.build(), recipe.build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7.0)
    _reset(module)
    for name, parameter in module.named_parameters():
        wanted = new.get_parameter(name)
        assert (parameter != 7).all()
        assert bool(parameter.std(unbiased=False) == 0) == bool(wanted.std(unbiased=False) == 0), name
        if parameter.std(unbiased=False) == 0:
            torch.testing.assert_close(parameter, wanted)
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        assert not own or hasattr(part, "reset_parameters"), f"{type(part).__name__} has no reset_parameters"
