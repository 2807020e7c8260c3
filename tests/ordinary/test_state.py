"""All state is in the state dict or follows from the constructor's arguments; copies are whole."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from attention_blocks import EncoderLayer, SelfAttention
from lightning_modules import VisionTransformer
from tests.ordinary.modules import Case, every_block, every_case, in_both_modes, run


def started_on_meta(case: Case) -> nn.Module:
    """The module as large models start: without memory, which holds garbage at first."""
    with torch.device("meta"):
        module = case.build()
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(77)
    return module


@every_block
def test_a_start_on_the_meta_device_gives_the_same_module(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    empty = started_on_meta(case)
    missing = empty.load_state_dict(module.state_dict())
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    torch.testing.assert_close(run(empty.eval(), inputs), run(module, inputs), rtol=0, atol=0)


@every_block
def test_weights_can_be_assigned_on_the_meta_device(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    with torch.device("meta"):
        empty = case.build()
    empty.load_state_dict(module.state_dict(), assign=True)
    assert not any(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    torch.testing.assert_close(run(empty.eval(), inputs), run(module, inputs), rtol=0, atol=0)


@every_case
def test_there_is_no_state_besides_the_state_dict(case: Case) -> None:
    module = case.build()
    held = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    assert held == module.state_dict().keys() - {"decoder.output.weight", "embedding.weight"} | held
    assert not [
        f"{name}.{key}" for name, part in module.named_modules() for key, value in vars(part).items()
        if isinstance(value, torch.Tensor)
    ]  # fmt: skip


@every_case
def test_own_parameters_can_be_reset(case: Case) -> None:
    """A module that holds parameters has ``reset_parameters``, after which none holds what it held before."""
    module = case.build()
    for name, part in module.named_modules():
        own = dict(part.named_parameters(recurse=False))
        if not own:
            continue
        assert callable(getattr(part, "reset_parameters", None)), f"{name or type(part).__name__}"
        if type(part).__module__.startswith("torch."):
            continue
        with torch.no_grad():
            for parameter in own.values():
                parameter.fill_(77)
        part.reset_parameters()
        assert all(parameter.ne(77).all() for parameter in own.values()), name


def test_resetting_leaves_the_blocks_of_a_user_alone() -> None:
    class Mine(SelfAttention):
        def reset_parameters(self) -> None:
            nn.init.constant_(self.query_proj.weight, 0.5)

    network = VisionTransformer(4, 16, patches=4, dim=16, depth=2, attention=Mine)
    layer = EncoderLayer(16, attention=Mine)
    network.reset_parameters()
    for part in (*network.modules(), *layer.modules()):
        if isinstance(part, Mine):
            assert part.query_proj.weight.eq(0.5).all()


@every_case
@in_both_modes
def test_copies_and_pickles_are_whole(case: Case, training: bool) -> None:
    module, inputs, file = case.module(training=training), case.inputs(), io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = [copy.deepcopy(module), torch.load(file, weights_only=False)]
    wanted = run(copy.deepcopy(module), inputs)
    for other in copies:
        torch.testing.assert_close(run(other, inputs), wanted, rtol=0, atol=0)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
    assert all(parameter.any() for parameter in module.parameters())


@every_case
def test_an_average_of_weights_computes(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    average = AveragedModel(module, use_buffers=True)
    average.update_parameters(module)
    torch.testing.assert_close(run(average.eval(), inputs), run(module, inputs))


@every_case
@pytest.mark.parametrize("name", ["meta", "cpu"])
def test_new_tensors_are_on_the_device_of_the_inputs(case: Case, name: str) -> None:
    """Whatever the default device is."""
    module, inputs = case.module(), case.inputs()
    if not any(isinstance(x, torch.Tensor) for x in inputs):
        pytest.skip("no input has a device")
    wanted = run(module, inputs)
    with torch.device(name):
        if name == "meta":
            found = run(module, inputs)
            assert not any(output.is_meta for output in found)
            torch.testing.assert_close(found, wanted)
        else:
            torch.testing.assert_close(run(module, inputs), wanted)
