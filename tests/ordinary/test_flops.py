"""FLOP counters count what they count of torch's own layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attention_blocks import (
    AdditiveAttention,
    EncoderLayer,
    FeedForward,
    MultiHeadAttention,
    SqueezeExcite,
    SwiGLU,
)
from lightning_modules import VisionTransformer
from tests.ordinary.modules import Case, every_case, in_both_modes, run


def flops(module: nn.Module, *inputs: Tensor, backward: bool = False) -> int:
    with FlopCounterMode(display=False) as counter:
        output = module(*inputs)
        if backward:
            (output if isinstance(output, Tensor) else output[0]).sum().backward()
    return int(counter.get_total_flops())


class PlainAttention(nn.Module):
    """Multi-head attention of torch's functions and layers."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        inputs = zip(self.layers, (query, key, key), strict=False)
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer, x in inputs)
        return self.layers[3](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class PlainAdditive(nn.Module):
    """Additive attention by broadcasting."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        hidden = torch.tanh(self.query(query)[:, :, None] + self.key(key)[:, None])
        return self.score(hidden).squeeze(-1).softmax(-1) @ key


def _plain_feed_forward(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))


class PlainSwiGLU(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = SwiGLU(dim).up_proj.out_features
        self.gate, self.up, self.down = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


SEQUENCES = (2, 64, 32), (2, 48, 32)
TWINS: dict[str, tuple[nn.Module, nn.Module, tuple[tuple[int, ...], ...]]] = {
    "multi-head": (MultiHeadAttention(32, num_heads=4), PlainAttention(32, 4), SEQUENCES),
    "additive": (AdditiveAttention(32), PlainAdditive(32), SEQUENCES),
    "feed-forward": (FeedForward(32), _plain_feed_forward(32), ((2, 64, 32),)),
    "SwiGLU": (SwiGLU(32), PlainSwiGLU(32), ((2, 64, 32),)),
    "encoder layer": (
        EncoderLayer(32, attention=partial(MultiHeadAttention, num_heads=4)),
        nn.TransformerEncoderLayer(32, 4, 128, batch_first=True, norm_first=True, dropout=0.0),
        ((2, 64, 32),),
    ),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_as_many_as_a_plain_twin(name: str, training: bool) -> None:
    ours, plain, shapes = TWINS[name]
    inputs = [torch.randn(shape) for shape in shapes]
    # Torch's own encoder layer has a fused path in evaluation without gradients, which counts as nothing.
    found, wanted = (flops(module.train(training), *inputs) for module in (ours, plain))
    assert found == wanted


@pytest.mark.parametrize("name", ["feed-forward", "SwiGLU", "multi-head"])
def test_as_many_in_the_backward_pass(name: str) -> None:
    ours, plain, shapes = TWINS[name]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    found, wanted = (flops(module.train(), *inputs, backward=True) for module in (ours, plain))
    assert found == wanted


def test_those_of_a_vit_are_timms() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    ours, images = VisionTransformer(10, 224, patches=16, dim=192, depth=12), torch.randn(1, 3, 224, 224)
    assert flops(ours.eval(), images) == pytest.approx(flops(theirs.eval(), images), rel=1e-3)


@every_case
@in_both_modes
def test_every_linear_layer_is_counted(case: Case, training: bool) -> None:
    module, inputs = case.module(training=training), case.inputs()
    wanted = 0

    def count(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal wanted
        if isinstance(layer, nn.Linear):
            wanted += 2 * output.numel() * layer.in_features

    handles = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, nn.Linear)]
    run(module, inputs)
    for handle in handles:
        handle.remove()
    torch.manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    assert counter.get_total_flops() >= wanted
    assert wanted or not handles


def test_a_squeeze_excitation_is_two_linear_layers() -> None:
    assert flops(SqueezeExcite(64, reduction=4), torch.randn(3, 64, 5, 5)) == 2 * 3 * (64 * 16 * 2)
