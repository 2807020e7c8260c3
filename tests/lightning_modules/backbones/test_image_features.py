"""Backbones of captioners against the networks that they are built from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_modules import ResNetFeatures, SmallResNet, TimmFeatures, VisionTransformer, ViTFeatures
from lightning_modules.backbones.image_features import feature_map_size

TINY = partial(VisionTransformer, patches=8, dim=24, depth=2, num_registers=2)


def test_a_resnets_feature_map_is_what_its_classifier_pools() -> None:
    backbone, network = ResNetFeatures((16, 24), 1).eval(), SmallResNet(0, in_channels=1).eval()
    network.load_state_dict(backbone.network.state_dict())
    images = torch.randn(2, 1, 16, 24)
    torch.testing.assert_close(backbone(images).mean((2, 3)), network(images))


def test_a_vits_feature_map_has_each_patch_at_its_location() -> None:
    backbone = ViTFeatures((16, 24), 3, network=TINY).eval()
    images = torch.randn(2, 3, 16, 24)
    found, tokens = backbone(images), backbone.network.features(images)
    assert found.shape == (2, 24, 2, 3)
    for row in range(2):
        for column in range(3):
            # After the class token and two registers.
            torch.testing.assert_close(found[:, :, row, column], tokens[:, 3 + 3 * row + column])


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_a_cnn_of_timm_returns_the_feature_map_that_it_pools(name: str) -> None:
    backbone, theirs = TimmFeatures((64, 96), 3, name=name).eval(), timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(backbone.model.state_dict())
    images = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(backbone(images), theirs.forward_features(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_vit_of_timm_returns_its_patches_at_any_size(name: str) -> None:
    backbone = TimmFeatures((32, 48), 3, name=name).eval()
    images = torch.randn(2, 3, 32, 48)
    theirs = backbone.model.forward_features(images)
    found = backbone(images)
    assert found.shape == (2, 192, 2, 3)
    torch.testing.assert_close(found.flatten(2).mT, theirs[:, -6:])


def test_channels_last_features_of_timm_are_returned_channels_first() -> None:
    backbone = TimmFeatures((64, 64), 3, name="swin_tiny_patch4_window7_224").eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(backbone(images), backbone.model.forward_features(images).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("stage", "shape"), [(-1, (512, 2, 2)), (-2, (256, 4, 4)), (1, (64, 16, 16))])
def test_any_stage_of_a_cnn_can_be_taken(stage: int, shape: tuple[int, int, int]) -> None:
    assert feature_map_size(TimmFeatures((64, 64), 3, name="resnet18", stage=stage), (64, 64), 3) == shape


def test_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    theirs, file = timm.create_model("resnet18").eval(), tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), file)
    backbone = TimmFeatures((64, 64), 3, name="resnet18", pretrained=str(file)).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone(images), theirs.forward_features(images))


def test_an_unknown_stage_is_not_blamed_on_the_weights(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"stage: resnet18 .* 7"):
        TimmFeatures((64, 64), name="resnet18", pretrained=str(tmp_path / "w.safetensors"), stage=7)


def test_an_unknown_stage_or_name() -> None:
    with pytest.raises(ValueError, match=r"stage: resnet18 .* 7 .*-1"):
        TimmFeatures((64, 64), 3, name="resnet18", stage=7)
    with pytest.raises(ValueError, match=r"'resnet81'.*resnet18"):
        TimmFeatures((64, 64), 3, name="resnet81")


class Pooled(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_map_size_changes_nothing_and_refuses_other_outputs() -> None:
    backbone = ResNetFeatures((16, 16), 1)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert feature_map_size(backbone, (16, 24), 1) == (64, 4, 6)
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    with pytest.raises(ValueError, match=r"must map images to \(B, D, rows, columns\), but Pooled .*\(1, 3\)"):
        feature_map_size(Pooled(), (16, 16), 3)
