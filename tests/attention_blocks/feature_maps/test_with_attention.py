"""A module with attention stands in for the module itself: for the network, in state dicts, and for other tools."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

from attention_blocks import insert_attention, inserted, remove_attention
from attention_blocks.feature_maps.with_attention import WithAttention, network_parts, original_parts


class Scale(nn.Module):
    """A block with one weight per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels, 1, 1) + 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Tree(nn.Module):
    """A module whose children have the names that the wrapper uses."""

    def __init__(self, *names: str, own: bool = True) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.BatchNorm2d(4))
        if own:
            self.weight = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x * self.weight if hasattr(self, "weight") else x


def _drawn(module: nn.Module) -> nn.Module:
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
        else:
            value.fill_(7)
    return module.eval()


def test_attributes_are_the_hosts() -> None:
    norm = nn.BatchNorm2d(4)
    both = WithAttention(norm, Scale(4))
    assert both.num_features == 4
    assert both.weight is norm.weight
    both.momentum = 0.2
    both.weight = nn.Parameter(torch.zeros(4))
    assert norm.momentum == 0.2
    assert torch.equal(norm.weight, torch.zeros(4))
    both.note = "its own, since the host has none"
    assert not hasattr(norm, "note")
    norm.later = 1  # type: ignore[assignment]
    assert both.later == 1
    del both.later
    assert not hasattr(norm, "later")
    with pytest.raises(AttributeError, match="'BatchNorm2d' object has no attribute 'missing'"):
        _ = both.missing


def test_items_are_the_hosts() -> None:
    stage = nn.Sequential(nn.ReLU(), nn.Identity(), nn.Tanh())
    both = WithAttention(stage, attention := nn.Sigmoid())
    assert len(both) == 3
    assert both[-1] is stage[2]
    both[0] = nn.GELU()
    assert isinstance(stage[0], nn.GELU)
    del both[1]
    assert [type(part) for part in stage] == [nn.GELU, nn.Tanh]
    assert list(both) == [*stage, attention]
    x = torch.randn(3)
    parts = x
    for part in both:
        parts = part(parts)
    assert torch.equal(parts, both(x))


def test_a_host_without_items_has_none() -> None:
    both = WithAttention(nn.ReLU(), nn.Sigmoid())
    assert both
    assert WithAttention(nn.Sequential(), nn.Sigmoid())
    for ask in (len, iter):
        with pytest.raises(TypeError):
            ask(both)


@pytest.mark.parametrize("training", [False, True])
def test_it_has_the_mode_of_its_host(training: bool) -> None:
    assert WithAttention(nn.ReLU().train(training), nn.Sigmoid()).training is training


def test_a_copy_has_its_own_host() -> None:
    both = WithAttention(Tree("host"), Scale(4)).eval()
    x = torch.rand(2, 4, 3, 3)
    wanted = both(x)
    for other in (copy.deepcopy(both), copy.copy(both), pickle.loads(pickle.dumps(both))):  # noqa: S301
        assert isinstance(other, WithAttention)
        assert torch.equal(other(x), wanted)
    copied = copy.deepcopy(both)
    assert copied.host is not both.host


def test_a_host_that_copies_itself_is_not_the_copy() -> None:
    class Own(nn.Identity):
        def __deepcopy__(self, memo: object) -> Own:
            return Own()

    copied = copy.deepcopy(WithAttention(Own(), Scale(4)))
    assert isinstance(copied, WithAttention)
    assert isinstance(copied.host, Own)


def test_parametrizations_of_the_host_are_not_the_wrappers() -> None:
    """Tools ask each module in turn whether it is parametrized, and undo that."""
    parametrize = torch.nn.utils.parametrize
    host = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
    both = WithAttention(host, Scale(4))
    x = torch.rand(2, 4, 3, 3)
    wanted = both(x)
    changed = [part for part in both.modules() if parametrize.is_parametrized(part)]
    assert changed == [host]
    parametrize.remove_parametrizations(host, "weight")
    torch.testing.assert_close(both(x), wanted)


def test_hooks_of_accelerate_on_host_and_wrapper_are_both_called() -> None:
    hooks = pytest.importorskip("accelerate.hooks", reason="accelerate is not installed")
    both = WithAttention(nn.Identity(), Scale(4))
    x = torch.rand(2, 4, 3, 3)
    wanted = both(x)
    for part in (both.host, both, both.attention):  # from the inside out
        hooks.add_hook_to_module(part, hooks.ModelHook(), append=True)
    assert torch.equal(both(x), wanted)


def _in_a_stage(stage: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 1), stage)


