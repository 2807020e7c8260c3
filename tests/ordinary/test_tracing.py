"""Tracers see torch's own operations and layers: torch.fx, make_fx, torch.jit.trace."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from attention_blocks import MultiHeadAttention, SelfAttention, causal_mask, padding_mask
from tests.ordinary.modules import BLOCKS, NETWORKS, VARIANTS, Case, every_block, in_both_modes, run, tensors

Mode = Literal["real", "fake", "symbolic"]
# Recurrent networks read the number of steps off their input, as FX cannot.
TRACED = {name: case for name, case in NETWORKS.items() if not name.startswith("RNN")}


def around(module: nn.Module, arguments: int) -> nn.Module:
    """A network that calls a module with positional arguments; FX reads their number off the signature."""
    names = ", ".join(f"x{number}" for number in range(arguments))
    forward = eval(f"lambda self, {names}: self.module({names})")  # noqa: S307
    network: nn.Module = type("Around", (nn.Module,), {"forward": forward})()
    network.module = module
    return network.train(module.training)


@pytest.mark.parametrize(
    "case", [*BLOCKS.values(), *VARIANTS.values(), *TRACED.values()], ids=[*BLOCKS, *VARIANTS, *TRACED]
)
@in_both_modes
def test_symbolic_tracing(case: Case, training: bool) -> None:
    module, inputs = case.module(training=training), case.inputs()
    graph = torch.fx.symbolic_trace(around(module, len(inputs)))
    torch.testing.assert_close(run(copy.deepcopy(graph), inputs), run(module, inputs))
    # Each linear layer is a node of its own, which passes over the graph can replace.
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    layers = [f"module.{name}" for name, part in module.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    assert set(layers) <= set(called)


def test_symbolic_tracing_from_the_block_itself() -> None:
    block, x = SelfAttention(16, num_heads=4).eval(), torch.randn(2, 5, 16)
    defaults = {"key": None, "value": None, "mask": None, "need_weights": False, "offset": 0}
    graph = torch.fx.symbolic_trace(block, concrete_args=defaults)
    torch.testing.assert_close(graph(x).context, block(x).context)


def test_a_traced_graph_is_code_that_can_be_saved() -> None:
    block, x = SelfAttention(16, num_heads=4).eval(), torch.randn(2, 5, 16)
    graph, file = torch.fx.symbolic_trace(around(block, 1)), io.BytesIO()
    torch.save(graph, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(loaded(x).context, block(x).context)


@every_block
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(case: Case, mode: Mode) -> None:
    module, inputs = case.module(), case.inputs()
    if not any(isinstance(x, Tensor) for x in inputs):
        pytest.skip("no input tensor")
    parameters = dict(module.named_parameters()) | dict(module.named_buffers())

    def call(parameters: dict[str, Tensor], *inputs: Tensor) -> list[Tensor]:
        return tensors(torch.func.functional_call(module, parameters, inputs))

    with torch.no_grad():
        graph = make_fx(call, tracing_mode=mode)(parameters, *inputs)
        torch.testing.assert_close(graph(parameters, *inputs), call(parameters, *inputs))  # type: ignore[arg-type]


@every_block
def test_jit_trace(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    if any(not isinstance(x, Tensor) for x in inputs):
        pytest.skip("torch.jit.trace takes tensors only")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes become constants, as torch.jit.trace says
        traced = torch.jit.trace(_Tensors(module), inputs)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(list(traced(*inputs)), run(module, inputs))


class _Tensors(nn.Module):
    """A module whose output torch.jit.trace accepts, without ``None``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.train(module.training)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors(self.module(*inputs)))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_with_a_causal_and_padding_mask(mode: Mode) -> None:
    block, x = MultiHeadAttention(16, num_heads=2), torch.randn(2, 5, 16)
    parameters: dict[str, Tensor] = dict(block.named_parameters())
    lengths = torch.tensor([5, 3])

    def call(parameters: dict[str, Tensor], x: Tensor, lengths: Tensor) -> Tensor:
        mask = causal_mask(5) & padding_mask(lengths, 5)
        output = torch.func.functional_call(block, parameters, (x, x), {"mask": mask})
        return output.context

    with torch.no_grad():
        graph = make_fx(call, tracing_mode=mode)(parameters, x, lengths)
        torch.testing.assert_close(graph(parameters, x, lengths), call(parameters, x, lengths))
