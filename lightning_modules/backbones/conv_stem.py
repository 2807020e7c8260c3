"""Convolutional stems: patch embeddings of a few small convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.backbones.vit import PatchEmbedding, check_images


class ConvStem(PatchEmbedding):
    """Patch embedding of 3 x 3 convolutions with stride 2, each halving the image, and a linear layer.

    ::

        (B, C, H, W) ─ [conv 3x3 / 2 ─ batch norm ─ ReLU] x log2(patch) ─ linear ─▶ (B, H / patch, W / patch, D)

    The features double from one convolution to the next, up to D, and neighbouring patches overlap. It helps most with
    small networks, few images or few epochs: ``partial(VisionTransformer, patches=partial(ConvStem, patch_size=4))``.

    Args:
        in_channels: C.
        dim: D, features of a patch.
        patch_size: height and width of a patch in pixels, a power of two.

    Raises:
        ValueError: the patch is not square, not a power of two or a single pixel, or D has too few factors of two.

    References:
        Xiao et al. 2021, "Early Convolutions Help Transformers See Better".

    Example:
        >>> import torch
        >>> ConvStem(3, 8, patch_size=4)(torch.randn(2, 3, 12, 16)).shape
        torch.Size([2, 3, 4, 8])
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int | tuple[int, int] = 16) -> None:
        super().__init__(in_channels, patch_size)
        size = self.patch_size[0]
        if self.patch_size != (size, size) or size < 2 or size & (size - 1):
            raise ValueError(
                f"a convolutional stem halves the image; patch_size must be 2, 4, 8, 16, …, got {self.patch_size}"
            )
        halvings = size.bit_length() - 1
        convolutions = self.plan(halvings)
        narrowest = 2 ** convolutions[0][0]
        if dim % narrowest:
            raise ValueError(
                f"the features double {convolutions[0][0]} times up to dim, so dim must be a multiple of {narrowest} "
                f"with patch_size {size}, got dim={dim}"
            )
        widths = [in_channels, *(dim // 2**doublings for doublings, _ in convolutions)]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    # Without bias, which the norm would cancel.
                    nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for (before, after), (_, stride) in zip(pairwise(widths), convolutions, strict=True)
            )
        )
        self.proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases for the linear layer."""
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def plan(self, halvings: int) -> list[tuple[int, int]]:
        """For each convolution, how often the features still double after it, and its stride.

        Args:
            halvings: number of times that the image is halved.
        """
        return [(doublings, 2) for doublings in reversed(range(halvings))]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H / height, W / width, D).

        Raises:
            ValueError: another shape, or the image is smaller than a patch or not a multiple of it.
        """
        check_images(images, self.in_channels, self.patch_size)
        # Channels last: faster convolutions on CPUs, and no copy for the linear layer.
        images = images.contiguous(memory_format=torch.channels_last)
        return self.proj(self.stages(images).permute(0, 2, 3, 1))


class DeepConvStem(ConvStem):
    """A :class:`ConvStem` with a convolution of stride 1 before the first halving and after each, for small images.

    ::

        (B, C, H, W) ─ conv 3x3 ─ [conv 3x3 / 2 ─ conv 3x3] x log2(patch) ─ linear ─▶ (B, H / patch, W / patch, D)

    Batch norm and ReLU follow each convolution.

    References:
        Xiao et al. 2021, "Early Convolutions Help Transformers See Better", whose stem of 18 GF alternates strides.

    Example:
        >>> import torch
        >>> DeepConvStem(3, 8, patch_size=4)(torch.randn(2, 3, 12, 16)).shape
        torch.Size([2, 3, 4, 8])
    """

    def plan(self, halvings: int) -> list[tuple[int, int]]:
        """See :meth:`ConvStem.plan`."""
        behind = [(doublings, stride) for doublings, _ in super().plan(halvings) for stride in (2, 1)]
        return [(halvings, 1), *behind]
