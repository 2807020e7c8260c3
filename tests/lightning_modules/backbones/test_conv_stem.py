"""Convolutional patch embeddings against the paper's stem, in a ViT."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention_blocks import SelfAttention
from datamodules import ImageTransform
from lightning_modules import ConvStem, DeepConvStem, VisionTransformer, ViTClassifier


def network(image_size: int | tuple[int, int] = 16, patch_size: int = 4) -> VisionTransformer:
    stem = partial(ConvStem, patch_size=patch_size)
    return VisionTransformer(
        3, image_size, 2, patches=stem, dim=16, depth=2, attention=partial(SelfAttention, num_heads=2)
    ).eval()


@pytest.mark.parametrize(
    ("make", "strides", "widths"),
    [(ConvStem, (2, 2), (8, 16)), (DeepConvStem, (1, 2, 1, 2, 1), (4, 8, 8, 16, 16))],
)
def test_the_stem_written_out(make: type[ConvStem], strides: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Xiao et al., section 3: convolutions with batch norm and ReLU, features doubling, then a 1 x 1 convolution."""
    stem = make(2, 16, (4, 4)).double()
    for _ in range(3):
        stem(torch.randn(8, 2, 8, 12, dtype=torch.float64))  # so that the running averages differ from their start
    stem.eval()
    state = stem.state_dict()
    images = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    x = images
    for index, (stride, width) in enumerate(zip(strides, widths, strict=True)):
        stage = f"stages.{index}"
        x = F.conv2d(x, state[f"{stage}.0.weight"], stride=stride, padding=1)
        assert x.size(1) == width
        mean, variance = (state[f"{stage}.1.running_{name}"].view(-1, 1, 1) for name in ("mean", "var"))
        scale, shift = (state[f"{stage}.1.{name}"].view(-1, 1, 1) for name in ("weight", "bias"))
        x = ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
    expected = F.conv2d(x, state["proj.weight"][..., None, None], state["proj.bias"])
    torch.testing.assert_close(stem(images), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_the_features_double_up_to_dim(patch_size: int) -> None:
    stem = ConvStem(3, 64, (patch_size, patch_size))
    widths = [module.out_channels for module in stem.modules() if isinstance(module, nn.Conv2d)]
    assert widths[-1] == 64
    assert all(wide == 2 * narrow for narrow, wide in pairwise(widths))
    assert stem(torch.randn(2, 3, 32, 16)).shape == (2, 32 // patch_size, 16 // patch_size, 64)


def test_a_pixel_reaches_the_neighbouring_patches() -> None:
    """Unlike with a stride as large as the kernel."""
    stem = ConvStem(1, 8, (4, 4)).eval()
    image = torch.zeros(1, 1, 12, 12)
    touched = image.clone()
    touched[..., 3, 3] = 1.0  # the last pixel of the first patch
    difference = (stem(touched) - stem(image)).abs().sum(-1)[0]
    assert difference[0, 0] > 0
    assert difference[1, 1] > 0
    assert difference[2].sum() == 0


@pytest.mark.parametrize(
    ("dim", "patch_size", "message"),
    [
        (16, (4, 2), r"patch_size .*got \(4, 2\)"),
        (16, (6, 6), r"got \(6, 6\)"),
        (16, (1, 1), r"got \(1, 1\)"),
        (12, (16, 16), r"dim .* 8 .*patch_size.* 16, got dim=12"),
    ],
)
def test_sizes_that_do_not_fit(dim: int, patch_size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvStem(3, dim, patch_size)


def test_a_deep_stem_halves_its_features_once_more() -> None:
    with pytest.raises(ValueError, match=r"dim .* 16 .* got dim=24"):
        DeepConvStem(3, 24, (16, 16))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 16, 16), r"images .*\(B, 2, H, W\), got \(2, 16, 16\)"),
        ((2, 3, 16, 16), r"got \(2, 3, 16, 16\)"),
        ((2, 2, 18, 16), r"height 4 .* height 18"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network()(torch.randn(shape))


def test_the_rest_is_a_vision_transformer() -> None:
    model = network((16, 24))
    assert isinstance(model.patches, ConvStem)
    assert model(torch.randn(2, 2, 16, 24)).shape == (2, 3)
    assert model(torch.randn(2, 2, 32, 8)).shape == (2, 3)
    others = {name for name, _ in network().named_parameters() if not name.startswith("patches.")}
    plain = VisionTransformer(3, 16, 2, patches=4, dim=16, depth=2)
    assert others == {name for name, _ in plain.named_parameters() if not name.startswith("patches.")}


def test_a_deep_stem_replaces_the_other() -> None:
    model = VisionTransformer(3, (16, 24), 2, patches=partial(DeepConvStem, patch_size=4), dim=16, depth=1)
    assert isinstance(model.patches, DeepConvStem)
    assert model(torch.randn(2, 2, 16, 24)).shape == (2, 3)


def test_a_classifier_with_it_has_attention_maps() -> None:
    stem = partial(ConvStem, patch_size=4)
    model = ViTClassifier(3, ImageTransform((8, 12), channels=1), partial(VisionTransformer, patches=stem, dim=16))
    assert model.attention_maps(torch.randn(2, 1, 8, 12)).rollout.shape == (2, 2, 3)
    assert model.layers()[0].get_parameter("0.proj.weight") is model.network.get_parameter("patches.proj.weight")


@pytest.mark.slow
def test_it_compiles_and_exports() -> None:
    model, images = network(), torch.randn(2, 2, 16, 16)
    torch._dynamo.reset()
    expected = model(images)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(images), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)
