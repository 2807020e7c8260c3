"""CNNs of timm as networks with a head and locations for attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from attention_blocks import SqueezeExcite, insert_attention
from lightning_modules import TimmNetwork


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "mobilenetv3_small_050"])
def test_equals_timms_model_with_its_head(name: str) -> None:
    ours = TimmNetwork(7, (64, 64), 1, name=name).eval()
    theirs = timm.create_model(name, num_classes=0, in_chans=1).eval()
    theirs.load_state_dict(ours.model.state_dict())
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(ours(x), ours.head(theirs(x)))
    assert ours(x).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "convnext_atto", "regnetx_002", "densenet121"])
def test_networks_name_the_locations_of_attention(name: str) -> None:
    network = TimmNetwork(3, (64, 64), name=name)
    found = insert_attention(network, lambda c: SqueezeExcite(c, hidden_channels=4), network.attention_locations)
    assert len(found) == len(network.attention_locations) >= 4
    heights = [insertion.height for insertion in found]
    assert heights == sorted(heights, reverse=True)


def test_starts_from_a_file_of_weights(tmp_path: Path) -> None:
    theirs, file = timm.create_model("resnet18").eval(), tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), file)
    ours = TimmNetwork(3, (64, 64), name="resnet18", pretrained=str(file)).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.model(x), theirs.forward_head(theirs.forward_features(x), pre_logits=True))


def test_refuses_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"name: .*'resnt18'.* resnet18"):
        TimmNetwork(3, name="resnt18")


def test_refuses_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"pretrained: .*'nowhere\.safetensors'"):
        TimmNetwork(3, name="resnet18", pretrained="nowhere.safetensors")


def test_weights_that_timm_does_not_have_are_named() -> None:
    with pytest.raises(ValueError, match=r"pretrained: .* cspresnet50d; give the path"):
        TimmNetwork(3, (64, 64), name="cspresnet50d", pretrained=True)


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.pth", "empty.pth", "other.safetensors"])
def test_refuses_a_file_of_anything_else(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name.startswith("other"):
        save_file(timm.create_model("resnet10t").state_dict(), file)
    else:
        file.write_bytes(b"junk" * 99 if name.startswith("junk") else b"")
    with pytest.raises(ValueError, match=rf"pretrained='.*{name}' .* resnet18"):
        TimmNetwork(3, (64, 64), name="resnet18", pretrained=str(file))
