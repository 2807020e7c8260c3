"""The Vision Transformer whose patches come out of a few small convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from attention_blocks.kernels import Linear
from lightning_modules.backbones.vit import VisionTransformer, check_images


class ConvStem(nn.Module):
    """Convolutions of 3 x 3 and stride 2, each halving the image, then a linear map: an embedding of patches.

    ::

        (B, C, H, W) ─ [conv 3x3 / 2 ─ batch norm ─ ReLU] x log2(patch) ─ linear ─▶ (B, H / patch, W / patch, D)

    The features double from one to the next up to D, so neighbouring patches overlap and edges are found where edges
    are best found. A small network, few images or few epochs are where that helps most.

    Args:
        in_channels: C.
        dim: D, feature size of a patch's vector.
        patch_size: height and width in pixels of what becomes one vector, one power of two.

    Raises:
        ValueError: the patch is not square, no power of two, a single pixel, or so large that features run out.

    References:
        Xiao et al. 2021, "Early Convolutions Help Transformers See Better".

    Example:
        >>> import torch
        >>> ConvStem(3, 8, (4, 4))(torch.randn(2, 3, 12, 16)).shape
        torch.Size([2, 3, 4, 8])
    """

    def __init__(self, in_channels: int, dim: int, patch_size: tuple[int, int]) -> None:
        super().__init__()
        size = patch_size[0]
        if patch_size[0] != patch_size[1] or size < 2 or size & (size - 1):
            raise ValueError(
                f"a convolutional stem halves the image; patch_size must be 2, 4, 8, 16, …, got {patch_size}"
            )
        self.in_channels = in_channels
        self.patch_size = patch_size
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
                    # The norm takes every mean away again, so a bias would do nothing.
                    nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                )
                for (before, after), (_, stride) in zip(pairwise(widths), convolutions, strict=True)
            )
        )
        self.proj = Linear(dim, dim)

    def plan(self, halvings: int) -> list[tuple[int, int]]:
        """The convolutions: how often the features still double behind each, and its stride.

        Args:
            halvings: how often the image is halved.
        """
        return [(doublings, 2) for doublings in reversed(range(halvings))]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H / height, W / width, D).

        Raises:
            ValueError: another shape, or the image is smaller than a patch or no whole number of patches.
        """
        check_images(images, self.in_channels, self.patch_size)
        # Features last: convolutions on CPUs are faster, and the linear map need not copy.
        images = images.contiguous(memory_format=torch.channels_last)
        return self.proj(self.stages(images).permute(0, 2, 3, 1))


class DeepConvStem(ConvStem):
    """A :class:`ConvStem` with a convolution of stride 1 before the first halving and behind each, for small images.

    ::

        (B, C, H, W) ─ conv 3x3 ─ [conv 3x3 / 2 ─ conv 3x3] x log2(patch) ─ linear ─▶ (B, H / patch, W / patch, D)

    The first convolution sees every pixel, which matters where an image has few; batch norm and ReLU follow each.

    References:
        Xiao et al. 2021, "Early Convolutions Help Transformers See Better", whose stem of 18 GF alternates strides.

    Example:
        >>> import torch
        >>> DeepConvStem(3, 8, (4, 4))(torch.randn(2, 3, 12, 16)).shape
        torch.Size([2, 3, 4, 8])
    """

    def plan(self, halvings: int) -> list[tuple[int, int]]:
        """See :meth:`ConvStem.plan`."""
        behind = [(doublings, stride) for doublings, _ in super().plan(halvings) for stride in (2, 1)]
        return [(halvings, 1), *behind]


class ConvStemTransformer(VisionTransformer):
    """A :class:`VisionTransformer` whose patches are embedded by a :class:`ConvStem`; the arguments are the same.

    The paper calls it ViT-C, and leaves out one layer to pay for the stem.

    References:
        Xiao et al. 2021, "Early Convolutions Help Transformers See Better".

    Example:
        >>> import torch
        >>> network = ConvStemTransformer(10, image_size=(16, 24), patch_size=8, dim=64, depth=2)
        >>> network(torch.randn(2, 3, 16, 24)).shape
        torch.Size([2, 10])
    """

    patch_embedding = ConvStem


class DeepConvStemTransformer(VisionTransformer):
    """A :class:`VisionTransformer` whose patches are embedded by a :class:`DeepConvStem`; the arguments are the same.

    References:
        Xiao et al. 2021, "Early Convolutions Help Transformers See Better".

    Example:
        >>> network = DeepConvStemTransformer(10, image_size=(16, 24), patch_size=8, dim=64, depth=2)
        >>> network(torch.randn(2, 3, 16, 24)).shape
        torch.Size([2, 10])
    """

    patch_embedding = DeepConvStem
