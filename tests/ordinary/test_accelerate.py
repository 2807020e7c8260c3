"""Offloading, empty weights and training by accelerate: the results of plain PyTorch."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from attention_blocks import CBAM, insert_attention
from lightning_modules.system.evaluation import evaluation_view
from tests.ordinary import modules
from tests.ordinary.modules import UNTIED_TRANSLATOR, Case, run

pytest.importorskip("accelerate", reason="accelerate is not installed")
from accelerate import (
    Accelerator,
    cpu_offload,
    disk_offload,
    dispatch_model,
    infer_auto_device_map,
    init_empty_weights,
    load_checkpoint_and_dispatch,
)
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.state import AcceleratorState, GradientState, PartialState

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    # A device map may name parameters of the network itself, such as a class token, which accelerate places too.
    "ignore:The following device_map keys do not match any submodules:UserWarning",
)


MODELS = {**modules.MODELS, "TransformerTranslator, untied": UNTIED_TRANSLATOR}
every_model = pytest.mark.parametrize("case", MODELS.values(), ids=list(MODELS))


@pytest.fixture(autouse=True)
def _no_shared_state() -> Iterator[None]:
    """Accelerate keeps its settings in classes."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def own_modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in model.named_modules() if any(True for _ in part.parameters(recurse=False))}


def devices(model: nn.Module) -> set[str]:
    return {parameter.device.type for parameter in model.parameters()}


@every_model
def test_cpu_offload(case: Case) -> None:
    """Each module's weights are loaded for its call only."""
    model, inputs = case.build().eval(), case.inputs()
    wanted = run(model, inputs)
    offloaded = cpu_offload(copy.deepcopy(model), execution_device=CPU)
    for _ in range(2):
        assert devices(offloaded) == {"meta"}
        torch.testing.assert_close(run(offloaded, inputs), wanted, rtol=0, atol=0)
    assert devices(offloaded) == {"meta"}


@every_model
def test_disk_offload(case: Case, tmp_path: Path) -> None:
    model, inputs = case.build().eval(), case.inputs()
    wanted = run(model, inputs)
    offloaded = disk_offload(copy.deepcopy(model), tmp_path, execution_device=CPU)
    assert devices(offloaded) == {"meta"}
    torch.testing.assert_close(run(offloaded, inputs), wanted)


@every_model
def test_an_offloaded_model_in_training_is_evaluated_by_a_view(case: Case) -> None:
    model, inputs = case.build(), case.inputs()
    wanted = run(copy.deepcopy(model).eval(), inputs)
    offloaded = cpu_offload(model.train(), execution_device=CPU)
    torch.testing.assert_close(run(evaluation_view(offloaded), inputs), wanted, rtol=0, atol=0)
    assert all(part.training for part in offloaded.modules())
    assert devices(offloaded) == {"meta"}


@every_model
def test_dispatched_over_memory_and_disk(case: Case, tmp_path: Path) -> None:
    """By a device map that splits the network where accelerate likes to."""
    if case is MODELS["TransformerTranslator"]:
        pytest.skip("accelerate takes the source's embedding for that of the decoder; see the next test")
    model, inputs = case.build().eval(), case.inputs()
    wanted = run(model, inputs)
    size = sum(parameter.nbytes for parameter in model.parameters())
    device_map = infer_auto_device_map(model, max_memory={"cpu": int(0.6 * size), "disk": 10**12})
    assert set(device_map.values()) == {"cpu", "disk"}
    dispatched = dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path)
    torch.testing.assert_close(run(dispatched, inputs), wanted, rtol=1e-4, atol=1e-5)


def test_device_maps_of_accelerate_confuse_tied_weights_of_equal_names() -> None:
    """It looks for "embedding." anywhere in the names of tied weights, such as "decoder.embedding.weight"."""
    decoder = nn.Module()
    decoder.embedding, decoder.output = nn.Embedding(9, 4), nn.Linear(4, 9)
    decoder.output.weight = decoder.embedding.weight
    network = nn.Module()
    network.decoder, network.embedding = decoder, nn.Embedding(9, 4)
    with pytest.raises(IndexError):
        infer_auto_device_map(network, max_memory={"cpu": 300, "disk": 10**12})


@every_model
def test_empty_weights_and_a_checkpoint(case: Case, tmp_path: Path) -> None:
    model, inputs, file = case.build().eval(), case.inputs(), tmp_path / "weights.bin"
    torch.save(model.state_dict(), file)
    # Attention is inserted by running the network, which needs all of it on one device.
    with init_empty_weights(include_buffers=True):
        empty = case.build()
    assert devices(empty) == {"meta"}
    loaded = load_checkpoint_and_dispatch(empty, str(file), device_map={"": "cpu"}).eval()
    torch.testing.assert_close(run(loaded, inputs), run(model, inputs), rtol=1e-4, atol=1e-5)


def test_empty_weights_with_buffers_need_one_device() -> None:
    """By default buffers are real: then no network of feature maps runs, be there attention or not."""
    with init_empty_weights():
        network = resnet18(num_classes=4)
    with pytest.raises((RuntimeError, NotImplementedError)):
        network(torch.zeros(2, 3, 64, 64, device="meta"))
    with pytest.raises(ValueError, match="the network does not run"):
        insert_attention(network, CBAM, "layer*.*.bn2")


@every_model
def test_hooks_see_every_module(case: Case) -> None:
    """Accelerate's hooks replace ``forward`` of each module."""

    class Recorded(ModelHook):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.name = name

        def pre_forward(self, module: nn.Module, *args: object, **kwargs: object) -> tuple[object, object]:
            calls.update([f"before {self.name}"])
            return args, kwargs

        def post_forward(self, module: nn.Module, output: object) -> object:
            calls.update([f"after {self.name}"])
            return output

    model, inputs, calls = case.build().eval(), case.inputs(), Counter[str]()
    wanted, parts = run(model, inputs), own_modules(model)
    for name, part in parts.items():
        add_hook_to_module(part, Recorded(name))
    torch.testing.assert_close(run(model, inputs), wanted, rtol=0, atol=0)
    assert calls.keys() == {f"{when} {name}" for name in parts for when in ("before", "after")}
    for part in parts.values():
        remove_hook_from_module(part)
    seen = calls.copy()
    torch.testing.assert_close(run(model, inputs), wanted, rtol=0, atol=0)
    assert calls == seen


@every_model
def test_a_training_step(case: Case) -> None:
    """Of a prepared model: gradients, new weights and statistics are those of plain PyTorch."""
    model, inputs = case.build().train(), case.inputs()
    plain = copy.deepcopy(model)
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        loss = run(prepared, inputs)[0].square().mean()
        accelerator.backward(loss)
        prepared_optimizer.step()
        prepared_optimizer.zero_grad()
        plain_loss = run(plain, inputs)[0].square().mean()
        torch.autograd.backward(plain_loss)
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(accelerator.unwrap_model(prepared).state_dict(), plain.state_dict())
    assert accelerator.unwrap_model(prepared) is model


@pytest.mark.parametrize("name", ["TransformerEncoder", "VisionTransformer", "SmallResNet with CBAM"])
def test_a_training_step_in_bfloat16(name: str) -> None:
    """The forward pass under autocast, which plain PyTorch gives too."""
    model, inputs = MODELS[name].build().train(), MODELS[name].inputs()
    plain = copy.deepcopy(model)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(model)
    loss = run(prepared, inputs)[0].square().mean()
    accelerator.backward(loss)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(plain, inputs)[0]
    torch.autograd.backward(output.float().square().mean())
    for (key, found), (_, wanted) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, msg=key)
