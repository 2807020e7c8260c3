"""The contract of attention on feature maps, applied to every public block: a new block is tested by existing."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import attention_blocks
from attention_blocks import (
    BAM,
    CBAM,
    AttentionGate,
    ChannelAttention,
    EaseIn,
    EfficientChannelAttention,
    FeatureMapAttention,
    GlobalContext,
    SelectiveKernel,
    SelfAttention2d,
    SimAM,
    SpatialAttention,
    SqueezeExcite,
)
from tests.marks import slow_except

B, C, H, W = 2, 32, 6, 5


class EdgeAttention(FeatureMapAttention):
    """A user's own block: gates locations by their difference from the neighbour."""

    def gate(self, x: Tensor) -> Tensor:
        return (x - x.roll(1, dims=3)).square().mean(1, keepdim=True).tanh()


@dataclass(frozen=True)
class Variant:
    """One way to build a block, and its properties.

    Attributes:
        name: part of the test id; a class is tested with its defaults unless a variant has the same name.
        make: called as ``make(channels)``.
        multiplies: the output is the feature map times its gate.
        knows_locations: the output is not equivariant to permutations of the locations.
        knows_channels: the output is not equivariant to permutations of the channels.
        stride: how many times smaller the output is than the input.
        twice: the gradients are differentiable; those of torch's fused attention and hard sigmoid are not.
    """

    name: str
    make: Callable[[int], FeatureMapAttention]
    multiplies: bool = True
    knows_locations: bool = True
    knows_channels: bool = True
    stride: int = 1
    twice: bool = True

    def build(self, dtype: torch.dtype = torch.float64) -> FeatureMapAttention:
        """The block in eval mode, every parameter and running mean random, so that no zero hides an error."""
        block = self.make(C).to(dtype).eval()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.normal_(std=0.5)
            for module in block.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.normal_(std=0.5)
                    module.running_var.uniform_(0.5, 2.0)
        return block


_nowhere = partial(Variant, knows_locations=False)
TABLE = [
    Variant("EdgeAttention", EdgeAttention, knows_channels=False),
    _nowhere("SqueezeExcite", SqueezeExcite),
    _nowhere(
        "SE-mobile",
        partial(SqueezeExcite, hidden_channels=5, activation=nn.SiLU, gate_activation=nn.Hardsigmoid),
        twice=False,
    ),
    _nowhere("ChannelAttention", ChannelAttention),
    Variant("SpatialAttention", SpatialAttention, knows_channels=False),
    Variant("CBAM-narrow", partial(CBAM, reduction=8, kernel_size=3, bias=False)),
    _nowhere("EfficientChannelAttention", EfficientChannelAttention),
    _nowhere("GlobalContext", GlobalContext, multiplies=False),
    _nowhere("GlobalContext-multiply", partial(GlobalContext, fuse="multiply", reduction=4)),
    Variant("BAM", partial(BAM, hidden_channels=8)),
    Variant("BAM-paper", partial(BAM, form="paper", reduction=4)),
    Variant("SimAM", SimAM, knows_locations=False, knows_channels=False),
    _nowhere("SelfAttention2d", SelfAttention2d, multiplies=False, twice=False),
    Variant(
        "SelfAttention2d-pooled",
        partial(SelfAttention2d, num_heads=2, head_dim=3, key_pool=2),
        multiplies=False,
        twice=False,
    ),
    Variant("SelectiveKernel", SelectiveKernel, multiplies=False),
    Variant(
        "SelectiveKernel-strided",
        partial(SelectiveKernel, kernel_sizes=(1, 3, 5), stride=2, groups=(1, 2, 4), min_hidden=16),
        multiplies=False,
        stride=2,
    ),
    Variant("SelectiveKernel-split", partial(SelectiveKernel, split_input=True, groups=1), multiplies=False),
    _nowhere("EaseIn", partial(EaseIn, block=SqueezeExcite)),
    _nowhere("AttentionGate-fine", partial(AttentionGate, stride=1, hidden_channels=3)),
]


def _variants() -> list[Variant]:
    named = {variant.name for variant in TABLE}
    public = (getattr(attention_blocks, name) for name in attention_blocks.__all__)
    blocks = [c for c in public if inspect.isclass(c) and issubclass(c, FeatureMapAttention)]
    left = [block for block in blocks if block is not FeatureMapAttention and block.__name__ not in named]
    return TABLE + [Variant(block.__name__, block) for block in left]


every_variant = pytest.mark.parametrize("variant", _variants(), ids=lambda variant: variant.name)
every_traced_variant = pytest.mark.parametrize(
    "variant", slow_except("SqueezeExcite", {variant.name: variant for variant in _variants()})
)


