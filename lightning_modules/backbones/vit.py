"""The Vision Transformer: attention over the patches of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention_blocks import Attention, EncoderLayer, LearnedPosition2d, SelfAttention, TransformerEncoder
from attention_blocks.kernels import leaf

Pool = Literal["token", "mean"]


class PatchEmbedding(nn.Module):
    """Base of patch embeddings: modules from images, (B, C, H, W), to (B, H / height, W / width, D).

    Args:
        in_channels: C.
        patch_size: (height, width) of a patch in pixels, or one number for both.

    Attributes:
        in_channels: as given.
        patch_size: (height, width).
    """

    def __init__(self, in_channels: int, patch_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.patch_size = pair(patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H / height, W / width, D).

        Raises:
            ValueError: another shape, or the image is smaller than a patch or not a multiple of it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(images)")


class LinearPatchEmbedding(PatchEmbedding):
    """The paper's patch embedding: one linear layer over the pixels of each patch.

    Args:
        in_channels: C.
        dim: D, features of a patch.
        patch_size: (height, width) of a patch in pixels, or one number for both.

    Example:
        >>> LinearPatchEmbedding(3, 8, patch_size=4)(torch.randn(2, 3, 12, 16)).shape
        torch.Size([2, 3, 4, 8])
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int | tuple[int, int] = 16) -> None:
        super().__init__(in_channels, patch_size)
        self.proj = nn.Linear(in_channels * self.patch_size[0] * self.patch_size[1], dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases, as in the authors' code."""
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, images: Tensor) -> Tensor:
        """See :meth:`PatchEmbedding.forward`."""
        check_images(images, self.in_channels, self.patch_size)
        batch, channels, height, width = images.shape
        rows, columns = height // self.patch_size[0], width // self.patch_size[1]
        # A linear layer over flattened patches equals a convolution with stride = kernel, and is faster on CPUs.
        patches = images.view(batch, channels, rows, self.patch_size[0], columns, self.patch_size[1])
        return self.proj(patches.permute(0, 2, 4, 1, 3, 5).flatten(3))  # (B, rows, columns, D)


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from such a pair or from one number for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def check_patches(image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    """Refuses an image size that is not a multiple of the patch size.

    Raises:
        ValueError: naming both sizes, and the nearest image size that fits.
    """
    for name, image, patch in zip(("height", "width"), image_size, patch_size, strict=True):
        if patch < 1:
            raise ValueError(f"patch_size {patch_size} must be positive")
        if image < patch:
            raise ValueError(f"image {name} {image} is smaller than a patch of {patch}; choose a smaller patch_size")
        if image % patch:
            raise ValueError(
                f"patch {name} {patch} does not divide image {name} {image}; "
                f"resize to {image // patch * patch} or {-(-image // patch) * patch}, or choose another patch_size"
            )


@leaf
def check_images(images: Tensor, in_channels: int, patch_size: tuple[int, int]) -> None:
    """Refuses a batch that does not fit a patch embedding.

    Raises:
        ValueError: it is not (B, in_channels, H, W), or H and W are not multiples of the patch size.
    """
    if images.ndim != 4 or images.size(1) != in_channels:
        raise ValueError(f"images must have shape (B, {in_channels}, H, W), got {tuple(images.shape)}")
    check_patches((images.size(2), images.size(3)), patch_size)


def vit_norm(dim: int) -> nn.LayerNorm:
    """The paper's LayerNorm, with an epsilon of 1e-6."""
    return nn.LayerNorm(dim, eps=1e-6)


def vit_attention(query_dim: int, key_dim: int) -> SelfAttention:
    """The paper's self-attention, with heads of 64 features."""
    return SelfAttention(query_dim, key_dim, num_heads=max(1, query_dim // 64))


def vit_layer(dim: int, *, attention: Callable[[int, int], Attention], drop_path: float = 0.0) -> EncoderLayer:
    """The paper's layer: pre-norm, GELU, a feed-forward network of four times D."""
    return EncoderLayer(dim, attention=attention, norm=vit_norm, drop_path=drop_path)


class VisionTransformer(nn.Module):
    """A Transformer encoder over the patches of an image.

    ::

        image (B, C, H, W) ─ patches ─ + positions ─┬─▶ encoder ─ pool ─ norm ─ head ─▶ (B, num_classes)
                          class token, registers ───┘

    Args:
        num_classes: size of the head; 0 for none, so that the network returns the pooled features.
        image_size: (height, width) of the training images in pixels, or one number for both; others work too.
        in_channels: C.
        patches: the patch size in pixels, (height, width) or one number for both; or creates another embedding, as
            ``patches(in_channels, dim)``, such as :class:`ConvStem`.
        dim: D.
        depth: number of layers.
        attention: creates the attention of a layer as ``attention(dim, dim)``; defaults to heads of 64 features.
        layer: creates a layer as ``layer(dim, attention=attention, drop_path=rate)``.
        position: creates the positions as ``position(dim, (rows, columns))``.
        pool: "token" reads the class token, "mean" the mean of the patches (without a class token).
        num_registers: number of further learned tokens that are not read.
        drop_path: stochastic depth rate of the last layer; it rises linearly from 0 at the first.

    Raises:
        ValueError: an unknown pool, or an image size that is not a multiple of the patch size.

    References:
        Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; Darcet et al. 2024, "Vision Transformers Need
        Registers"; Huang et al. 2016, "Deep Networks with Stochastic Depth".

    Example:
        >>> network = VisionTransformer(10, image_size=(16, 24), patches=8, dim=32, depth=2,
        ...                             attention=partial(SelfAttention, num_heads=4))
        >>> network(torch.randn(2, 3, 16, 24)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        *,
        patches: int | tuple[int, int] | Callable[[int, int], PatchEmbedding] = 16,
        dim: int = 192,
        depth: int = 12,
        attention: Callable[[int, int], Attention] = vit_attention,
        layer: Callable[..., EncoderLayer] = vit_layer,
        position: Callable[[int, tuple[int, int]], nn.Module] = LearnedPosition2d,
        pool: Pool = "token",
        num_registers: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if pool not in get_args(Pool):
            raise ValueError(f"pool must be one of {', '.join(get_args(Pool))}, got {pool!r}")
        height, width = pair(image_size)
        self.pool = pool
        if callable(patches):
            self.patches: PatchEmbedding = patches(in_channels, dim)
        else:
            check_patches((height, width), pair(patches))
            self.patches = LinearPatchEmbedding(in_channels, dim, patches)
        check_patches((height, width), self.patch_size)
        self.position = position(dim, (height // self.patch_size[0], width // self.patch_size[1]))
        self.num_prefix_tokens = (pool == "token") + num_registers
        self.prefix_tokens = nn.Parameter(torch.zeros(1, self.num_prefix_tokens, dim))
        self.encoder = TransformerEncoder(
            dim, depth, layer=partial(layer, attention=attention), drop_path=drop_path, norm=None
        )
        self.norm = vit_norm(dim)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.reset_parameters()

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.patches.patch_size

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: the class token and the registers."""
        return {"prefix_tokens"}

    def reset_parameters(self) -> None:
        """Narrow normal distributions for class token, registers and head; the other parts have their own."""
        nn.init.trunc_normal_(self.prefix_tokens, std=0.02)
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def embed(self, images: Tensor) -> Tensor:
        """The encoder's input, (B, T, D): class token, registers, patches with their positions."""
        patches = self.position(self.patches(images)).flatten(1, 2)
        if not self.num_prefix_tokens:
            return patches
        return torch.cat([self.prefix_tokens.expand(patches.size(0), -1, -1).to(patches.dtype), patches], dim=1)

    def features(self, images: Tensor) -> Tensor:
        """The last layer's normalised output, (B, T, D): class token, registers, then the patches row by row."""
        return self.norm(self.encoder(self.embed(images)).hidden)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of images, (B, C, H, W)."""
        hidden = self.encoder(self.embed(images)).hidden  # (B, T, D)
        pooled = hidden[:, 0] if self.pool == "token" else hidden[:, self.num_prefix_tokens :].mean(dim=1)
        return self.head(self.norm(pooled))

    def attention_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """One attention map per layer, (B, N, T, T), or (B, T, T) from an attention without heads."""
        weights = self.encoder(self.embed(images), need_weights=True).weights
        return () if weights is None else weights
