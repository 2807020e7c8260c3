from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attention_blocks import (
    EncoderLayer,
    LearnedPosition2d,
    LuongAttention,
    MultiHeadAttention,
    RelativePositionBias,
    SelfAttention,
)
from lightning_modules import TimmNetwork, VisionTransformer
from lightning_modules.system.parameter_groups import parameter_groups

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier


def parameters_of(group: dict[str, object]) -> list[nn.Parameter]:
    return cast(list[nn.Parameter], group["params"])


NETWORKS = st.builds(
    partial(VisionTransformer, 3, 8, 1, patches=4, dim=8),
    depth=st.integers(1, 3),
    attention=st.builds(
        partial,
        st.just(MultiHeadAttention),
        num_heads=st.just(2),
        bias=st.booleans(),
        norm=st.sampled_from([None, nn.LayerNorm]),
        score_bias=st.sampled_from([None, RelativePositionBias]),
    ),
    layer=st.builds(partial, st.just(EncoderLayer), layer_scale=st.sampled_from([None, 0.1])),
    position=st.sampled_from([LearnedPosition2d, nn.Identity]),
    pool=st.sampled_from(["token", "mean"]),
    num_registers=st.integers(0, 2),
)


@given(network=NETWORKS, layer_decay=st.floats(0.1, 1.0), frozen=st.integers(0, 3), data=st.data())
def test_every_trainable_parameter_is_in_one_group(
    network: VisionTransformer, layer_decay: float, frozen: int, data: st.DataObject
) -> None:
    names = [name for name, _ in network.named_parameters()]
    for name in data.draw(st.sets(st.sampled_from(names), max_size=frozen)):
        network.get_parameter(name).requires_grad_(False)
    layers = [network.patches, *network.encoder.layers]
    groups = parameter_groups(network, layers, layer_decay)
    grouped = [id(parameter) for group in groups for parameter in parameters_of(group)]
    trainable = [id(parameter) for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    torch.optim.AdamW(groups, lr=1.0)  # which refuses a parameter that is in two groups
    depth = {id(parameter): index for index, layer in enumerate(layers) for parameter in layer.parameters()}
    for group in groups:
        for parameter in parameters_of(group):
            expected = layer_decay ** (len(layers) - depth.get(id(parameter), len(layers)))
            assert group["lr_scale"] == pytest.approx(expected)


def test_only_matrices_of_weights_decay() -> None:
    network = VisionTransformer(
        3,
        8,
        patches=4,
        dim=8,
        depth=1,
        num_registers=1,
        attention=partial(SelfAttention, num_heads=2, norm=nn.LayerNorm, score_bias=RelativePositionBias),
        layer=partial(EncoderLayer, layer_scale=0.1),
    )
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decaying = {
        names[id(parameter)]
        for group in parameter_groups(network, [], 1.0)
        if "weight_decay" not in group
        for parameter in parameters_of(group)
    }
    layer = "encoder.layers.0"
    assert decaying == {
        "patches.proj.weight",
        *(f"{layer}.attention.{kind}_proj.weight" for kind in ("query", "key", "value", "out")),
        f"{layer}.feed_forward.up_proj.weight",
        f"{layer}.feed_forward.down_proj.weight",
        "head.weight",
    }


def test_parameters_that_do_not_decay_stay_unchanged_without_gradient() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(parameter_groups(network, [], 1.0), lr=0.1, weight_decay=0.5)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(network.named_parameters())
    torch.testing.assert_close(after["0.weight"].detach(), before["0.weight"] * (1 - 0.1 * 0.5))
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[name], before[name])


def test_shared_parameters_are_counted_once() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    cast(nn.Linear, network[1]).weight = cast(nn.Linear, network[0]).weight
    groups = parameter_groups(network, list(network), 0.5)
    assert len([parameter for group in groups for parameter in parameters_of(group)]) == 3


def test_the_layers_of_a_vit_learn_more_slowly_towards_the_image(make_classifier: MakeClassifier) -> None:
    model = make_classifier(
        optimizer=partial(torch.optim.SGD, lr=1.0, weight_decay=0.3), layer_decay=0.5, lr_scheduler=None
    )
    optimizer = cast(torch.optim.Optimizer, model.configure_optimizers())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == dict(model.named_parameters()).keys()
    # Clark et al. and Bao et al.: the head at the full rate, the embedding below all layers, here two.
    start = {"network.patches": 0.125, "network.position": 0.125, "network.prefix_tokens": 0.125}
    start |= {"network.encoder.layers.0": 0.25, "network.encoder.layers.1": 0.5}
    start |= {"network.norm": 1.0, "network.head": 1.0}
    for name, rate in rates.items():
        assert [rate] == [expected for prefix, expected in start.items() if name.startswith(prefix)], name
    decays = {names[id(parameter)]: g["weight_decay"] for g in optimizer.param_groups for parameter in g["params"]}
    assert decays["network.head.weight"] == 0.3
    assert decays["network.head.bias"] == decays["network.prefix_tokens"] == decays["network.position.table"] == 0.0


def test_without_layer_decay_there_is_one_rate(make_classifier: MakeClassifier) -> None:
    optimizer = cast(torch.optim.Optimizer, make_classifier().configure_optimizers())
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert len(optimizer.param_groups) == 2


def names_without_decay(network: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, [], 1.0)
    return {names[id(p)] for group in groups if "weight_decay" in group for p in parameters_of(group)}


def test_linear_layers_decay_whatever_their_names() -> None:
    attention = LuongAttention(8, 8, window="local-p", radius=2)
    assert {name for name in names_without_decay(attention) if name.endswith("weight")} == set()
    assert "position_hidden.weight" in dict(attention.named_parameters())


@pytest.mark.parametrize("name", ["caformer_s18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_of_timm_declare_what_does_not_decay(name: str) -> None:
    network = TimmNetwork(3, (224, 224), name=name)
    wide = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    declared = {f"model.{name}" for name in network.model.no_weight_decay()} if name != "caformer_s18" else set()
    assert names_without_decay(network) & wide == declared & wide