def _map(dtype: torch.dtype = torch.float64, batch: int = B, height: int = H, width: int = W) -> Tensor:
    return torch.randn(batch, C, height, width, dtype=dtype)


def _gradients(block: FeatureMapAttention, x: Tensor, out: Tensor) -> list[Tensor]:
    # An uneven sum, so that errors of opposite sign do not cancel.
    uneven = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype, device=out.device)
    loss = (out * uneven.view(out.shape)).sum()
    return list(torch.autograd.grad(loss, [x, *block.parameters()], allow_unused=True, materialize_grads=True))


@every_variant
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("height", "width"), [(6, 5), (2, 7), (8, 8), (3, 2)])
def test_shapes(variant: Variant, device: str, height: int, width: int) -> None:
    block, x = variant.make(C).eval().to(device), torch.randn(B, C, height, width, device=device)
    out = block(x)
    assert out.shape == (B, C, -(-height // variant.stride), -(-width // variant.stride))
    assert (out.dtype, out.device) == (x.dtype, x.device)
    gate = block.gate(x)
    assert gate.size(0) == B
    if gate.ndim == 4:
        assert (x * gate).shape == x.shape


@every_variant
def test_a_map_of_one_location(variant: Variant) -> None:
    if isinstance(variant.make(C), AttentionGate) and "fine" not in variant.name:
        with pytest.raises(ValueError, match="height and width of stride=2 or more"):
            variant.build()(_map(height=1, width=1))
        return
    block, x = variant.build(), _map(height=1, width=1).requires_grad_()
    out = block(x)
    assert out.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in _gradients(block, x, out))


@every_variant
def test_the_output_is_the_input_times_the_gate(variant: Variant) -> None:
    block, x = variant.build(), _map()
    if variant.multiplies:
        torch.testing.assert_close(block(x), x * block.gate(x))
    assert block.gate(x).isfinite().all()
    assert (block.gate(x) >= 0).all()


@every_variant
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradcheck(variant: Variant, training: bool) -> None:
    block, x = variant.build().train(training), _map().requires_grad_()
    names = [name for name, _ in block.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *block.parameters()), fast_mode=True)


@every_variant
def test_gradients_of_gradients(variant: Variant) -> None:
    """Gradient penalties must work, with our kernels too."""
    if not variant.twice:
        pytest.skip("torch has no second derivative of what this is made of")
    block, x = variant.build(), _map(height=3, width=2).requires_grad_()
    assert torch.autograd.gradgradcheck(block, (x,), fast_mode=True)


@every_variant
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_channels_last_is_kept_and_gives_the_same_output(variant: Variant, training: bool) -> None:
    block, x = variant.build().train(training), _map().requires_grad_()
    turned = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    other = copy.deepcopy(block).to(memory_format=torch.channels_last)
    wanted, found = block(x), other(turned)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert wanted.is_contiguous()
    torch.testing.assert_close(found, wanted)
    for one, two in zip(_gradients(other, turned, found), _gradients(block, x, wanted), strict=True):
        torch.testing.assert_close(one, two)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_is_near_float64(variant: Variant, dtype: torch.dtype) -> None:
    block, x = variant.build(torch.float32), _map(torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype):
        low = block(x)
    low_gradients = _gradients(block, x, low.float())
    wide = x.detach().double().requires_grad_()
    exact = block.double()(wide)
    tolerance = 32 * torch.finfo(dtype).eps
    torch.testing.assert_close(low.double(), exact, rtol=0, atol=tolerance * max(1.0, exact.abs().max().item()))
    # Compared as one vector: rounding switches some ReLUs, so single values may differ much.
    found, wanted = (torch.cat([g.flatten() for g in each]) for each in (low_gradients, _gradients(block, wide, exact)))
    assert (found.double() - wanted).norm() <= tolerance * wanted.norm()


@every_variant
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_is_near_float64(variant: Variant, layout: torch.memory_format, dtype: torch.dtype | None) -> None:
    block, x = variant.build(torch.float32), _map(torch.float32)
    there = copy.deepcopy(block).cuda().to(memory_format=layout)
    moved = x.cuda().contiguous(memory_format=layout).requires_grad_()
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        low = there(moved)
    wide = x.double().requires_grad_()
    exact = block.double()(wide)
    tolerance = max(32 * torch.finfo(dtype or torch.float32).eps, 2e-3)  # a GPU's convolutions have tf32
    torch.testing.assert_close(low.cpu().double(), exact, rtol=0, atol=tolerance * max(1.0, exact.abs().max().item()))
    found, wanted = (
        torch.cat([g.cpu().double().flatten() for g in each])
        for each in (_gradients(there, moved, low.float()), _gradients(block, wide, exact))
    )
    assert (found - wanted).norm() <= 4 * tolerance * wanted.norm()


