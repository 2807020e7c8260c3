"""The Vision Transformer whose patches come out of a few small convolutions."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from attention_blocks.kernels import Linear
from lightning_modules.vit import VisionTransformer, check_images


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
        halvings = size.bit_length() - 1
        if dim % 2 ** (halvings - 1):
            raise ValueError(
                f"the features double {halvings - 1} times up to dim, so dim must be a multiple of "
                f"{2 ** (halvings - 1)} with patch_size {size}, got dim={dim}"
            )
        self.in_channels = in_channels
        self.patch_size = patch_size
        widths = [in_channels] + [dim // 2**left for left in reversed(range(halvings))]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    # The norm takes every mean away again, so a bias would do nothing.
                    nn.Conv2d(narrow, wide, kernel_size=3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU(inplace=True),
                )
                for narrow, wide in pairwise(widths)
            )
        )
        self.proj = Linear(dim, dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H / height, W / width, D).

        Raises:
            ValueError: another shape, or the image is smaller than a patch or no whole number of patches.
        """
        check_images(images, self.in_channels, self.patch_size)
        return self.proj(self.stages(images).permute(0, 2, 3, 1))


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
