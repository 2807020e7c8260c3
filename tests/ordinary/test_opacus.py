"""Per-sample gradients by opacus: those of each row by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from attention_blocks import (
    CBAM,
    AdditiveAttention,
    EaseIn,
    EncoderLayer,
    MultiHeadAttention,
    RelativePositionBias,
    SpatialAttention,
    SqueezeExcite,
)
from lightning_modules import (
    BahdanauDecoder,
    RNNSizes,
    RNNTranslator,
    SmallResNet,
    TransformerTranslator,
    VisionTransformer,
)
from lightning_modules.text.recurrent_cells import RecurrentCells
from tests.ordinary.modules import CASES, Case, run, with_attention

pytest.importorskip("opacus", reason="opacus is not installed; its newest release needs a newer torch")
from opacus import GradSampleModule, PrivacyEngine
from opacus.layers import DPGRU
from opacus.layers.dp_rnn import DPGRUCell
from opacus.validators import ModuleValidator

pytestmark = [
    # Of the first layers, which opacus hooks like all others.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning"),
    # Torch's attention in functorch, and opacus's own autocast around integers.
    pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning"),
]


def without_batch_norm(build: Callable[[], nn.Module]) -> nn.Module:
    """The network with group norms in place of batch norms, as opacus replaces them."""
    fixed = ModuleValidator.fix(build())
    assert isinstance(fixed, nn.Module)
    return fixed


def _images() -> tuple[Tensor]:
    return (torch.randn(3, 3, 16, 16),)


SMALL = partial(SmallResNet, 4, (16, 16), 3, widths=(8, 16), depth=1)
MODELS = {
    "EncoderLayer": Case(partial(EncoderLayer, 16, layer_scale=0.5), lambda: (torch.randn(3, 5, 16),)),
    "VisionTransformer, mean, registers": Case(
        partial(VisionTransformer, 4, 16, patches=4, dim=16, depth=2, pool="mean", num_registers=2), _images
    ),
    "TransformerTranslator": Case(
        partial(TransformerTranslator, 12, 12, dim=16, depth=1, dropout=0.0), CASES["TransformerTranslator"].inputs
    ),
    "EaseIn": Case(partial(EaseIn, 32, partial(SqueezeExcite, reduction=4)), CASES["SqueezeExcite"].inputs),
    "SmallResNet": Case(partial(without_batch_norm, SMALL), _images),
    "SmallResNet with SqueezeExcite": Case(
        partial(without_batch_norm, partial(with_attention, partial(SqueezeExcite, reduction=4))), _images
    ),
    "SmallResNet with CBAM": Case(
        partial(without_batch_norm, partial(with_attention, partial(CBAM, reduction=4))), _images
    ),
    **{
        name: CASES[name]
        for name in (
            "AttentionGate",
            "ChannelAttention",
            "CrossAttention",
            "DecoderLayer",
            "EfficientChannelAttention",
            "EncoderLayer, SwiGLU, RMSNorm",
            "FeedForward",
            "GlobalContext",
            "LayerScale",
            "LearnedPosition",
            "LearnedPosition2d",
            "LuongAttention, dot, local-p",
            "LuongAttention, general, global",
            "MaskedSelfAttention",
            "MultiHeadAttention",
            "RMSNorm",
            "SelfAttention",
            "SelfAttention2d",
            "SqueezeExcite",
            "SwiGLU",
            "TransformerDecoder",
            "TransformerEncoder",
            "VisionTransformer",
        )
    },
}
every_model = pytest.mark.parametrize("case", MODELS.values(), ids=list(MODELS))


def loss_of(outputs: list[Tensor]) -> Tensor:
    """A sum over rows, that a constant shift of the output changes."""
    return (outputs[0] + 0.5).square().sum()


def one_by_one(model: nn.Module, inputs: tuple[Tensor | int, ...]) -> dict[str, Tensor]:
    """Gradient of each row by itself, (B, …) for each parameter."""
    rows = []
    for row in range(len(inputs[0])):  # type: ignore[arg-type]
        model.zero_grad()
        one = tuple(x[row : row + 1] if isinstance(x, Tensor) else x for x in inputs)
        torch.autograd.backward(loss_of(run(model, one)))
        rows.append({name: parameter.grad for name, parameter in model.named_parameters()})
    model.zero_grad()
    found = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: torch.stack([x for x in grads if x is not None]) for name, grads in found.items()}


def at_once(model: nn.Module, inputs: tuple[Tensor | int, ...], *, functorch: bool) -> dict[str, Tensor]:
    """Per-sample gradients of opacus."""
    sampled = GradSampleModule(model, loss_reduction="sum", force_functorch=functorch)
    torch.autograd.backward(loss_of(run(sampled, inputs)))
    return {name: vars(parameter)["grad_sample"] for name, parameter in model.named_parameters()}


def check(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(isinstance(x, Tensor) for x in found.values())
    # Some gradients are zero but for rounding, such as those of the keys' bias.
    largest = max(float(x.abs().max()) for x in wanted.values())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * largest)


@every_model
@pytest.mark.parametrize("functorch", [False, True], ids=["samplers", "functorch"])
def test_gradients_of_each_sample(case: Case, functorch: bool) -> None:
    """By opacus's formulas for each kind of layer, and by functorch for all."""
    torch.manual_seed(0)
    model, inputs = case.module(training=True), case.inputs()
    assert not ModuleValidator.validate(model)
    check(at_once(copy.deepcopy(model), inputs, functorch=functorch), one_by_one(model, inputs))


