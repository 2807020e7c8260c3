"""LoRA adapters of peft: on every linear layer, trained, merged, saved and loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import (
    Likelihood,
    RNNSeq2Seq,
    RNNSizes,
    RNNTranslator,
    Seq2Seq,
    TransformerSeq2Seq,
    TransformerTranslator,
)
from tests.lightning_modules.test_every_system import BINARY, DECIMAL, numbers
from tests.ordinary import modules
from tests.ordinary.modules import UNTIED_TRANSLATOR, Case, run

pytest.importorskip("peft", reason="peft is not installed; its newest release needs a newer torch than the oldest here")
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model

# A tied output layer cannot be adapted alone.
MODELS = {**modules.MODELS, "TransformerTranslator": UNTIED_TRANSLATOR}
every_model = pytest.mark.parametrize("case", MODELS.values(), ids=list(MODELS))


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def lora(model: nn.Module, *, at_start: bool = True) -> LoraConfig:
    """LoRA on all linear layers; ``at_start``: without an effect yet, else with random weights."""
    return LoraConfig(r=2, target_modules=list(linear_layers(model)), init_lora_weights=at_start)


def update(model: nn.Module, name: str) -> Tensor:
    """What an adapter adds to a weight: s B A."""
    layer = model.get_submodule(name)
    assert isinstance(layer.lora_A, nn.ModuleDict)
    assert isinstance(layer.lora_B, nn.ModuleDict)
    assert isinstance(layer.scaling, dict)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert isinstance(a, Tensor)
    assert isinstance(b, Tensor)
    return layer.scaling["default"] * b @ a


def loss_of(outputs: list[Tensor]) -> Tensor:
    return torch.stack([output.square().mean() for output in outputs]).sum()


@every_model
def test_every_linear_layer_gets_an_adapter_without_an_effect_at_first(case: Case) -> None:
    model, inputs = case.build().eval(), case.inputs()
    plain, names = run(model, inputs), list(linear_layers(model))
    adapted = get_peft_model(model, lora(model))
    found = [name for name, part in adapted.get_base_model().named_modules() if hasattr(part, "lora_A")]
    assert found == names
    torch.testing.assert_close(run(adapted, inputs), plain, rtol=0, atol=0)


@every_model
def test_all_linear_finds_the_layers(case: Case) -> None:
    """By the shortcut, which leaves the output layer out of models of transformers only."""
    model = case.build()
    names = list(linear_layers(model))
    inject_adapter_in_model(LoraConfig(r=2, target_modules="all-linear"), model)
    assert [name for name, part in model.named_modules() if hasattr(part, "lora_A")] == names


@every_model
def test_random_adapters_change_the_weights_by_their_product(case: Case) -> None:
    """The same as a plain model with the weights W + s B A."""
    model, inputs = case.build().eval(), case.inputs()
    plain, before = copy.deepcopy(model), run(model, inputs)
    inject_adapter_in_model(lora(model, at_start=False), model)
    with torch.no_grad():
        for name, layer in linear_layers(plain).items():
            layer.weight += update(model, name)
    found = run(model, inputs)
    torch.testing.assert_close(found, run(plain, inputs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], before[0], rtol=1e-2)


@every_model
def test_gradients_of_adapters(case: Case) -> None:
    """Of B, which is zero at first: s dW Aᵀ, with the gradient dW of the plain model's weight."""
    model, inputs = case.build().train(), case.inputs()
    plain = copy.deepcopy(model)
    torch.autograd.backward(loss_of(run(plain, inputs)))
    adapted = get_peft_model(model, lora(model))
    torch.autograd.backward(loss_of(run(adapted, inputs)))
    for name, layer in linear_layers(plain).items():
        part = adapted.get_base_model().get_submodule(name)
        assert isinstance(part.lora_A, nn.ModuleDict)
        assert isinstance(part.lora_B, nn.ModuleDict)
        assert isinstance(part.scaling, dict)
        a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
        assert layer.weight.grad is not None
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        torch.testing.assert_close(
            b.grad, part.scaling["default"] * layer.weight.grad @ a.T, rtol=1e-3, atol=1e-6, msg=name
        )