HOSTS: dict[str, Callable[[], nn.Module]] = {
    "norm": lambda: nn.BatchNorm2d(4),
    "no state": nn.ReLU,
    "stage": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
    "child host": lambda: Tree("host"),
    "only a child host": lambda: Tree("host", own=False),
    "child attention": lambda: Tree("attention"),
    "only a child attention": lambda: Tree("attention", own=False),
    "both": lambda: Tree("host", "attention", own=False),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("make", HOSTS.values(), ids=HOSTS)
def test_weights_with_and_without_attention_are_loaded(make: Callable[[], nn.Module], root: bool, assign: bool) -> None:
    def place(module: nn.Module) -> nn.Module:
        return module if root else _in_a_stage(module)

    torch.manual_seed(0)
    plain, x = _drawn(place(make())), torch.rand(2, 4, 3, 3)
    prefix = "" if root else "1."
    attended = place(WithAttention(make(), Scale(4))).eval()
    block = attended.get_submodule(f"{prefix}attention")
    given = plain.state_dict()
    result = attended.load_state_dict(given, strict=False, assign=assign)
    assert (result.missing_keys, result.unexpected_keys) == ([f"{prefix}attention.weight"], [])
    torch.testing.assert_close(attended(x), block(plain(x)))
    assert given.keys() == plain.state_dict().keys()

    other = place(WithAttention(make(), Scale(4))).eval()
    other.load_state_dict(attended.state_dict(), assign=assign)
    assert torch.equal(other(x), attended(x))
    torch.testing.assert_close(other.state_dict(), attended.state_dict(), rtol=0, atol=0)


def test_weights_of_an_inner_and_of_no_insertion_are_loaded() -> None:
    """A network with attention inside of a module that has attention after it."""
    plain = _drawn(nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))))
    convolution, norm = plain[0]  # type: ignore[index]
    inner = nn.Sequential(nn.Sequential(copy.deepcopy(convolution), WithAttention(copy.deepcopy(norm), Scale(4))))

    def both() -> nn.Module:
        stage = nn.Sequential(nn.Conv2d(4, 4, 1), WithAttention(nn.BatchNorm2d(4), Scale(4)))
        return nn.Sequential(WithAttention(stage, Scale(4))).eval()

    x = torch.rand(2, 4, 3, 3)
    first, second = both(), both()
    result = first.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert sorted(result.missing_keys) == ["0.attention.weight", "0.host.1.attention.weight"]
    outer_weight, inner_weight = first.get_parameter("0.attention.weight"), first.get_parameter("0.1.attention.weight")
    torch.testing.assert_close(first(x), plain(x) * inner_weight * outer_weight)
    result = second.load_state_dict(inner.state_dict(), strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["0.attention.weight"], [])
    torch.testing.assert_close(second(x), inner.eval()(x) * second.get_parameter("0.attention.weight"))


def test_weights_without_an_insertion_into_a_child_named_host_are_loaded() -> None:
    plain = _drawn(Tree("host"))
    stage = Tree("host")
    stage.host = WithAttention(stage.host, Scale(4))  # type: ignore[arg-type]
    both = WithAttention(stage, Scale(4)).eval()
    result = both.load_state_dict(plain.state_dict(), strict=False)
    assert sorted(result.missing_keys) == ["attention.weight", "host.host.attention.weight"]
    assert not result.unexpected_keys
    assert torch.equal(stage.get_parameter("host.host.bias"), plain.get_parameter("host.bias"))
    assert torch.equal(stage.get_parameter("weight"), plain.get_parameter("weight"))


def test_weights_of_a_host_and_of_a_block_in_one_state_dict_are_loaded() -> None:
    norm, block = _drawn(nn.BatchNorm2d(4)), nn.Sequential(*(Scale(4) for _ in range(9)))
    given = norm.state_dict() | {f"attention.{key}": value for key, value in block.state_dict().items()}
    both = WithAttention(nn.BatchNorm2d(4), copy.deepcopy(block)).eval()
    both.load_state_dict(given)
    x = torch.rand(2, 4, 3, 3)
    assert torch.equal(both(x), block(norm(x)))


def test_weights_that_do_not_fit_are_reported() -> None:
    both = WithAttention(nn.BatchNorm2d(4), Scale(4))
    result = both.load_state_dict(nn.BatchNorm2d(4, affine=False).state_dict(), strict=False)
    assert result.missing_keys == ["host.weight", "host.bias", "attention.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"attention.weight\""):
        both.load_state_dict(nn.BatchNorm2d(4).state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"host.other\""):
        both.load_state_dict(nn.BatchNorm2d(4).state_dict() | {"other": torch.zeros(1)})


def test_parts_have_the_names_of_the_network_without_attention() -> None:
    stage = nn.Sequential(nn.ReLU(), Tree("host"))
    model = nn.Sequential(stage, nn.Tanh())
    names = dict(model.named_modules())
    stage[1] = WithAttention(stage[1], nn.Sequential(nn.Sigmoid()))
    model[0] = WithAttention(stage, nn.Sigmoid())
    assert dict(original_parts(model)) == names
    wrappers = [name for name, part in network_parts(model) if isinstance(part, WithAttention)]
    assert wrappers == ["0", "0.1"]
    assert all(model.get_submodule(name) is not part for name, part in names.items() if name in wrappers)


