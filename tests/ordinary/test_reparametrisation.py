"""Weights that other tools compute: parametrizations, weight and spectral norm, old and new, pruning."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.ordinary.modules import Case, every_case, in_both_modes, run

LAYERS = (nn.Linear, nn.Conv2d, nn.Conv1d, nn.GRUCell, nn.LSTMCell)


class Doubled(nn.Module):
    """A parametrization: the weight is twice the stored one."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def weights(module: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Name, layer and name of each weight matrix in torch's layers."""
    return [
        (f"{name}.{key}", part, key)
        for name, part in module.named_modules()
        if isinstance(part, LAYERS)
        for key, value in part.named_parameters(recurse=False)
        if value.ndim > 1
    ]


def _tied(module: nn.Module) -> set[int]:
    """Layers whose weight is that of an embedding, which a tool for one layer would untie."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return {id(part) for _, part, key in weights(module) if id(getattr(part, key)) in tables}


@every_case
@in_both_modes
def test_parametrized_weights_are_used_and_trained(case: Case, training: bool) -> None:
    module, inputs = case.module(training=training), case.inputs()
    doubled, tied = copy.deepcopy(module), _tied(module)
    for (_, part, key), (_, other, _) in zip(weights(module), weights(doubled), strict=True):
        if id(part) in tied:
            continue
        parametrize.register_parametrization(part, key, Doubled(), unsafe=True)
        with torch.no_grad():
            getattr(other, key).mul_(2)
    torch.testing.assert_close(run(module, inputs), run(doubled, inputs))
    originals = [value for name, value in module.named_parameters() if name.endswith(".original")]
    for seed in range(4):  # more passes, as in the next training steps
        outputs = run(module, inputs, seed)
        if originals:
            torch.autograd.backward(torch.stack([output.square().sum() for output in outputs]).sum())
    assert all(value.grad is not None and value.grad.any() for value in originals)


def _old_weight_norm(part: nn.Module, key: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, but in wide use
        nn.utils.weight_norm(part, key)


def _pruned(part: nn.Module, key: str) -> None:
    prune.l1_unstructured(part, key, amount=0.3)  # type: ignore[no-untyped-call]


TOOLS: dict[str, Callable[[nn.Module, str], object]] = {
    "weight norm, old": _old_weight_norm,
    "weight norm, new": lambda part, key: parametrizations.weight_norm(part, key),
    "spectral norm, old": lambda part, key: nn.utils.spectral_norm(part, key),
    "spectral norm, new": lambda part, key: parametrizations.spectral_norm(part, key),
    "orthogonal": lambda part, key: parametrizations.orthogonal(part, key),
    "pruning": _pruned,
}


@every_case
@in_both_modes
@pytest.mark.parametrize("tool", TOOLS)
def test_computed_weights_are_used_and_trained(case: Case, training: bool, tool: str) -> None:
    module, inputs = case.module(training=training), case.inputs()
    plain, tied = copy.deepcopy(module), _tied(module)
    chosen = [(name, part, key) for name, part, key in weights(module) if id(part) not in tied]
    if not chosen:
        pytest.skip("no layer with a weight matrix")
    if tool == "orthogonal":
        chosen = [(name, part, key) for name, part, key in chosen if isinstance(part, nn.Linear)]
    for _, part, key in chosen:
        TOOLS[tool](part, key)
    # Once, so that the old tools compute their weights and the estimates of spectral norm move on.
    run(module, inputs)
    module.eval()
    found = run(module, inputs)
    layers = dict(plain.named_modules())
    with torch.no_grad():
        for name, part, key in chosen:
            layers[name.removesuffix(f".{key}")].get_parameter(key).copy_(getattr(part, key))
        statistics = dict(module.named_buffers())
        for name, buffer in plain.named_buffers():
            buffer.copy_(statistics[name])
    torch.testing.assert_close(found, run(plain.eval(), inputs))
    module.train(training)
    trained = [value for value in module.parameters() if value.requires_grad]
    before = [value.detach().clone() for value in trained]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    moved = set[str]()
    for seed in range(4):
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack([output.square().sum() for output in run(module, inputs, seed)]).sum())
        optimizer.step()
        moved |= {n for n, part, _ in chosen if any(p.grad is not None and p.grad.any() for p in part.parameters())}
    assert moved == {name for name, _, _ in chosen}
    assert any(not torch.equal(a, b) for a, b in zip(trained, before, strict=True))
