from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from attention_blocks.kernels import leaf


@leaf
def halved(x: Tensor, *, factor: float = 0.5) -> Tensor:
    """Half of a tensor of several rows."""
    if len(x) > 1:
        return x * factor
    return x


@leaf
def split(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[: len(x) // 2], x[len(x) // 2 :]


@leaf
def total(parts: tuple[Tensor, tuple[Tensor, Tensor]], scale: float = 1.0) -> Tensor:
    first, (second, third) = parts
    return (first + second + third) * scale


class Network(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, second = split(halved(x, factor=0.25))[0], split(x)[1]
        return total((first, (second, first)), scale=2.0)


def traced(module: nn.Module) -> GraphModule:
    return symbolic_trace(module)


def test_calls_the_function_unless_it_is_traced() -> None:
    assert torch.equal(halved(torch.ones(2)), torch.full((2,), 0.5))
    assert torch.equal(halved(torch.ones(1), factor=3.0), torch.ones(1))
    assert halved.__name__ == "halved"
    assert halved.__doc__ == "Half of a tensor of several rows."


@pytest.mark.parametrize("length", [1, 2, 6])
def test_each_call_is_one_node_that_knows_no_sizes(length: int) -> None:
    network, x = traced(Network()), torch.randn(length, 3)
    calls = [node.target for node in network.graph.nodes if node.op == "call_function"]
    assert [call for call in calls if call in (halved, split, total)] == [halved, split, split, total]
    assert len(calls) == 4 + 2  # and the two parts
    if length % 2 == 0:
        torch.testing.assert_close(network(x), Network()(x))


def test_finds_a_proxy_in_keywords_and_tuples() -> None:
    class Keywords(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return total(parts=(torch.ones(2), (torch.ones(2), x)), scale=3.0)

    assert torch.equal(traced(Keywords())(torch.ones(2)), torch.full((2,), 9.0))


def test_a_traced_network_is_copied_pickled_and_traced_again() -> None:
    network, x = traced(Network()), torch.randn(4, 3)
    others = [copy.deepcopy(network), traced(network)]
    if hasattr(torch, "get_autocast_dtype"):  # before torch 2.4, FX cannot pickle graphs with annotations as text
        others.append(pickle.loads(pickle.dumps(network)))  # noqa: S301
    for other in others:
        torch.testing.assert_close(other(x), Network()(x))


def test_gradients_compilation_and_transforms_see_the_function_itself() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    [gradient] = torch.autograd.grad(halved(x).sum(), x)
    assert torch.equal(gradient, torch.full((4, 3), 0.5))
    torch._dynamo.reset()
    compiled = torch.compile(Network(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), Network()(x))
    torch.testing.assert_close(torch.func.vmap(halved)(x), x / 2)
