from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from attention_blocks import SimAM, insert_attention


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
