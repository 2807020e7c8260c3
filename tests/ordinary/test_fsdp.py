"""Training by DDP and by both versions of FSDP, in a group of one process: what plain PyTorch computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, transformer_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import resnet18

from attention_blocks import CBAM, DecoderLayer, EncoderLayer, insert_attention, inserted, remove_attention
from attention_blocks.feature_maps.with_attention import WithAttention
from tests.ordinary.modules import MODELS, Case, run

pytestmark = [
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="this torch is built without gloo"
    ),
    # With one process there is nothing to shard.
    pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning"),
    # About in-place operations on what a linear layer returns, ours or torch's.
    pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor:UserWarning"),
]
CPU = torch.device("cpu")


LAYERS = {EncoderLayer, DecoderLayer, WithAttention}
every_model = pytest.mark.parametrize("case", MODELS.values(), ids=list(MODELS))


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def step(
    model: nn.Module, inputs: tuple[Tensor | int, ...]
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Output, gradients and new weights of two steps of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    outputs, gradients = list[Tensor](), dict[str, Tensor]()
    for number in range(2):
        optimizer.zero_grad()
        output = run(model, inputs, seed=number)
        torch.autograd.backward(torch.stack([x.square().mean() for x in output]).sum())
        outputs += [x.detach() for x in output]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            gradients[f"{number} {plain(name)}"] = whole(parameter.grad)
        optimizer.step()
    return outputs, gradients, {plain(name): whole(parameter) for name, parameter in model.named_parameters()}


def plain(name: str) -> str:
    """The name without the wrappers' prefixes."""
    return name.replace("_fsdp_wrapped_module.", "").removeprefix("module.")


def whole(x: Tensor) -> Tensor:
    """The tensor from its shards."""
    full = x.full_tensor() if hasattr(x, "full_tensor") else x
    return full.detach().clone()


def check(wrapped: nn.Module, model: nn.Module, inputs: tuple[Tensor | int, ...]) -> None:
    found, wanted = step(wrapped, inputs), step(model, inputs)
    assert found[1].keys() == wanted[1].keys()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def sharded_as_a_whole(*modules: nn.Module) -> nn.Module:
    """The last module, sharded by FSDP2 after the others."""
    fully_shard = getattr(torch.distributed.fsdp, "fully_shard", None)
    if fully_shard is None:
        pytest.skip("FSDP2 came to this package with torch 2.6")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for module in modules:
        fully_shard(module, mesh=mesh)
    return modules[-1]


def sharded_with_layers(model: nn.Module) -> nn.Module:
    """The model, its layers sharded by themselves."""
    layers = [part for part in model.modules() if type(part) in LAYERS and part is not model]
    return sharded_as_a_whole(*layers, model)


@every_model
def test_ddp(case: Case) -> None:
    model, inputs = case.build().train(), case.inputs()
    check(DistributedDataParallel(copy.deepcopy(model)), model, inputs)


@every_model
def test_fsdp(case: Case) -> None:
    model, inputs = case.build().train(), case.inputs()
    wrapped = FullyShardedDataParallel(copy.deepcopy(model), device_id=CPU, use_orig_params=True)
    check(wrapped, model, inputs)


@every_model
def test_fsdp_of_each_layer(case: Case) -> None:
    """By the policy for Transformers, given the classes of the layers; inserted attention goes with its host."""
    model, inputs = case.build().train(), case.inputs()
    layers = [name for name, part in model.named_modules() if type(part) in LAYERS and name]
    policy = partial(transformer_auto_wrap_policy, transformer_layer_cls=LAYERS)
    wrapped = FullyShardedDataParallel(
        copy.deepcopy(model), auto_wrap_policy=policy, device_id=CPU, use_orig_params=True
    )
    found = [
        plain(name).removesuffix("._fsdp_wrapped_module")
        for name, part in wrapped.named_modules()
        if isinstance(part, FullyShardedDataParallel) and name
    ]
    assert found == layers
    check(wrapped, model, inputs)


@pytest.mark.parametrize("name", ["SmallResNet with CBAM", "resnet18 with CBAM"])
def test_fsdp_of_each_block(name: str) -> None:
    """Of inserted blocks, apart from their hosts."""
    case = MODELS[name]
    model, inputs = case.build().train(), case.inputs()
    wrapped = FullyShardedDataParallel(
        copy.deepcopy(model), auto_wrap_policy=ModuleWrapPolicy({CBAM}), device_id=CPU, use_orig_params=True
    )
    blocks = [part for part in wrapped.modules() if isinstance(part, FullyShardedDataParallel)]
    assert len(blocks) == 1 + len(inserted(model))
    check(wrapped, model, inputs)


@every_model
def test_fully_shard(case: Case) -> None:
    model, inputs = case.build().train(), case.inputs()
    check(sharded_with_layers(copy.deepcopy(model)), model, inputs)


def test_sharded_attention_is_found_and_removed() -> None:
    torch.manual_seed(0)
    network, x = resnet18(num_classes=4).eval(), torch.randn(2, 3, 32, 32)
    wanted = network(x)
    insert_attention(network, CBAM, "layer*.*.bn2")
    assert not torch.allclose(network(x), wanted)
    sharded = sharded_as_a_whole(network)
    assert list(inserted(sharded)) == [f"layer{stage}.{block}.bn2" for stage in range(1, 5) for block in range(2)]
    remove_attention(sharded)
    torch.testing.assert_close(sharded(x), wanted)


@every_model
def test_state_dict_of_a_sharded_model(case: Case, tmp_path: Path) -> None:
    """Holds the names of the plain model, which loads it."""
    model, inputs, other = case.build().eval(), case.inputs(), case.build().eval()
    wanted = run(model, inputs)
    state = get_model_state_dict(sharded_with_layers(model), options=StateDictOptions(full_state_dict=True))
    torch.save(state, tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(run(other, inputs), wanted)