@every_model
def test_a_step_moves_the_adapters_only(case: Case) -> None:
    model, inputs = case.build().train(), case.inputs()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    layers = len(linear_layers(model))
    adapted = get_peft_model(model, lora(model, at_start=False))
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * layers
    at_start = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.01)
    torch.autograd.backward(loss_of(run(adapted, inputs)))
    optimizer.step()
    without = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    assert not without
    assert not [name for name, parameter in trained.items() if torch.equal(parameter, at_start[name])]
    base = {
        name.replace(".base_layer", ""): parameter
        for name, parameter in adapted.get_base_model().named_parameters()
        if "lora_" not in name
    }
    assert base.keys() == before.keys()
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.items())


@every_model
def test_merged_adapters(case: Case) -> None:
    model, inputs = case.build().eval(), case.inputs()
    layers = {name: type(layer) for name, layer in linear_layers(model).items()}
    adapted = get_peft_model(model, lora(model, at_start=False))
    wanted = run(adapted, inputs)
    merged = adapted.merge_and_unload()
    assert isinstance(merged, nn.Module)
    assert {name: type(layer) for name, layer in linear_layers(merged).items()} == layers
    torch.testing.assert_close(run(merged, inputs), wanted, rtol=1e-4, atol=1e-5)


@every_model
def test_disabled_adapters(case: Case) -> None:
    model, inputs = case.build().eval(), case.inputs()
    plain = run(model, inputs)
    adapted = get_peft_model(model, lora(model, at_start=False))
    with adapted.disable_adapter():
        torch.testing.assert_close(run(adapted, inputs), plain, rtol=0, atol=0)
    assert not torch.allclose(run(adapted, inputs)[0], plain[0], rtol=1e-2)


@every_model
def test_saved_adapters(case: Case, tmp_path: Path) -> None:
    model, inputs = case.build().eval(), case.inputs()
    plain = copy.deepcopy(model)
    adapted = get_peft_model(model, lora(model, at_start=False))
    adapted.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(plain, str(tmp_path))
    torch.testing.assert_close(run(loaded, inputs), run(adapted, inputs), rtol=0, atol=0)


# Whole systems, whose loss calls the decoder and the output layer by themselves.

SYSTEMS: dict[str, Callable[..., Seq2Seq]] = {
    "RNN": partial(RNNSeq2Seq, network=partial(RNNTranslator, sizes=RNNSizes(8, 16, dropout=0.1))),
    "Transformer": partial(
        TransformerSeq2Seq, network=partial(TransformerTranslator, dim=16, depth=2, tie_embeddings="none")
    ),
}


@pytest.mark.parametrize("create", SYSTEMS.values(), ids=list(SYSTEMS))
@pytest.mark.parametrize("wrapped", [False, True], ids=["injected", "wrapped"])
def test_training_through_an_objective(create: Callable[..., Seq2Seq], wrapped: bool) -> None:
    """Every adapter learns, that of the output layer too, and a step lowers the loss."""
    torch.manual_seed(0)
    system = create(DECIMAL, BINARY, objective=Likelihood(label_smoothing=0.1))
    batch, config = next(iter(numbers())), lora(system.network, at_start=False)
    assert "decoder.output" in linear_layers(system.network)
    if wrapped:
        system.network = get_peft_model(system.network, config)  # type: ignore[assignment]
    else:
        inject_adapter_in_model(config, system.network)
    trained = {name: parameter for name, parameter in system.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    optimizer = torch.optim.SGD(trained.values(), lr=0.05)
    torch.manual_seed(1)
    loss = system.objective.loss(system, batch)
    torch.autograd.backward(loss)
    assert not [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    assert any("decoder.output" in name for name in trained)
    optimizer.step()
    torch.manual_seed(1)
    assert system.objective.loss(system, batch) < loss
    assert len(system.translate(["5", "1 0"])) == 2
