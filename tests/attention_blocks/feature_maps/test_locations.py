from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from attention_blocks import BAM, SimAM, insert_attention
from attention_blocks.feature_maps.locations import find_feature_maps


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("resnet50", ["layer1", "layer2", "layer3", "layer4"]),
        ("mobilenetv3_small_050", ["blocks.0", "blocks.1", "blocks.3", "blocks"]),
        ("tf_efficientnet_lite0", ["blocks.1", "blocks.2", "blocks.4", "bn2"]),
        ("regnetx_002", ["s1", "s2", "s3", "final_conv"]),
        ("convnext_atto", ["stages.0", "stages.1", "stages.2", "norm_pre"]),
        ("densenet121", ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features"]),
    ],
)
def test_the_ends_of_timms_stages(name: str, ends: list[str]) -> None:
    model = timm.create_model(name)
    found = insert_attention(model, SimAM, [4, 8, 16, 32], example=torch.zeros(1, 3, 64, 64))
    assert [insertion.location for insertion in found] == ends


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("squeezenet1_1", ["features.4", "features.7", "features"]),  # which does not pad
        ("mobilenet_v2", ["features.3", "features.6", "features.13", "features"]),
        ("convnext_tiny", ["features.1", "features.3", "features.5", "features"]),
    ],
)
def test_the_ends_of_torchvisions_stages(name: str, ends: list[str]) -> None:
    model = getattr(torchvision.models, name)()
    found = insert_attention(model, SimAM, [4, 8, 16, 32][: len(ends)], example=torch.zeros(1, 3, 128, 128))
    assert [insertion.location for insertion in found] == ends


@pytest.mark.parametrize("side", [32, 64])
def test_global_pooling_is_not_a_stage(side: int) -> None:
    """On images of 32 pixels the last stage's feature map is 1 x 1, like the pooled one."""
    [found] = insert_attention(torchvision.models.resnet18(), SimAM, 32, example=torch.zeros(1, 3, side, side))
    assert found.location == "layer4"


@pytest.mark.parametrize("location", ["layers.0.blocks.0", nn.LayerNorm])
def test_refuses_maps_with_channels_last(location: str | type[nn.Module]) -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match=r"'layers.0.blocks.0.* has its channels last, \(B, H, W, C\)"):
        insert_attention(model, SimAM, location)


@pytest.mark.parametrize("training", [False, True])
def test_a_network_with_attention_has_the_feature_maps_of_the_plain_one(training: bool) -> None:
    model = torchvision.models.resnet18().train(training)
    plain = find_feature_maps(model, None)
    insert_attention(model, BAM, ["layer1", "layer1.*.bn2", "layer4.1"])
    found = find_feature_maps(model, None)
    assert found._replace(attended=set(), like={}) == plain._replace(like={})
    assert list(found.outputs) == list(plain.outputs)
    assert found.attended == {"layer1", "layer1.0.bn2", "layer1.1.bn2", "layer4.1"}
    ends = insert_attention(model, SimAM, [8, 16, 32])
    assert [insertion.location for insertion in ends] == ["layer2", "layer3", "layer4"]


def test_dtypes_and_devices_of_feature_maps_are_recorded() -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16()

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Half(), nn.ReLU()).to("meta")
    like = find_feature_maps(model, None).like
    assert {name: empty.dtype for name, empty in like.items()} == {
        "0": torch.float32,
        "1": torch.bfloat16,
        "2": torch.bfloat16,
    }
    assert {empty.device.type for empty in like.values()} == {"meta"}


def test_recording_leaves_hooks_and_modes_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model[1].eval()
    seen: list[bool] = []

    class Watched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(model.training)
            return x

    model.append(Watched())
    find_feature_maps(model, None)
    assert seen == [False]
    assert not any(part._forward_hooks for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, False, True, True]