@pytest.mark.parametrize("name", ["EncoderLayer", "VisionTransformer", "SmallResNet with SqueezeExcite"])
def test_private_training(name: str) -> None:
    """Without noise and clipping, a private step is a plain one; with clipping, it is shorter."""
    torch.manual_seed(0)
    model, inputs = MODELS[name].build().train(), MODELS[name].inputs()
    loader = DataLoader(TensorDataset(*[x for x in inputs if isinstance(x, Tensor)]), batch_size=3)
    steps = []
    for clip in (None, 1e6, 1e-3):
        trained = copy.deepcopy(model)
        optimizer: torch.optim.Optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        network: nn.Module = trained
        if clip is not None:
            network, optimizer, _ = PrivacyEngine().make_private(
                module=trained,
                optimizer=optimizer,
                data_loader=loader,
                noise_multiplier=0.0,
                max_grad_norm=clip,
                poisson_sampling=False,
            )
        torch.autograd.backward(loss_of(run(network, inputs)) / 3)
        optimizer.step()
        moved = [after - before for after, before in zip(trained.parameters(), model.parameters(), strict=True)]
        steps.append(torch.cat([x.flatten() for x in moved]).detach())
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-3, atol=1e-5 * float(steps[0].abs().max()))
    assert 0 < steps[2].norm() <= 0.1 * 1e-3 * (1 + 1e-3)


# RNNs, which opacus knows only as its own copies of torch's.


def private_rnns(model: nn.Module) -> nn.Module:
    """The model with opacus's RNNs and cells in place of torch's, with the same weights."""
    fixed = ModuleValidator.fix(model)
    assert isinstance(fixed, nn.Module)
    for part in list(fixed.modules()):
        if isinstance(part, RecurrentCells):
            for index, cell in enumerate(part.layers):
                assert isinstance(cell, nn.GRUCell)
                private = DPGRUCell(cell.input_size, cell.hidden_size, bias=True)
                private.ih.weight, private.hh.weight = cell.weight_ih, cell.weight_hh
                private.ih.bias, private.hh.bias = cell.bias_ih, cell.bias_hh
                part.layers[index] = private
    return fixed


