from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.export import export

from attention_blocks import (
    BAM,
    CBAM,
    CoordinateAttention,
    EaseIn,
    EfficientChannelAttention,
    GlobalContext,
    SelectiveKernel,
    SelfAttention2d,
    SimAM,
    SqueezeExcite,
    insert_attention,
    inserted,
    load_weights,
    remove_attention,
)
from attention_blocks.feature_maps.with_attention import WithAttention


class OwnNetwork(nn.Module):
    """A CNN with one ReLU for all layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for convolution in self.body:
            x = x + self.relu(convolution(x))
        return self.head(self.norm(x).mean((2, 3)))


@pytest.fixture
def network() -> nn.Module:
    return OwnNetwork().eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision.models.resnet18().eval()


def _images(channels: int = 3, side: int = 64) -> Tensor:
    return torch.randn(2, channels, side, side)


def test_equals_timms_network_with_attention_built_in() -> None:
    """SE-ResNet-18 of timm, and its ResNet-18 with the block inserted after the last norm of each residual branch."""
    torch.manual_seed(0)
    theirs, ours = timm.create_model("seresnet18").eval(), timm.create_model("resnet18").eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if ".se." not in k})
    insertions = insert_attention(ours, partial(SqueezeExcite, divisor=8), "layer*.*.bn2")
    assert len(insertions) == 8
    for insertion in insertions:
        se = theirs.get_submodule(insertion.location.replace("bn2", "se"))
        assert isinstance(insertion.block, SqueezeExcite)
        load_weights(insertion.block, se.state_dict(), "timm")
    x = _images()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    "block",
    [
        SqueezeExcite,
        CBAM,
        partial(SelectiveKernel, groups=1),
        EfficientChannelAttention,
        GlobalContext,
        CoordinateAttention,
        BAM,
        SimAM,
        SelfAttention2d,
    ],
)
def test_a_trained_network_is_unchanged_at_first_and_learns(
    resnet: nn.Module, block: Callable[[int], nn.Module]
) -> None:
    model, x = copy.deepcopy(resnet), _images()
    wanted = model(x)
    insertions = insert_attention(model, block, [4, 8, 16, 32], ease_in=True)
    assert [insertion.location for insertion in insertions] == ["layer1", "layer2", "layer3", "layer4"]
    assert torch.equal(model(x), wanted)
    scales = [i.block.scale for i in insertions if isinstance(i.block, EaseIn)]
    gradients = torch.autograd.grad(model(x).square().sum(), scales)
    assert all(gradient.abs() > 0 for gradient in gradients) or block is GlobalContext or block is SelfAttention2d


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "efficientnet_lite0", "convnext_atto", "mobilenetv3_small_050"),
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
    ],
)
def test_removing_attention_restores_any_network_of_timm(name: str) -> None:
    model = timm.create_model(name).eval()
    x, before, parts, shown = (
        _images(),
        {k: v.clone() for k, v in model.state_dict().items()},
        list(model.named_modules()),
        repr(model),
    )
    wanted = model(x)
    assert insert_attention(model, EfficientChannelAttention, nn.Conv2d)
    assert not torch.allclose(model(x), wanted)
    remove_attention(model)
    assert torch.equal(model(x), wanted)
    assert list(model.named_modules()) == parts  # the same objects in the same order
    assert repr(model) == shown
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("training", [False, True])
def test_recording_feature_maps_has_no_side_effects(network: nn.Module, training: bool) -> None:
    network.train(training)
    network.get_submodule("norm").eval()  # frozen, as fine-tuning does
    before = copy.deepcopy(network.state_dict())
    insert_attention(network, SqueezeExcite, "norm")
    block = inserted(network)["norm"]
    remove_attention(network)
    modes = {name: module.training for name, module in network.named_modules()}
    assert modes == {name: training and name != "norm" for name in modes}
    assert all(part.training is training for part in block.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_recording_feature_maps_switches_no_module(network: nn.Module) -> None:
    """Some layers, such as LoRA's, merge weights when their mode is switched."""
    switched: list[nn.Module] = []

    class Watched(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Watched:
            switched.append(self)
            return super().train(mode)

    network.norm = Watched(16)
    insert_attention(network, SqueezeExcite, "norm")
    assert not switched


@pytest.mark.parametrize(
    ("where", "locations"),
    [
        ("layer2.0.bn1", ["layer2.0.bn1"]),
        ("layer[12].*.bn2", ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2", "layer2.1.bn2"]),
        ("layer*", ["layer1", "layer2", "layer3", "layer4"]),
        (nn.MaxPool2d, ["maxpool"]),
        (2, ["relu"]),
        (16, ["layer3"]),
        (["layer4", 8, "layer4"], ["layer2", "layer4"]),
    ],
    ids=str,
)
def test_locations(resnet: nn.Module, where: object, locations: list[str]) -> None:
    model = copy.deepcopy(resnet)
    found = insert_attention(model, EfficientChannelAttention, where)  # type: ignore[arg-type]
    assert [insertion.location for insertion in found] == locations
    assert sorted(inserted(model)) == sorted(locations)


def test_blocks_act_after_conversion_to_sync_batch_norm(network: nn.Module) -> None:
    """As training on several devices does, which replaces batch norms by synchronised ones."""
    x = _images(1)
    plain = network(x)
    insert_attention(network, SimAM, "norm")
    wanted = network(x)
    assert not torch.allclose(wanted, plain)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    assert torch.equal(synced(x), wanted)
    remove_attention(synced)
    assert isinstance(synced.norm, nn.SyncBatchNorm)
    assert torch.equal(synced(x), plain)


def test_finds_attention_inserted_into_parts_of_a_network() -> None:
    model = nn.Sequential(OwnNetwork().eval(), nn.Identity())
    insert_attention(model[0], SqueezeExcite, "norm", example=torch.zeros(1, 1, 32, 32))
    assert list(inserted(model)) == ["0.norm"]
    with pytest.raises(ValueError, match=r"there is a block after '0\.norm' already"):
        insert_attention(model, SimAM, "0.norm")
    insert_attention(model, SimAM, "0.stem")
    remove_attention(model)
    assert not inserted(model)
    assert not any(isinstance(module, WithAttention) for module in model.modules())


def test_a_network_of_several_inputs(network: nn.Module) -> None:
    class Warmed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, warmth: Tensor, images: Tensor) -> Tensor:
            return self.network(images) * warmth

    insert_attention(Warmed(), SqueezeExcite, "network.norm", example=(torch.ones(2, 1), torch.zeros(2, 1, 32, 32)))
    with pytest.raises(ValueError, match=r"no images, \(B, C, H, W\), among inputs of \[\(2, 1\)\]"):
        insert_attention(Warmed(), SqueezeExcite, "network.norm", example=(torch.ones(2, 1),))


def test_reports_what_it_changed(resnet: nn.Module) -> None:
    model = copy.deepcopy(resnet)
    (insertion,) = insert_attention(model, SqueezeExcite, "layer2", example=torch.zeros(1, 3, 96, 64))
    assert insertion[2:] == (128, 12, 8)
    assert str(insertion) == "layer2: SqueezeExcite, 128 channels, 12 x 8, 2,184 parameters"


def test_a_sequence_as_the_whole_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = _images()
    inner = model[1](model[0](x))
    insert_attention(model, SqueezeExcite, "1")
    wanted = model[4](model[3](model[2](inserted(model)["1"](inner))))
    torch.testing.assert_close(model(x), wanted)
    remove_attention(model)
    assert len(model) == 5


def test_two_insertions_in_one_network(network: nn.Module) -> None:
    insert_attention(network, SqueezeExcite, "stem")
    insert_attention(network, SimAM, "norm")
    assert [type(block) for block in inserted(network).values()] == [SqueezeExcite, SimAM]


def test_a_copy_has_its_own_blocks(network: nn.Module) -> None:
    insert_attention(network, SqueezeExcite, "norm")
    other, x = copy.deepcopy(network), _images(1)
    wanted = network(x)
    nn.init.constant_(inserted(other)["norm"].up_proj.bias, -50.0)  # type: ignore[arg-type, union-attr]
    assert not torch.allclose(other(x), wanted)
    assert torch.equal(network(x), wanted)
    remove_attention(other)
    assert torch.equal(network(x), wanted)
    assert list(inserted(network)) == ["norm"]
    assert not inserted(other)


def test_state_survives_a_file_and_plain_weights_still_fit(network: nn.Module) -> None:
    plain, x, file = copy.deepcopy(network), _images(1), io.BytesIO()
    insert_attention(network, SqueezeExcite, "body.*")
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(plain)
    insert_attention(other, SqueezeExcite, "body.*")
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), network(x))
    missing = other.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) == {
        f"body.{number}.attention.{key}" for number in range(2) for key in SqueezeExcite(16).state_dict()
    }
    assert torch.equal(other(x), network(x))


