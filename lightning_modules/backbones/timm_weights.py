"""Conversion of timm's plain Vision Transformers."""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.data import ImageNetInfo
from timm.layers import Mlp, PatchEmbed
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from attention_blocks import EncoderLayer, FeedForward, SelfAttention
from datamodules.images.image_transform import ImageTransform
from lightning_modules.backbones.vit import VisionTransformer, vit_norm

# Our name and timm's name of each module of a layer; timm packs query, key and value in one layer.
_LAYER_NAMES = {
    "attention_norm": "norm1",
    "attention.out_proj": "attn.proj",
    "attention.query_norm": "attn.q_norm",
    "attention.key_norm": "attn.k_norm",
    "attention_residual.scale": "ls1",
    "feed_forward_norm": "norm2",
    "feed_forward.up_proj": "mlp.fc1",
    "feed_forward.down_proj": "mlp.fc2",
    "feed_forward_residual.scale": "ls2",
}


def create_timm_vit(name: str, *, pretrained: bool) -> TimmViT:
    """Creates a plain ViT of timm.

    Args:
        name: such as "vit_tiny_patch16_224".
        pretrained: with trained weights, which timm downloads.

    Raises:
        ValueError: timm has no such model, or it is of another family.
    """
    tagged = "." in name
    if not timm.is_model(name) or (tagged and name not in timm.list_models(include_tags=True)):
        near = difflib.get_close_matches(name, timm.list_models(["vit_*", "deit*"], include_tags=tagged))
        raise ValueError(f"name: timm has no model {name!r}; did you mean {', '.join(near) or 'a vit_* or deit_*'}?")
    model = timm.create_model(name, pretrained=pretrained)
    reason = _why_not_plain(model)
    if reason:
        raise ValueError(
            f"name: {name!r} is not a plain ViT or DeiT ({reason}), so its weights do not fit VisionTransformer"
        )
    return model


def _why_not_plain(model: TimmViT) -> str | None:
    """The first reason why a model's weights do not fit, or ``None`` if they do."""
    if type(model) is not TimmViT:
        return f"it is a {type(model).__name__}"
    checks = {
        "it has a norm before its layers": isinstance(model.norm_pre, nn.Identity),
        "its patch embedding is not linear": type(model.patch_embed) is PatchEmbed
        and isinstance(model.patch_embed.norm, nn.Identity),
        "it has no position table": model.pos_embed is not None,
        f"it pools by {model.global_pool!r}": model.global_pool in ("token", "avg"),
        "it pools after its norm": model.global_pool == "token" or not isinstance(model.fc_norm, nn.Identity),
        "its layers are of another kind": all(type(block) is Block for block in model.blocks),
    }
    checks["its attention or feed-forward is of another kind"] = checks["its layers are of another kind"] and all(
        type(block.attn) is TimmAttention
        and isinstance(block.attn.norm, nn.Identity)
        and block.attn.proj.bias is not None
        and type(block.mlp) is Mlp
        and block.mlp.fc1.bias is not None
        and type(block.mlp.act) is nn.GELU
        for block in model.blocks
    )
    checks["its norms are of another kind"] = checks["its layers are of another kind"] and all(
        isinstance(norm, nn.LayerNorm) and norm.eps == vit_norm(1).eps
        for norm in (_last_norm(model), *(norm for block in model.blocks for norm in (block.norm1, block.norm2)))
    )
    return next((reason for reason, plain in checks.items() if not plain), None)


def _last_norm(model: TimmViT) -> nn.Module:
    """The norm before the head, which comes before or after the pooling."""
    return cast(nn.Module, model.norm if isinstance(model.fc_norm, nn.Identity) else model.fc_norm)


def network_like(model: TimmViT) -> partial[VisionTransformer]:
    """Factory of :class:`VisionTransformer` with the sizes and options of a plain ViT of timm."""
    block = model.blocks[0]
    attention = partial(
        SelfAttention,
        num_heads=block.attn.num_heads,
        norm=None if isinstance(block.attn.q_norm, nn.Identity) else vit_norm,
    )
    layer = partial(
        EncoderLayer,
        norm=vit_norm,
        feed_forward=partial(FeedForward, hidden_dim=block.mlp.fc1.out_features),
        layer_scale=None if isinstance(block.ls1, nn.Identity) else 1e-5,
    )
    return partial(
        VisionTransformer,
        patches=tuple(model.patch_embed.patch_size),
        dim=model.embed_dim,
        depth=len(model.blocks),
        attention=attention,
        layer=layer,
        pool="token" if model.global_pool == "token" else "mean",
        # With mean pooling timm may keep a class token, which then acts as a register.
        num_registers=model.num_prefix_tokens - (model.global_pool == "token"),
    )


def renamed_state(model: TimmViT) -> dict[str, Tensor]:
    """State dict of :class:`VisionTransformer` with the weights of a plain ViT of timm."""
    theirs = model.state_dict()
    prefix = torch.cat(
        [theirs[name] for name in ("cls_token", "reg_token") if name in theirs] or [model.pos_embed[:, :0]], 1
    )
    rows, columns = model.patch_embed.grid_size
    table = theirs["pos_embed"]
    # timm may add positions to class token and registers too; here they are added to the weights.
    embedded = table.size(1) - rows * columns
    prefix = torch.cat([prefix[:, :embedded] + table[:, :embedded], prefix[:, embedded:]], dim=1)  # (1, tokens, D)
    ours = {
        "prefix_tokens": prefix,
        "position.table": table[0, embedded:].unflatten(0, (rows, columns)),
        "patches.proj.weight": theirs["patch_embed.proj.weight"].flatten(1),
        "patches.proj.bias": theirs["patch_embed.proj.bias"],
        **{f"norm.{name}": value for name, value in _last_norm(model).state_dict().items()},
        **{f"head.{name}": value for name, value in model.head.state_dict().items()},
    }
    for index in range(len(model.blocks)):
        for our_name, their_name in _LAYER_NAMES.items():
            start = f"blocks.{index}.{their_name}."
            for name, value in theirs.items():
                if name.startswith(start):
                    ours[f"encoder.layers.{index}.{our_name}.{name.removeprefix(start)}"] = value
        for kind in ("weight", "bias"):
            # timm may omit the bias of these three projections.
            packed = theirs.get(f"blocks.{index}.attn.qkv.{kind}", torch.zeros(3 * model.embed_dim))
            for part, value in zip(("query", "key", "value"), packed.chunk(3), strict=True):
                ours[f"encoder.layers.{index}.attention.{part}_proj.{kind}"] = value
    return ours


def transform_like(model: TimmViT, image_size: int | tuple[int, int] | None = None) -> ImageTransform:
    """Input transform of a model of timm.

    Args:
        model: the model.
        image_size: height and width, or one number for both; defaults to those of the model.
    """
    config = cast(dict[str, Any], model.pretrained_cfg)
    size = config["input_size"][1:] if image_size is None else image_size
    return ImageTransform(
        size=size if isinstance(size, int) else (size[0], size[1]),
        channels=config["input_size"][0],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop=config["crop_pct"],
    )


def imagenet_names() -> list[str]:
    """Names of ImageNet's 1,000 classes, in timm's order."""
    names = ImageNetInfo("imagenet-1k")
    return [names.index_to_description(index) for index in range(1000)]
