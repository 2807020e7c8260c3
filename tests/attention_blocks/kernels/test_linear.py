from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attention_blocks import FeedForward
from attention_blocks.kernels import Linear, linear, packed
from attention_blocks.kernels.linear import _AVAILABLE, Activation

# The package has a function of the module's name.
module = importlib.import_module("attention_blocks.kernels.linear")
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {None: lambda x: x, "relu": F.relu, "gelu": F.gelu}
pytestmark = pytest.mark.skipif(not _AVAILABLE, reason="this torch was built without oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sends every product to oneDNN, however small, and records the calls; also those with weights packed for MKL."""
    counted: list[str] = []

    def counting(name: str) -> Callable[..., Tensor]:
        product: Callable[..., Tensor] = getattr(module, f"_{name}")

        def counted_product(*arguments: Tensor) -> Tensor:
            counted.append(name)
            return product(*arguments)

        return counted_product

    monkeypatch.setattr(module, "MIN_SIZE", 0)
    for name in ("onednn", "transposed"):
        monkeypatch.setattr(module, f"_{name}", counting(name))
    return counted


def tensors(*lead: int, features: int = 5, outputs: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(*lead, features), torch.randn(outputs, features), torch.randn(outputs)


@settings(deadline=None, max_examples=40)
@given(
    lead=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    features=st.integers(1, 6),
    outputs=st.integers(1, 6),
    with_bias=st.booleans(),
    activation=st.sampled_from([None, "relu", "gelu"]),
    grad=st.booleans(),
)
def test_results_and_gradients_equal_torch(
    lead: list[int], features: int, outputs: int, with_bias: bool, activation: Activation | None, grad: bool
) -> None:
    given_ = [tensor.requires_grad_(grad) for tensor in tensors(*lead, features=features, outputs=outputs)]
    x, weight, bias = given_[0], given_[1], given_[2] if with_bias else None
    leaves = given_ if with_bias else given_[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_SIZE", 0)
        found = linear(x, weight, bias, activation=activation)
        found_gradients = torch.autograd.grad(found.square().sum(), leaves) if grad else ()
    wanted = ACTIVATIONS[activation](F.linear(x, weight, bias))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    wanted_gradients = torch.autograd.grad(wanted.square().sum(), leaves) if grad else ()
    torch.testing.assert_close(found_gradients, wanted_gradients, atol=1e-4, rtol=1e-4)


def test_strided_operands(calls: list[str]) -> None:
    x, weight, bias = torch.randn(5, 3).t(), torch.randn(5, 7).t(), torch.randn(7)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    wide = torch.randn(4, 1, 10)[..., ::2].expand(-1, 3, -1)
    torch.testing.assert_close(linear(wide, weight, bias), F.linear(wide, weight, bias))
    assert len(calls) == 2


def test_gradients_of_gradients(calls: list[str]) -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors(3))
    results = []
    for map_ in (linear, F.linear):
        [gradient] = torch.autograd.grad(map_(x, weight, bias).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), (x, weight)))
    assert calls
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_frozen_inputs_get_no_gradient(calls: list[str]) -> None:
    x, weight, bias = tensors(3)
    torch.autograd.backward(linear(x, weight, bias.requires_grad_()).sum())
    assert calls == ["onednn"]
    assert x.grad is None
    assert weight.grad is None
    torch.testing.assert_close(bias.grad, torch.full((7,), 3.0))


