from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from attention_blocks import BAM, SelectiveKernel, SequenceBatchNorm, SpatialAttention
from attention_blocks.normalised import Normalised, normalised

# How to build a block with batch norms, and the shapes of an input that leaves them one value per channel.
SINGLE: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "BAM": (partial(BAM, 32), [(1, 32, 1, 1), (1, 32, 5, 4)]),
    "BAM-paper": (partial(BAM, 32, form="paper"), [(1, 32, 1, 1), (1, 32, 5, 4)]),
    "SelectiveKernel": (partial(SelectiveKernel, 32), [(1, 32, 1, 1), (1, 32, 5, 4)]),
    "SelectiveKernel-stride": (partial(SelectiveKernel, 32, stride=2), [(1, 32, 1, 1), (1, 32, 2, 2), (1, 32, 5, 4)]),
    "SelectiveKernel-split": (partial(SelectiveKernel, 32, groups=1, split_input=True), [(1, 32, 1, 1)]),
    "SpatialAttention": (partial(SpatialAttention, 32), [(1, 32, 1, 1)]),
    "SequenceBatchNorm": (partial(SequenceBatchNorm, 32), [(1, 1, 32)]),
}
CASES = [
    pytest.param(build, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name, (build, shapes) in SINGLE.items()
    for shape in shapes
]


def drawn(module: nn.Module) -> nn.Module:
    """In training mode, with parameters and statistics that hide nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2.0) if name.endswith("var") else buffer.normal_()
    return module.double().train()


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_counts(module: nn.Module, before: dict[str, Tensor], single: Callable[[nn.Module], bool]) -> None:
    """Batch norms of one value have their statistics as before, all others were updated."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            count = f"{name}.num_batches_tracked".lstrip(".")
            assert part.num_batches_tracked is not None
            assert part.num_batches_tracked.item() == before[count].item() + (0 if single(part) else 1)


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_a_batch_of_one_is_trained_on(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = drawn(build())
    before = buffers(module)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    sizes: dict[nn.Module, int] = {}
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_pre_hook(
                lambda norm, inputs: sizes.update({norm: inputs[0].numel() // inputs[0].size(1)})
            )
    output = module(x)
    assert output.isfinite().all()
    output.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())
    assert all(part.training for part in module.modules())
    # A view of a module that is evaluated shares its hooks, and the statistics of the module itself are unchanged.
    assert_counts(module, before, lambda norm: sizes.get(norm, 1) == 1)
    for name, buffer in module.named_buffers():
        owner = module.get_submodule(name.rpartition(".")[0])
        if sizes.get(owner, 1) == 1:
            assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize(
    ("build", "shape"),
    [case for case in CASES if case.values[1] in ((1, 32, 1, 1), (1, 1, 32))],
)
def test_a_single_value_is_evaluated(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = drawn(build())
    before, x = buffers(module), torch.randn(shape, dtype=torch.float64)
    evaluated = copy.deepcopy(module).eval()
    torch.testing.assert_close(module(x), evaluated(x))
    torch.testing.assert_close(buffers(module), before, rtol=0, atol=0)
    one, other = (torch.autograd.grad(each(x).square().sum(), list(each.parameters())) for each in (module, evaluated))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("shape", "spread"), [((2, 3), (0,)), ((2, 3, 1, 1), (0, 2, 3)), ((1, 3, 1, 2), (0, 2, 3))], ids=str
)
def test_two_values_are_ordinary_training(shape: tuple[int, ...], spread: tuple[int, ...]) -> None:
    norm = drawn(nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3))
    other, x = copy.deepcopy(norm), torch.randn(shape, dtype=torch.float64)
    found = normalised(norm, x)
    assert torch.equal(found, other(x))
    torch.testing.assert_close(buffers(norm), buffers(other), rtol=0, atol=0)
    weight, bias = (parameter.detach().view(1, 3, *[1] * (len(shape) - 2)) for parameter in norm.parameters())
    mean, variance = x.mean(spread, keepdim=True), x.var(spread, unbiased=False, keepdim=True)
    torch.testing.assert_close(found.detach(), (x - mean) / (variance + 1e-5).sqrt() * weight + bias)


def test_only_the_batch_norms_among_layers_are_evaluated() -> None:
    layers = drawn(Normalised(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5)))
    before, x = buffers(layers), torch.randn(1, 3, dtype=torch.float64)
    evaluated = copy.deepcopy(layers).eval()
    evaluated.get_submodule("3").train()
    torch.manual_seed(0)
    found = layers(x)
    torch.manual_seed(0)
    assert torch.equal(found, evaluated(x))
    torch.testing.assert_close(buffers(layers), before, rtol=0, atol=0)


def test_evaluation_and_tracing_use_the_module_itself() -> None:
    calls: list[nn.Module] = []
    norm = nn.BatchNorm1d(3)
    norm.register_forward_hook(lambda module, *_: calls.append(module))
    normalised(norm.eval(), torch.randn(1, 3))
    normalised(norm.train(), torch.randn(2, 3))
    assert calls == [norm, norm]
    traced = torch.fx.symbolic_trace(SequenceBatchNorm(3))
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(traced(x), SequenceBatchNorm(3)(x))


def test_trains_on_one_value_when_compiled() -> None:
    torch._dynamo.reset()
    norm, x = drawn(SequenceBatchNorm(4)), torch.randn(1, 1, 4, dtype=torch.float64)
    assert torch.compile(norm, backend="eager")(x).isfinite().all()