@every_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_block_of_low_precision(variant: Variant, dtype: torch.dtype) -> None:
    """On a feature map whose sums overflow in fp16; compared with float64 on the rounded weights."""
    block, x = variant.build(torch.float32).to(dtype), (_map(torch.float32, height=40, width=50) + 40).to(dtype)
    assert x.float().sum((2, 3)).max() > torch.finfo(torch.float16).max
    found = block(x)
    assert found.dtype == dtype
    wanted = block.double()(x.double())
    tolerance = 64 * torch.finfo(dtype).eps * max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)


@every_traced_variant
def test_compiles_without_a_graph_break(variant: Variant) -> None:
    torch._dynamo.reset()
    block, x = variant.build(), _map().requires_grad_()
    found, wanted = torch.compile(block, fullgraph=True, backend="aot_eager")(x), block(x)
    torch.testing.assert_close(found, wanted)
    for one, two in zip(_gradients(block, x, found), _gradients(block, x, wanted), strict=True):
        torch.testing.assert_close(one, two)


@every_traced_variant
def test_exports_with_dynamic_sizes(variant: Variant) -> None:
    block = variant.build()
    # Even sizes, so that pooling and strides divide them.
    height, width = 2 * Dim("half_height", min=2, max=32), 2 * Dim("half_width", min=2, max=32)
    sizes = ({0: Dim("batch", max=64), 2: height, 3: width},)
    program = export(block, (_map(height=6, width=10),), dynamic_shapes=sizes).module()
    for batch, rows, columns in ((5, 4, 8), (3, 12, 6)):
        x = _map(batch=batch, height=rows, width=columns)
        torch.testing.assert_close(program(x), block(x))


@every_variant
def test_state_survives_a_file(variant: Variant) -> None:
    block, x, file = variant.build(), _map(), io.BytesIO()
    torch.save(block.state_dict(), file)
    file.seek(0)
    other = variant.make(C).double().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(x), block(x), rtol=0, atol=0)


@every_variant
def test_rows_of_the_batch_are_independent(variant: Variant) -> None:
    block, x = variant.build(), _map(batch=3)
    together = block(x)
    for row in range(3):
        torch.testing.assert_close(block(x[row : row + 1]), together[row : row + 1])


@every_variant
def test_keeps_no_state_and_does_not_change_its_input(variant: Variant) -> None:
    block, x = variant.build(), _map()
    before, given = copy.deepcopy(block.state_dict()), x.clone()
    first = block(x)
    block(2 * x)
    block.gate(x)
    torch.testing.assert_close(block(x), first, rtol=0, atol=0)
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(x, given, rtol=0, atol=0)


@every_variant
def test_supports_an_empty_batch(variant: Variant) -> None:
    assert variant.build()(_map(batch=0)).shape[:2] == (0, C)


@every_variant
def test_order_of_locations_and_channels(variant: Variant) -> None:
    block, x = variant.build(), _map()
    if variant.stride == 1:
        turned = torch.randperm(H * W)
        found = block(x.flatten(2)[..., turned].view_as(x))
        assert torch.allclose(found, block(x).flatten(2)[..., turned].view_as(x)) is not variant.knows_locations
    turned = torch.randperm(C)
    assert torch.allclose(block(x[:, turned]), block(x)[:, turned]) is not variant.knows_channels


@every_variant
@pytest.mark.parametrize("shape", [(C, H, W), (B, C + 1, H, W), (B, H, W, C), (B, C, H)], ids=str)
def test_refuses_maps_of_another_shape(variant: Variant, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(B, C, H, W\) with C = 32, got \("):
        variant.build()(torch.randn(shape, dtype=torch.float64))


@every_variant
def test_refuses_channels_that_are_not_positive(variant: Variant) -> None:
    with pytest.raises(ValueError, match="channels must be a positive number, got 0"):
        variant.make(0)


@every_variant
def test_replaces_an_identity_in_a_network(variant: Variant) -> None:
    """A few steps of gradient descent on one batch reduce the loss: gradients reach the block and the layers below."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), variant.make(C), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, wanted = torch.randn(8, 3, H, W), torch.randn(8, C)
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=0.01), []
    for _ in range(8):
        loss = (network(images) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
