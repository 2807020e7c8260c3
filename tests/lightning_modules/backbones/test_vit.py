"""The ViT against equations written out, with any attention, layer, position and patch embedding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks import (
    ALiBi,
    Attention,
    DotProductAttention,
    DropPath,
    EncoderLayer,
    MultiHeadAttention,
    RMSNorm,
    RotaryPosition,
    SelfAttention,
    SinCosPosition2d,
    SwiGLU,
)
from lightning_modules import VisionTransformer
from lightning_modules.backbones.vit import LinearPatchEmbedding, check_patches
from tests.user_blocks import DistanceAttention

HEADS = partial(SelfAttention, num_heads=2)


def network(
    image_size: int | tuple[int, int] = 8, patch_size: int | tuple[int, int] = 4, **arguments: object
) -> VisionTransformer:
    settings: dict[str, object] = {"in_channels": 1, "dim": 16, "depth": 2, "attention": HEADS, **arguments}
    return randomised(
        VisionTransformer(3, image_size, patches=patch_size, **settings)  # type: ignore[arg-type]
    )


def randomised(module: VisionTransformer) -> VisionTransformer:
    """Weights large enough that every part matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def test_patches_are_the_strided_convolution_of_the_paper() -> None:
    embedding = LinearPatchEmbedding(3, 5, (4, 2))
    images = torch.randn(2, 3, 12, 6)
    expected = F.conv2d(images, embedding.proj.weight.view(5, 3, 4, 2), embedding.proj.bias, stride=(4, 2)).permute(
        0, 2, 3, 1
    )
    torch.testing.assert_close(embedding(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("image_size", [8, (8, 12), (16, 4)])
@pytest.mark.parametrize("patch_size", [4, (4, 2), (8, 4)])
@pytest.mark.parametrize(
    "kind", [{}, {"num_registers": 3}, {"pool": "mean"}, {"pool": "mean", "num_registers": 2}], ids=str
)
def test_shapes(image_size: int | tuple[int, int], patch_size: int | tuple[int, int], kind: dict[str, object]) -> None:
    model = network(image_size, patch_size, **kind)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    tall, wide = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    images = torch.randn(2, 1, height, width)
    patches = (height // tall) * (width // wide)
    prefix = int(kind.get("pool", "token") == "token") + cast(int, kind.get("num_registers", 0))
    assert model(images).shape == (2, 3)
    assert model.features(images).shape == (2, prefix + patches, 16)
    assert [weights.shape for weights in model.attention_maps(images)] == [
        (2, 2, prefix + patches, prefix + patches)
    ] * 2


def test_the_whole_network_written_out() -> None:
    """Dosovitskiy et al., equations 1 to 4, by functions of torch alone, in float64."""
    model = network((8, 12), num_registers=1, depth=2).double()
    images = torch.randn(2, 1, 8, 12, dtype=torch.float64)
    state = model.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    patches = F.unfold(images, kernel_size=4, stride=4).mT  # (B, T, 16), row by row
    x = linear(patches, "patches.proj") + state["position.table"].flatten(0, 1)
    x = torch.cat([state["prefix_tokens"].expand(2, -1, -1), x], dim=1)
    for index in range(2):
        layer = f"encoder.layers.{index}"
        inside = norm(x, f"{layer}.attention_norm")
        q, k, v = (
            linear(inside, f"{layer}.attention.{kind}_proj").view(2, -1, 2, 8).transpose(1, 2)
            for kind in ("query", "key", "value")
        )
        mixed = ((q @ k.mT) / 8**0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{layer}.attention.out_proj")
        inside = linear(norm(x, f"{layer}.feed_forward_norm"), f"{layer}.feed_forward.up_proj")
        x = x + linear(0.5 * inside * (1 + torch.erf(inside / 2**0.5)), f"{layer}.feed_forward.down_proj")
    torch.testing.assert_close(model.features(images), norm(x, "norm"))
    torch.testing.assert_close(model(images), linear(norm(x[:, 0], "norm"), "head"))


def test_images_may_have_any_memory_layout() -> None:
    model = network((8, 12))
    images = torch.randn(2, 1, 8, 12)
    wide = torch.randn(2, 1, 20, 12)
    wide[:, :, 5:13] = images
    torch.testing.assert_close(model(wide[:, :, 5:13]), model(images))
    colour = network((8, 12), in_channels=3)
    images = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(colour(images.contiguous(memory_format=torch.channels_last)), colour(images))


def test_mean_pooling_ignores_the_registers() -> None:
    model = network(pool="mean", num_registers=2)
    images = torch.randn(2, 1, 8, 8)
    hidden = model.encoder(model.embed(images)).hidden
    torch.testing.assert_close(model(images), model.head(model.norm(hidden[:, 2:].mean(dim=1))))


@pytest.mark.parametrize("num_registers", [0, 2])
def test_computing_the_class_token_alone_changes_nothing(num_registers: int) -> None:
    model = network(num_registers=num_registers, depth=3)
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    target = torch.randn(2, 3)

    def gradients(logits: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((logits * target).sum(), [images, *model.parameters()]))

    pruned, whole = model(images), model.head(model.features(images)[:, 0])
    torch.testing.assert_close(pruned, whole)
    for ours, expected in zip(gradients(pruned), gradients(whole), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize(
    "attention",
    [
        partial(MultiHeadAttention, num_heads=4, rotary=RotaryPosition),
        partial(MultiHeadAttention, num_heads=4, num_kv_heads=2),
        partial(MultiHeadAttention, num_heads=4, num_kv_heads=1, norm=nn.LayerNorm),
        partial(MultiHeadAttention, num_heads=2, score_bias=ALiBi),
        DistanceAttention,
        partial(DistanceAttention, sharpness=3.0),
        DotProductAttention,
    ],
    ids=["rotary", "grouped", "multi-query", "bias", "own", "own-partial", "dot-product"],
)
def test_any_attention_fits(attention: Callable[[int, int], Attention], pool: str) -> None:
    model = network((8, 12), attention=attention, pool=pool)
    images = torch.randn(2, 1, 8, 12)
    prefix = pool == "token"
    features = model.features(images)
    pooled = features[:, 0] if prefix else model.norm(model.encoder(model.embed(images)).hidden.mean(dim=1))
    torch.testing.assert_close(model(images), model.head(pooled), atol=1e-5, rtol=1e-5)
    for weights in model.attention_maps(images):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    model.train()(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_any_layer_fits() -> None:
    layer = partial(EncoderLayer, feed_forward=SwiGLU, norm=RMSNorm, norm_first=False, layer_scale=0.5)
    model = network(layer=layer)
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model(images), model.head(model.features(images)[:, 0]), atol=1e-5, rtol=1e-5)
    assert "encoder.layers.1.attention_residual.scale.gamma" in model.state_dict()


def test_stochastic_depth_rises_from_layer_to_layer() -> None:
    model = network(depth=3, drop_path=0.5)
    rates = [module.rate for module in model.encoder.modules() if isinstance(module, DropPath)]
    assert rates == [0.25, 0.25, 0.5, 0.5]  # two per layer, none in the first
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


def test_images_of_another_size_than_trained() -> None:
    model = network(8)
    images = torch.randn(2, 1, 12, 20)
    table = model.state_dict()["position.table"]
    resampled = F.interpolate(table.permute(2, 0, 1).unsqueeze(0), size=(3, 5), mode="bicubic", antialias=True)[
        0
    ].permute(1, 2, 0)
    twin = network((12, 20))
    twin.load_state_dict({**model.state_dict(), "position.table": resampled})
    torch.testing.assert_close(model(images), twin(images))
    assert model.attention_maps(images)[0].shape == (2, 2, 16, 16)


def test_weights_of_another_image_size_load() -> None:
    small, large = network(8), network((16, 12))
    large.load_state_dict(small.state_dict())
    images = torch.randn(2, 1, 16, 12)
    torch.testing.assert_close(large(images), small(images))


def test_no_head() -> None:
    model = VisionTransformer(0, 8, patches=4, dim=16, depth=1, attention=HEADS).eval()
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(images), model.features(images)[:, 0])


def test_the_default_attention_has_heads_of_64_features() -> None:
    model = VisionTransformer(2, 32, dim=192, depth=1)
    assert model.attention_maps(torch.randn(1, 3, 32, 32))[0].shape == (1, 3, 5, 5)
    tiny = VisionTransformer(2, 32, dim=16, depth=1)
    assert tiny.attention_maps(torch.randn(1, 3, 32, 32))[0].shape == (1, 1, 5, 5)


def test_it_starts_as_the_authors_code_does() -> None:
    """Xavier's uniform for linear layers, zero biases; normals of width 0.02 for tokens, positions and the head."""
    model = VisionTransformer(1000, 32, dim=192, depth=1, num_registers=8)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif name in {"prefix_tokens", "position.table", "head.weight"}:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
        elif parameter.ndim > 1:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
            assert parameter.abs().max() <= bound, name


@pytest.mark.parametrize(
    ("image_size", "patch_size", "message"),
    [
        (8, 16, r"height 8 .* 16;.*patch_size"),
        ((16, 4), (8, 8), r"width 4 .* 8"),
        (10, 4, r"height 4 .* height 10; .*8 or 12.*patch_size"),
        ((8, 9), 4, r"width 4 .* width 9; .*8 or 12"),
        (8, 0, r"patch_size \(0, 0\)"),
    ],
)
def test_sizes_that_do_not_fit(
    image_size: int | tuple[int, int], patch_size: int | tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        network(image_size, patch_size)


def test_images_that_do_not_fit_are_refused() -> None:
    model = network(8)
    with pytest.raises(ValueError, match=r"height 2 .* 4"):
        model(torch.randn(1, 1, 2, 8))
    with pytest.raises(ValueError, match=r"width 4 .* width 10"):
        model(torch.randn(1, 1, 8, 10))
    with pytest.raises(ValueError, match=r"images .*got \(1, 3, 8, 8\)"):
        model(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"images .*got \(1, 8, 8\)"):
        model(torch.randn(1, 8, 8))


def test_a_size_that_fits_is_accepted() -> None:
    check_patches((8, 12), (4, 6))
    with pytest.raises(ValueError, match="patch width"):
        check_patches((8, 12), (4, 5))


def test_an_unknown_pool() -> None:
    with pytest.raises(ValueError, match=r"pool .*got 'max'"):
        network(pool="max")


def test_an_attention_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"8 features.*dim=16"):
        network(attention=lambda query_dim, key_dim: DistanceAttention(query_dim, 8))


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_it_compiles_whole(pool: str) -> None:
    torch._dynamo.reset()
    model = network(pool=pool, num_registers=1)
    images = torch.randn(2, 1, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.slow
def test_it_exports_with_any_image_size() -> None:
    """Also the size that it was trained at, at which the learned positions need no resampling."""
    model = network()
    height, width = (torch.export.Dim(name, min=2, max=16) for name in ("rows", "columns"))
    for start in ((8, 8), (8, 16)):
        images = torch.randn(2, 1, *start)
        exported = torch.export.export(model, (images,), dynamic_shapes=({2: 4 * height, 3: 4 * width},)).module()
        for size in ((8, 8), (16, 12), (8, 16)):
            images = torch.randn(2, 1, *size)
            torch.testing.assert_close(exported(images), model(images), atol=1e-5, rtol=1e-5)


def test_it_exports_with_any_batch_size() -> None:
    model = network(num_registers=1)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 5):
        images = torch.randn(count, 1, 8, 8)
        torch.testing.assert_close(exported(images), model(images), atol=1e-5, rtol=1e-5)


def test_bf16_autocast_is_close() -> None:
    model = network(num_registers=1)
    images = torch.randn(4, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(images)
    assert rough.dtype == torch.bfloat16
    exact = model(images)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_same_weights_in_float64_give_the_same_logits() -> None:
    model = network()
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model.double()(images.double()).float(), model.float()(images), atol=1e-4, rtol=1e-4)


def test_a_large_batch_in_evaluation_equals_its_images_one_by_one() -> None:
    network = VisionTransformer(3, 8, 1, patches=4, dim=8, depth=2).eval()
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, network(images).detach())


def test_fixed_positions_replace_learned_ones() -> None:
    network = VisionTransformer(3, 8, 1, patches=4, dim=8, depth=1, position=SinCosPosition2d)
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert not list(network.position.parameters())
