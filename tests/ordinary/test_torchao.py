"""Quantisation by torchao, and by the older quantize_dynamic of torch: every linear layer, and nothing else."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from tests.ordinary.modules import MODELS, Case, run

pytest.importorskip("torchao", reason="torchao is not installed; its newest release needs a newer torch")
from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

pytestmark = pytest.mark.filterwarnings(
    # torch.ao.quantization is tested because it is still there, and widely used on CPUs.
    "ignore:torch.ao.quantization is deprecated.*:DeprecationWarning",
    "ignore:torch.quantize_per_tensor.*are deprecated.*:UserWarning",
)


every_model = pytest.mark.parametrize("case", MODELS.values(), ids=list(MODELS))
every_config = pytest.mark.parametrize("create", [Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig])


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def deviation(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference, relative to the norm of what is wanted."""
    return float(((found - wanted).norm() / wanted.norm()).detach())


def called(model: nn.Module, names: list[str], inputs: tuple[Tensor | int, ...]) -> set[str]:
    """The modules of these names that a forward pass calls."""
    calls = Counter[str]()
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _m, _x, _y, name=name: calls.update([name]))
    run(model, inputs)
    return set(calls)


@every_model
@every_config
def test_every_linear_layer_is_converted(case: Case, create: type[AOBaseConfig]) -> None:
    torch.manual_seed(0)
    model, inputs = case.build().eval(), case.inputs()
    wanted, names = run(model, inputs)[0], list(linear_layers(model))
    others = {name: type(part) for name, part in model.named_modules() if name not in names}
    quantize_(model, create())
    converted = [name for name, layer in linear_layers(model).items() if type(layer.weight).__name__ == "Int8Tensor"]
    assert converted == names
    assert {name: type(part) for name, part in model.named_modules() if name not in names} == others
    found = run(model, inputs)[0]
    assert 0 < deviation(found, wanted) < 0.1
    assert called(model, names, inputs) == set(names)


@every_model
def test_weight_only_equals_the_plain_model_with_rounded_weights(case: Case) -> None:
    torch.manual_seed(0)
    model, inputs = case.build().eval(), case.inputs()
    plain = copy.deepcopy(model)
    quantize_(model, Int8WeightOnlyConfig())
    with torch.no_grad():
        for name, layer in linear_layers(plain).items():
            quantized = model.get_submodule(name).weight
            assert isinstance(quantized, Tensor)
            layer.weight = nn.Parameter(quantized.dequantize())
    torch.testing.assert_close(run(model, inputs), run(plain, inputs), rtol=1e-3, atol=1e-4)


@every_model
def test_quantize_dynamic(case: Case) -> None:
    quantization = pytest.importorskip("torch.ao.quantization", reason="torch has moved it to torchao")
    torch.manual_seed(0)
    model, inputs = case.build().eval(), case.inputs()
    wanted, names = run(model, inputs)[0], list(linear_layers(model))
    quantized = quantization.quantize_dynamic(model, {nn.Linear})
    dynamic = torch.ao.nn.quantized.dynamic.Linear
    assert [name for name, part in quantized.named_modules() if type(part) is dynamic] == names
    assert not linear_layers(quantized)
    assert 0 < deviation(run(quantized, inputs)[0], wanted) < 0.15
    assert called(quantized, names, inputs) == set(names)
