"""Dynamic quantisation replaces every linear layer."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from tests.ordinary.modules import Case, every_case, run

quantization = pytest.importorskip("torch.ao.quantization", reason="this torch has no quantisation of its own")
DynamicLinear = pytest.importorskip("torch.ao.nn.quantized.dynamic").Linear


@every_case
def test_every_linear_layer_is_quantised_and_used(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    linear = {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of torchao
        quantised = quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)
    assert {name for name, part in quantised.named_modules() if isinstance(part, DynamicLinear)} == linear
    assert not [name for name, part in quantised.named_modules() if type(part) is nn.Linear]
    called: set[str] = set()
    for name in linear:
        quantised.get_submodule(name).register_forward_hook(lambda _m, _x, _y, name=name: called.add(name))
    for found, wanted in zip(run(quantised, inputs), run(module, inputs), strict=True):
        assert (found - wanted).norm() <= 0.2 * wanted.norm() + 1e-6
    assert called == linear
    assert (
        tables
        or not linear
        or sum(p.numel() for p in quantised.parameters()) < sum(p.numel() for p in module.parameters())
    )