@pytest.fixture
def attended() -> torchvision.models.ResNet:
    """A ResNet with blocks after a norm, inside of a stage that has a block itself, and after the last stage."""
    model = torchvision.models.resnet18().eval()
    for parameter in model.parameters():  # else the residual branches of the ReLUs give zeros
        nn.init.normal_(parameter, std=0.05 if parameter.ndim > 1 else 0.3)
    insert_attention(model, Scale, ["layer1.0.bn2", "layer1", "layer4"])
    return model


def _by_hand(model: torchvision.models.ResNet, x: Tensor) -> dict[str, Tensor]:
    """Feature maps and logits composed from torchvision's own layers and the blocks."""
    blocks, plain = inserted(model), copy.deepcopy(model)
    remove_attention(plain)
    x = plain.maxpool(plain.relu(plain.bn1(plain.conv1(x))))
    first, second = plain.layer1
    x = torch.relu(x + blocks["layer1.0.bn2"](first.bn2(first.conv2(torch.relu(first.bn1(first.conv1(x)))))))
    layer1 = blocks["layer1"](second(x))
    layer4 = blocks["layer4"](plain.layer4(plain.layer3(plain.layer2(layer1))))
    return {"layer1": layer1, "layer4": layer4, "logits": plain.fc(layer4.mean((2, 3)))}


def _file_copy(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model,
        copy.deepcopy,
        _file_copy,
        torch.fx.symbolic_trace,
        lambda model: torch.jit.trace(model, torch.randn(2, 3, 64, 64)),  # type: ignore[no-untyped-call]
        lambda model: nn.Sequential(*list(model.children())[:-1], nn.Flatten(), list(model.children())[-1]),
        nn.SyncBatchNorm.convert_sync_batchnorm,
        lambda model: torch.fx.symbolic_trace(copy.deepcopy(model)),
    ],
    ids=["itself", "copied", "saved", "traced", "jit", "rebuilt", "synced", "copied and traced"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated", "ignore:.*torch.jit.*is not supported")
def test_blocks_act_in_what_other_tools_make_of_a_network(
    attended: torchvision.models.ResNet, change: Callable[[nn.Module], nn.Module]
) -> None:
    x = torch.randn(2, 3, 64, 64)
    wanted = _by_hand(attended, x)["logits"]
    torch.testing.assert_close(change(attended)(x), wanted)


def test_layer_getters_return_feature_maps_with_attention(attended: torchvision.models.ResNet) -> None:
    x = torch.randn(2, 3, 64, 64)
    wanted = _by_hand(attended, x)
    names = {name: name for name in ("layer1", "layer4")}
    for getter in (IntermediateLayerGetter(attended, names), create_feature_extractor(attended, names)):
        torch.testing.assert_close(getter(x), {name: wanted[name] for name in names})


def test_freezing_a_stage_freezes_its_attention(attended: torchvision.models.ResNet) -> None:
    attended.layer1.requires_grad_(False)
    trained = {name.partition(".")[0] for name, parameter in attended.named_parameters() if parameter.requires_grad}
    assert trained == {"conv1", "bn1", "layer2", "layer3", "layer4", "fc"}
    blocks = inserted(attended)
    assert not any(p.requires_grad for name in ("layer1", "layer1.0.bn2") for p in blocks[name].parameters())
    assert all(parameter.requires_grad for parameter in blocks["layer4"].parameters())


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo backend")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:.*NO_SHARD:UserWarning")
def test_blocks_act_in_a_sharded_network(attended: torchvision.models.ResNet) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    policy = ModuleWrapPolicy({WithAttention, Scale, torchvision.models.resnet.BasicBlock, nn.Linear})
    x = torch.randn(2, 3, 64, 64)
    wanted = _by_hand(attended, x)["logits"]
    try:
        sharded = FullyShardedDataParallel(
            attended, auto_wrap_policy=policy, device_id=torch.device("cpu"), use_orig_params=True
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        pytest.skip(f"this torch cannot shard on the CPU: {error}")
    got = sharded(x)
    torch.testing.assert_close(got, wanted)
    got.sum().backward()
    assert all(parameter.grad is not None for parameter in sharded.parameters())


@pytest.mark.usefixtures("one_process")
def test_blocks_act_in_a_fully_sharded_network(attended: torchvision.models.ResNet) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no public fully_shard")
    from torch.distributed.device_mesh import init_device_mesh

    mesh, x = init_device_mesh("cpu", (1,)), torch.randn(2, 3, 64, 64)
    wanted = _by_hand(attended, x)["logits"]
    for part in (attended.layer1[0].bn2, attended.layer1, *attended.layer2, attended.layer4, attended):
        fsdp.fully_shard(part, mesh=mesh)
    got = attended(x)
    torch.testing.assert_close(got, wanted)
    got.sum().backward()
    assert all(parameter.grad is not None for parameter in attended.parameters())