@pytest.mark.slow
def test_compiles_and_exports(network: nn.Module) -> None:
    insert_attention(network, CBAM, "norm")
    torch._dynamo.reset()
    x = _images(1)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="aot_eager")(x), network(x))
    torch.testing.assert_close(export(network, (x,)).module()(x), network(x))


def test_blocks_get_the_networks_dtype_and_layout(network: nn.Module) -> None:
    network.bfloat16()
    (insertion,) = insert_attention(network, SqueezeExcite, "stem")
    assert next(insertion.block.parameters()).dtype == torch.bfloat16
    assert network(_images(1).bfloat16()).dtype == torch.bfloat16


class OwnBlock(nn.Module):
    """A user's block, which any tool can trace."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize("features_only", [False, True])
def test_timms_features_are_those_with_attention(features_only: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", features_only=features_only).eval()
    plain, x = copy.deepcopy(model), _images()
    [insertion] = insert_attention(model, OwnBlock, "blocks.5" if features_only else "blocks")
    if features_only:
        *before, last = model(x)
        torch.testing.assert_close(before, plain(x)[:-1])
        torch.testing.assert_close(last, insertion.block(plain(x)[-1]))
        return
    wanted = insertion.block(plain.blocks(plain.bn1(plain.conv_stem(x))))
    torch.testing.assert_close(model.forward_features(x), wanted)
    # Which iterates over the stages.
    torch.testing.assert_close(model.forward_intermediates(x)[0], wanted)
    pooled = plain.forward_head(wanted)
    torch.testing.assert_close(model(x), pooled)


def test_children_are_replaced_as_in_the_plain_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1)), nn.Flatten())
    insert_attention(model, OwnBlock, "1", example=torch.zeros(1, 3, 8, 8))
    block, x = inserted(model)["1"], _images(side=8)
    model[1][-1] = nn.Identity()  # type: ignore[operator]
    torch.testing.assert_close(model(x), block(model[0](x).relu()).flatten(1))
    model[-1] = nn.Identity()
    torch.testing.assert_close(model(x), block(model[0](x).relu()))


def test_a_module_with_several_names_gets_one_block(network: nn.Module) -> None:
    norm = network.norm
    network.alias = norm
    network.part = nn.ModuleList([norm])  # type: ignore[list-item]
    network.listed = [network.stem, norm]  # type: ignore[assignment]
    network.by_name = {"norm": norm}  # type: ignore[assignment]

    def references() -> list[object]:
        return [network.norm, network.alias, network.part[0], network.listed[1], network.by_name["norm"]]  # type: ignore[index]

    insert_attention(network, OwnBlock, "norm")
    assert list(inserted(network)) == ["norm"]
    assert all(reference is network.norm is not norm for reference in references())
    remove_attention(network)
    assert all(reference is norm for reference in references())


class Listed(nn.Module):
    """A CNN that calls its stages through a list, as those of Detectron2 do, or through a list of lists."""

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.stages = [[self.first, self.second]] if nested else [self.first, self.second]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages[0] if isinstance(self.stages[0], list) else self.stages:
            x = stage(x)
        return x


def test_stages_in_a_list_are_called_with_attention() -> None:
    model, x = Listed(nested=False), _images()
    stages = list(model.stages)
    [insertion] = insert_attention(model, OwnBlock, "first")
    torch.testing.assert_close(model(x), model.second(insertion.block(stages[0](x))))  # type: ignore[operator]
    remove_attention(model)
    assert model.stages == stages


def test_refuses_a_module_at_which_attention_would_not_be_called() -> None:
    model = nn.Sequential(Listed(nested=True), nn.Identity())
    parts = list(model.named_modules())
    with pytest.raises(ValueError, match=r"where: .*'0\.first'"):
        insert_attention(model, OwnBlock, ["0.first", "1"])
    assert list(model.named_modules()) == parts


def test_refuses_a_network_that_does_not_run_with_attention() -> None:
    class Strict(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(self[0], nn.Conv2d):
                raise TypeError("the first layer must be a convolution")
            return super().forward(x)  # type: ignore[no-untyped-call]

    model = Strict(nn.Conv2d(3, 8, 3))
    parts = list(model.named_modules())
    with pytest.raises(ValueError, match=r"where: attention cannot be inserted there; .* must be a convolution"):
        insert_attention(model, OwnBlock, "0")
    assert list(model.named_modules()) == parts


def test_blocks_get_the_dtype_at_their_location() -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.float64)

    model = nn.Sequential(nn.Conv2d(3, 16, 3), Cast(), nn.Conv2d(16, 16, 3).double())
    insert_attention(model, SqueezeExcite, ["0", "2"])
    dtypes = {name: next(block.parameters()).dtype for name, block in inserted(model).items()}
    assert dtypes == {"0": torch.float32, "2": torch.float64}
    assert model(_images()).dtype == torch.float64


def test_blocks_are_created_on_the_device_at_their_location() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)).to("meta")
    [insertion] = insert_attention(model, SqueezeExcite, "1")
    assert {parameter.device.type for parameter in insertion.block.parameters()} == {"meta"}
    torch.manual_seed(0)
    source = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)).eval()
    insert_attention(source, SqueezeExcite, "1")
    model.load_state_dict(source.state_dict(), assign=True)
    x = _images()
    assert torch.equal(model.eval()(x), source(x))


def _with_block(model: nn.Module) -> None:
    insert_attention(model, SqueezeExcite, "norm")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("body.*.bn", r"where: .* matches 'body.\*.bn'; near matches: body.1, body.0"),
        ("nrom", "matches 'nrom'; near matches: norm"),
        ("head", "no module that returns a feature map matches 'head'"),
        (nn.GroupNorm, "matches GroupNorm; near matches: BatchNorm2d, Conv2d, ReLU"),
        (8, "matches 8; near matches: 2"),
        (0, "matches 0; near matches: 2"),
        ("relu", r"'relu' is called 3 times .* called once, such as 'stem'"),
        ("norm", r"a block after 'norm' already; remove_attention\(model\)"),
        (["stem", "norm"], "a block after 'norm' already"),
        ([], "where is empty"),
    ],
    ids=str,
)
def test_refuses_locations_and_leaves_the_network_unchanged(network: nn.Module, where: object, message: str) -> None:
    _with_block(network)
    before, shown = network(ones := torch.ones(1, 1, 64, 64)), repr(network)
    with pytest.raises(ValueError, match=message):
        insert_attention(network, SimAM, where)  # type: ignore[arg-type]
    assert repr(network) == shown
    assert torch.equal(network(ones), before)


def test_refuses_blocks_that_change_the_shape(network: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"SelectiveKernel turns \(1, 16, 32, 32\) into \(1, 16, 16, 16\) after 'stem'"
    ):
        insert_attention(network, partial(SelectiveKernel, groups=1, stride=2), ["stem", "norm"])
    with pytest.raises(
        ValueError, match="cannot be created for the 16 channels of 'norm': reduction must divide channels, got "
    ):
        insert_attention(network, partial(SqueezeExcite, reduction=5), "norm")
    assert not inserted(network)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 4), "model has no convolution"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(7, 2)),
            r"model \(tried images of .*pass an example",
        ),
    ],
    ids=["no maps", "another size"],
)
def test_refuses_models_whose_sizes_cannot_be_found(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        insert_attention(model, SqueezeExcite, nn.Conv2d)
    assert not any(module._forward_hooks for module in model.modules())


def test_refuses_to_remove_attention_that_was_not_inserted(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="model holds no inserted attention"):
        remove_attention(network)
    insert_attention(network, SimAM, "norm")
    with pytest.raises(ValueError, match="pass the network that it is a part of"):
        remove_attention(network.get_submodule("norm"))
    assert list(inserted(network)) == ["norm"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet18"}, "model must be a network, an nn.Module, got 'resnet18'"),
        ({"block": SqueezeExcite(16)}, "block must create a block .* got a module, SqueezeExcite"),
        ({"block": "SqueezeExcite"}, "block must create a block .* got 'SqueezeExcite'"),
        ({"block": lambda channels: channels}, "block must create an nn.Module .* got 16"),
        ({"where": None}, "where must be a name, a type of module or a number, or several of these, got None"),
        ({"where": [2.0]}, "where must be .* got 2.0"),
    ],
)
def test_refuses_arguments_of_another_type(network: nn.Module, change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"model": network, "block": SqueezeExcite, "where": "norm"} | change
    with pytest.raises(TypeError, match=message):
        insert_attention(**arguments)  # type: ignore[arg-type]
    assert not inserted(network)
    assert not any(module._forward_hooks for module in network.modules())
