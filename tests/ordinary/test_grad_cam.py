"""Grad-CAM of pytorch_grad_cam: the same maps as by hand, from layers that are called one by one."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from attention_blocks import CBAM, EncoderLayer, FeedForward, insert_attention, inserted
from lightning_modules import SmallResNet, VisionTransformer

pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

CLASSES = [1, 0, 3]
BLOCK = partial(CBAM, reduction=4)


def maps_of(model: nn.Module, layer: nn.Module, images: Tensor, **arguments: Any) -> Tensor:  # noqa: ANN401
    """The maps of pytorch_grad_cam, (B, H, W), one for the class of each image."""
    with GradCAM(model, [layer], **arguments) as cam:
        return torch.from_numpy(cam(images, [ClassifierOutputTarget(index) for index in CLASSES]))


def by_hand(activations: Tensor, logits: Tensor, size: int, *, tokens: int = 0) -> Tensor:
    """The maps by the formula of Selvaraju et al. 2017, scaled to [0, 1] as pytorch_grad_cam does.

    Args:
        activations: (B, C, h, w); or (B, T, C), of which the last h · w tokens are a square map.
        logits: (B, num_classes), computed from them.
        size: of the images.
        tokens: number of tokens before the map.
    """
    score = logits[range(len(CLASSES)), CLASSES].sum()
    [gradient] = torch.autograd.grad(score, activations)
    if activations.ndim == 3:
        activations, gradient = (square_map(x, tokens) for x in (activations, gradient))
    cam = (gradient.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu()  # (B, 1, h, w)
    cam = F.interpolate(scaled(cam), size=(size, size), mode="bilinear")
    return scaled(cam).squeeze(1).detach()


def square_map(x: Tensor, tokens: int) -> Tensor:
    """(B, T, C) to (B, C, h, w), without the tokens before the map."""
    x = x[:, tokens:].transpose(1, 2)
    return x.reshape(x.size(0), x.size(1), int(x.size(2) ** 0.5), -1)


def scaled(cam: Tensor) -> Tensor:
    cam = cam - cam.amin((2, 3), keepdim=True)
    return cam / (cam.amax((2, 3), keepdim=True) + 1e-7)


def check(found: Tensor, wanted: Tensor) -> None:
    # With random weights, some maps are negative everywhere, and so all zeros.
    assert wanted.amax((1, 2)).count_nonzero() > 1, "a map of zeros shows nothing"
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def small_resnet(where: str | tuple[str, ...]) -> SmallResNet:
    torch.manual_seed(1)
    network = SmallResNet(4, (32, 32), 3, widths=(8, 16), depth=2)
    insert_attention(network, BLOCK, where)
    return network.eval()


def test_last_stage_with_inserted_blocks() -> None:
    network, images = small_resnet(SmallResNet.attention_locations), torch.randn(3, 3, 32, 32)
    features = network.features(images)
    wanted = by_hand(features, network.head(features.mean((2, 3))), 32)
    check(maps_of(network, network.stages[-1], images), wanted)


def test_a_stage_that_has_attention_itself() -> None:
    """With the attention, and of the stage alone."""
    network, images = small_resnet("stages.*"), torch.randn(3, 3, 32, 32)
    stage, block = network.stages[-1], inserted(network)["stages.1"]
    host = cast(nn.Module, stage.host)
    before = host(network.stages[0](network.stem(images)))
    after = block(before)
    logits = network.head(after.mean((2, 3)))
    check(maps_of(network, stage, images), by_hand(after, logits, 32))
    after = block(before)
    check(maps_of(network, host, images), by_hand(before, network.head(after.mean((2, 3))), 32))


def test_resnet18_with_inserted_blocks() -> None:
    torch.manual_seed(2)
    network, images = resnet18(num_classes=4), torch.randn(3, 3, 64, 64)
    insert_attention(network, CBAM, "layer*.*.bn2")
    network(images)  # for the running statistics
    network.eval()
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    features = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    wanted = by_hand(features, network.fc(features.mean((2, 3))), 64)
    check(maps_of(network, network.layer4[-1], images), wanted)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_last_attention_norm_of_a_vit(pool: str) -> None:
    torch.manual_seed(2)
    network = VisionTransformer(4, 16, patches=4, dim=16, depth=2, pool=pool, num_registers=1).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    images, last = torch.randn(3, 3, 16, 16), network.encoder.layers[-1]
    assert isinstance(last, EncoderLayer)
    x = network.encoder.layers[0](network.embed(images)).hidden
    normalised = last.attention_norm(x)
    x = x + last.attention(normalised, normalised).context
    x = x + last.feed_forward(last.feed_forward_norm(x))
    count = network.num_prefix_tokens
    pooled = x[:, 0] if pool == "token" else x[:, count:].mean(1)
    wanted = by_hand(normalised, network.head(network.norm(pooled)), 16, tokens=count)
    check(maps_of(network, last.attention_norm, images, reshape_transform=partial(square_map, tokens=count)), wanted)


def test_encoder_layer_as_a_classifier() -> None:
    """Of a sequence of 16 positions as a map of 4 x 4, with an encoder layer between linear layers."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 4, stride=4)
            self.layer = EncoderLayer(16)
            self.head = nn.Linear(16, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.layer(self.stem(images).flatten(2).transpose(1, 2)).hidden.mean(1))

    torch.manual_seed(3)
    model, images = Classifier().eval(), torch.randn(3, 3, 16, 16)
    layer, feed_forward = model.layer, model.layer.feed_forward
    assert isinstance(feed_forward, FeedForward)
    x = model.stem(images).flatten(2).transpose(1, 2)
    x = x + layer.attention(*[layer.attention_norm(x)] * 2).context
    hidden = feed_forward.up_proj(layer.feed_forward_norm(x))
    x = x + feed_forward.down_proj(F.gelu(hidden))
    wanted = by_hand(hidden, model.head(x.mean(1)), 16)
    check(maps_of(model, feed_forward.up_proj, images, reshape_transform=partial(square_map, tokens=0)), wanted)