@pytest.mark.parametrize("case", ["float64", "autocast", "func", "jvp", "compile", "small"])
def test_uses_torch_where_onednn_does_not_apply(case: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = tensors(3)
    if case == "float64":
        x, weight, bias = x.double(), weight.double(), bias.double()
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    elif case == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16
    elif case == "func":
        found = torch.func.vmap(lambda row: linear(row, weight, bias))(x[:, None])
        torch.testing.assert_close(found[:, 0], F.linear(x, weight, bias))
        torch.func.grad(lambda row: linear(row, weight, bias).sum())(x)
    elif case == "jvp":
        found = torch.func.jvp(lambda row: linear(row, weight, bias), (x,), (x,))[1]
        torch.testing.assert_close(found, x @ weight.t())
    elif case == "compile":
        torch._dynamo.reset()
        compiled = torch.compile(Linear(5, 7), fullgraph=True, backend="eager")
        assert compiled(x).shape == (3, 7)
    else:
        monkeypatch.setattr(module, "MIN_SIZE", x.numel() * 7 + 1)
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    assert not calls


def test_large_products_use_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    onednn = module._onednn

    def counting(*arguments: Tensor) -> Tensor:
        seen.append(1)
        return onednn(*arguments)

    monkeypatch.setattr(module, "_onednn", counting)
    x = torch.randn(2, 256, 256)
    with torch.no_grad():
        Linear(256, 128)(x)
        assert len(seen) == 1
        Linear(256, 127)(x)
    assert len(seen) == 1


@pytest.mark.parametrize(("kind", "name"), [(nn.ReLU, "relu"), (nn.GELU, "gelu")])
def test_a_feed_forward_network_fuses_its_activation(kind: type[nn.Module], name: str, calls: list[str]) -> None:
    network = FeedForward(8, 16, activation=kind).eval()
    x = torch.randn(3, 8)
    wanted = F.linear(
        ACTIVATIONS[name](F.linear(x, network.up_proj.weight, network.up_proj.bias)),
        network.down_proj.weight,
        network.down_proj.bias,
    )
    with torch.no_grad():
        torch.testing.assert_close(network(x), wanted)
    torch.testing.assert_close(network(x), wanted)


def test_hooks_of_a_feed_forward_network_are_called() -> None:
    network, seen = FeedForward(8, 16), []
    network.activation.register_forward_hook(lambda *_: seen.append("activation"))
    network(torch.randn(3, 8))
    network = FeedForward(8, 16)
    network.up_proj.register_forward_hook(lambda *_: seen.append("up_proj"))
    network(torch.randn(3, 8))
    assert seen == ["activation", "up_proj"]


@settings(deadline=None, max_examples=25)
@given(
    lead=st.lists(st.integers(1, 9), min_size=0, max_size=2),
    features=st.integers(1, 40),
    outputs=st.integers(1, 40),
    bias=st.booleans(),
    activation=st.sampled_from([None, "relu", "gelu"]),
    intel=st.booleans(),
)
def test_packed_weights_give_the_same_result(
    lead: list[int], features: int, outputs: int, bias: bool, activation: Activation | None, intel: bool
) -> None:
    block, x = Linear(features, outputs, bias=bias), torch.randn(*lead, features)
    wanted = ACTIVATIONS[activation](F.linear(x, block.weight, block.bias))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(module, "MIN_SIZE_PACKED", 0)
        patch.setattr(module, "_prefers_mkl", lambda: intel)
        with packed(nn.Sequential(block)):
            found = linear(x, block.weight, block.bias, activation=activation)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("intel", "name"), [(False, "onednn"), (True, "transposed")])
def test_weights_are_packed_within_the_context_only(
    intel: bool, name: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minimum size of other products is out of reach here."""
    monkeypatch.setattr(module, "MIN_SIZE", 2**60)
    monkeypatch.setattr(module, "MIN_SIZE_PACKED", 0)
    monkeypatch.setattr(module, "_prefers_mkl", lambda: intel)
    inside, other, x = Linear(5, 7), Linear(5, 7), torch.randn(3, 5)
    with torch.no_grad():
        with packed(inside):
            inside(x)
            assert len(calls) == 1
            other(x)
            with packed(other):
                other(x)
                inside(x)
            assert len(calls) == 3
            other(x)
            with torch.enable_grad():
                assert inside(x).requires_grad
            with ThreadPoolExecutor(1) as pool:
                pool.submit(inside, x).result()
        inside(x)
    assert calls == [name] * 3


def test_an_error_leaves_no_packed_weights(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_SIZE", 2**60)
    monkeypatch.setattr(module, "MIN_SIZE_PACKED", 0)
    block = Linear(5, 7)
    with torch.no_grad():
        with pytest.raises(RuntimeError), packed(block):
            block(torch.randn(3, 6))
        block(torch.randn(3, 5))
    assert len(calls) == 1


def test_weights_that_cannot_be_packed_are_unchanged() -> None:
    x = torch.randn(3, 5)
    for block in (Linear(5, 7).double(), Linear(5, 7).bfloat16(), nn.Linear(5, 7)):
        operand = x.to(block.weight.dtype)
        with torch.no_grad(), packed(block):
            assert torch.equal(block(operand), F.linear(operand, block.weight, block.bias))
