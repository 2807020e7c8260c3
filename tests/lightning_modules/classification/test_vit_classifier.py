"""The ViT classifier: attention maps, rollout, plots, and that it learns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks import SelfAttention
from datamodules import ImageTransform
from lightning_modules import VisionTransformer, ViTClassifier
from lightning_modules.backbones.vit import Pool
from tests.user_blocks import DistanceAttention

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier


HEADS = partial(SelfAttention, num_heads=2)


def randomised(module: VisionTransformer) -> VisionTransformer:
    """Weights large enough that every part matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def rollout_by_loops(maps: tuple[Tensor, ...]) -> Tensor:
    """Abnar and Zuidema's, in float64."""
    batch, length = maps[0].size(0), maps[0].size(-1)
    result = torch.eye(length, dtype=torch.float64).repeat(batch, 1, 1)
    for layer in maps:
        heads = layer.double().mean(dim=1) if layer.ndim == 4 else layer.double()
        result = (0.5 * torch.eye(length, dtype=torch.float64) + 0.5 * heads) @ result
    return result


@pytest.mark.parametrize(("pool", "prefix"), [("token", 3), ("mean", 2)])
def test_attention_maps_of_a_classifier(make_classifier: MakeClassifier, pool: Pool, prefix: int) -> None:
    made = partial(VisionTransformer, patches=4, dim=16, depth=3, attention=HEADS, pool=pool, num_registers=2)
    model = make_classifier(made, transform=ImageTransform((8, 12), channels=1))
    randomised(model.network)
    images = [torch.rand(1, 20, 30), torch.rand(3, 9, 9)]
    maps = model.attention_maps(images)
    assert [layer.shape for layer in maps.layers] == [(2, 2, prefix + 6, prefix + 6)] * 3
    for layer in maps.layers:
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones(layer.shape[:-1]))
    rollout = rollout_by_loops(maps.layers)
    seen = rollout[:, 0, prefix:] if pool == "token" else rollout[:, prefix:, prefix:].mean(dim=1)
    seen = (seen / seen.sum(dim=1, keepdim=True)).view(2, 2, 3)
    torch.testing.assert_close(maps.rollout.double(), seen, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(maps.rollout.sum(dim=(1, 2)), torch.ones(2))
    # A batch that is transformed already is the same images.
    again = model.attention_maps(model.prepare(images))
    assert torch.equal(again.rollout, maps.rollout)


def test_the_rollout_finds_the_only_patch_that_is_attended_to(make_classifier: MakeClassifier) -> None:
    """A key lies at the query of the class token where its patch is bright, and far away from it elsewhere."""
    model = make_classifier(partial(VisionTransformer, patches=4, dim=4, depth=1, attention=DistanceAttention))
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    layer = "network.encoder.layers.0"
    state["network.patches.proj.weight"] += torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    state[f"{layer}.attention_norm.weight"] += 1.0
    state[f"{layer}.attention.key_proj.weight"][:, 0] = -10.0
    state[f"{layer}.attention.key_proj.bias"] += 14.0
    model.load_state_dict(state)
    image = -torch.ones(1, 1, 16, 24)
    image[0, 0, 8:12, 16:20] = 1.0
    rollout = model.attention_maps(image).rollout[0]
    assert rollout.shape == (4, 6)
    assert rollout.argmax().item() == 2 * 6 + 4


def test_a_plot_has_each_image_and_its_overlay_under_the_likeliest_class(make_classifier: MakeClassifier) -> None:
    model = make_classifier(class_names=["ant", "bee", "cow"])
    randomised(model.network)
    images = [torch.rand(1, 8, 8), torch.rand(1, 8, 8)]
    figure = model.plot(images)
    assert len(figure.axes) == 4
    for row, [best] in enumerate(model.classify(images, top=1)):
        assert figure.axes[2 * row].get_title() == f"{best.label} {best.probability:.0%}"
        assert [len(axis.images) for axis in figure.axes[2 * row : 2 * row + 2]] == [1, 2]


def test_a_plot_shows_images_with_their_original_values(make_classifier: MakeClassifier) -> None:
    model = make_classifier(transform=ImageTransform(8, channels=3, mean=(0.1, 0.2, 0.3), std=0.7))
    image = torch.rand(3, 8, 8)
    shown = model.plot([image]).axes[0].images[0].get_array()
    assert shown is not None
    torch.testing.assert_close(torch.tensor(shown), image.permute(1, 2, 0), atol=1e-5, rtol=0)


def test_a_vit_learns(make_classifier: MakeClassifier) -> None:
    """Which half of the image is bright."""
    made = partial(VisionTransformer, patches=4, dim=16, depth=1, attention=HEADS)
    model: ViTClassifier = make_classifier(made, num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    labels = torch.arange(32) % 2
    images = torch.zeros(32, 1, 8, 8)
    images[labels == 0, :, :, :4] = 1.0
    images[labels == 1, :, :, 4:] = 1.0
    images += 0.1 * torch.randn_like(images)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (model.predict(images).argmax(dim=1) == labels).all()