def test_translator_with_private_rnns() -> None:
    """Every layer is sampled at each step of the decoder, and the samples are summed."""
    torch.manual_seed(0)
    decoder = partial(BahdanauDecoder, attention=partial(MultiHeadAttention, num_heads=2))
    model = RNNTranslator(12, 12, sizes=RNNSizes(8, 16), decoder=decoder).train()
    # Sorted by length, see below.
    inputs = torch.randint(4, 12, (3, 6)), torch.tensor([6, 5, 4]), torch.randint(4, 12, (3, 5))
    private = private_rnns(copy.deepcopy(model))
    torch.testing.assert_close(run(private, inputs), run(model, inputs))
    found = at_once(private, inputs, functorch=False)
    for old, new in (
        ("ih.weight", "weight_ih"),
        ("hh.weight", "weight_hh"),
        ("ih.bias", "bias_ih"),
        ("hh.bias", "bias_hh"),
    ):
        found = {name.replace(f"layers.0.{old}", f"layers.0.{new}"): x for name, x in found.items()}
    wanted = one_by_one(model, inputs)
    check({name: found[name] for name in wanted}, wanted)


# What opacus does not support, of our modules and of torch's.


class _Calls(nn.Module):
    """Calls a layer with given arguments."""

    def __init__(self, layer: nn.Module, *arguments: object) -> None:
        super().__init__()
        self.layer = layer
        self.arguments = arguments

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x, *self.arguments)
        return output[0] if isinstance(output, tuple) else output


class _Numbers(nn.Module):
    """A plain module with a parameter that is called with numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, rows: int, columns: int) -> Tensor:
        return self.weight[:rows, :columns]


class _Plus(nn.Module):
    """Adds what a module computes from numbers."""

    def __init__(self, bias: nn.Module) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias(3, 3)


KEY = torch.randn(3, 5, 4)
LIMITS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...], str]] = {
    "own parameters and several inputs": (
        lambda: _Calls(AdditiveAttention(4), KEY),
        lambda: _Calls(nn.Bilinear(4, 4, 2), KEY),
        (3, 5, 4),
        "missing 1 required positional argument",
    ),
    "own parameters and numbers as inputs": (
        lambda: _Plus(RelativePositionBias(1)),
        lambda: _Plus(_Numbers()),
        (3, 3),
        "'int' object has no attribute 'detach'",
    ),
    "recurrent cells": (
        lambda: RNNSizes(4, 3).cells(4, 3).layers[0],
        lambda: nn.GRUCell(4, 3),
        (3, 4),
        "doesn't match the broadcast shape",
    ),
    "batch norm": (
        lambda: SpatialAttention(4),
        lambda: nn.BatchNorm2d(4),
        (3, 4, 5, 5),
        "buffers",
    ),
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=list(LIMITS))
@pytest.mark.parametrize("functorch", [False, True], ids=["samplers", "functorch"])
def test_limits_of_opacus(
    limit: tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...], str], functorch: bool
) -> None:
    """It refuses ours for the reason for which it refuses torch's."""
    ours, torchs, shape, message = limit
    for build in (ours, torchs):
        with pytest.raises((AttributeError, NotImplementedError, RuntimeError, TypeError), match=message):
            at_once(build().train(), (torch.randn(shape),), functorch=functorch)


def test_packed_sequences_of_opacus_are_sorted() -> None:
    """Its own GRU returns per-sample gradients in the order of the lengths, without our modules too."""
    torch.manual_seed(0)
    rnn, x, lengths = DPGRU(4, 3, batch_first=True), torch.randn(3, 6, 4), torch.tensor([4, 6, 5])

    def samples(rows: list[int]) -> Tensor:
        rnn.zero_grad()
        sampled = GradSampleModule(rnn, loss_reduction="sum")
        packed = pack_padded_sequence(x[rows], lengths[rows], batch_first=True, enforce_sorted=False)
        torch.autograd.backward(sampled(packed)[1].square().sum())
        found = next(parameter.grad_sample for parameter in rnn.parameters())
        sampled.remove_hooks()
        for parameter in rnn.parameters():
            del parameter.grad_sample
        assert isinstance(found, Tensor)
        return found

    torch.testing.assert_close(samples([0, 1, 2]), samples([1, 2, 0]))
