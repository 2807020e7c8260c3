"""Backbones of captioners: images to feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.backbones.resnet import SmallResNet
from lightning_modules.backbones.timm_network import timm_model
from lightning_modules.backbones.vit import VisionTransformer


class ResNetFeatures(nn.Module):
    """Last feature map of a :class:`SmallResNet`, for small images.

    Args:
        image_size: height and width of the training images; other sizes work as well.
        in_channels: C of the images.
        widths: channels of each stage; each stage but the first halves the image.
        depth: residual blocks in each stage.
        stem_stride: stride of the first convolution.

    Example:
        >>> ResNetFeatures((32, 32), 1)(torch.randn(2, 1, 32, 48)).shape
        torch.Size([2, 64, 8, 12])
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        in_channels: int = 3,
        *,
        widths: Sequence[int] = (16, 32, 64),
        depth: int = 2,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.network = SmallResNet(0, image_size, in_channels, widths=widths, depth=depth, stem_stride=stem_stride)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, rows, columns)."""
        return self.network.features(images)


class ViTFeatures(nn.Module):
    """Patch features of a :class:`VisionTransformer` as a feature map.

    Args:
        image_size: height and width of the training images.
        in_channels: C of the images.
        network: creates the ViT as ``network(0, image_size, in_channels)``.

    Example:
        >>> from functools import partial
        >>> tiny = partial(VisionTransformer, patches=8, dim=24, depth=2)
        >>> ViTFeatures((32, 48), 3, network=tiny)(torch.randn(2, 3, 32, 48)).shape
        torch.Size([2, 24, 4, 6])
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        in_channels: int = 3,
        *,
        network: Callable[[int, tuple[int, int], int], VisionTransformer] = VisionTransformer,
    ) -> None:
        super().__init__()
        self.network = network(0, image_size, in_channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, rows, columns)."""
        return as_feature_map(
            self.network.features(images)[:, self.network.num_prefix_tokens :], images, self.network.patch_size
        )


class TimmFeatures(nn.Module):
    """Last feature map of any backbone of timm, or the patch features of any of its ViTs.

    Args:
        image_size: height and width of the training images; most CNNs take any.
        in_channels: C of the images.
        name: such as "tf_efficientnet_lite0" or "vit_tiny_patch16_224".
        pretrained: ``True`` for trained weights, which timm downloads, or the path of a weights file; ignored when a
            checkpoint is loaded. Images must be normalised as in the original training, see ``ImageTransform``.
        stage: return the feature map of this stage of a CNN, counted from 0, or from -1 backwards; defaults to the
            feature map that timm pools for its classifier.

    Raises:
        ValueError: timm has no such model, or the model has no such stage.
        FileNotFoundError: there is no weights file at that path.

    Example:
        >>> TimmFeatures((64, 96), 3, name="resnet18")(torch.randn(2, 3, 64, 96)).shape
        torch.Size([2, 512, 2, 3])
        >>> TimmFeatures((64, 64), 3, name="resnet18", stage=-2)(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 256, 4, 4])
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        in_channels: int = 3,
        *,
        name: str,
        pretrained: bool | str = False,
        stage: int | None = None,
    ) -> None:
        super().__init__()
        import timm  # slow to import

        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        arguments: dict[str, object] = {"in_chans": in_channels}
        if config is not None and config.fixed_input_size:
            arguments["img_size"] = image_size
        if stage is None:
            # Without the classifier, but with the layers between the last stage and the pooling.
            self.model = timm_model(name, pretrained, num_classes=0, **arguments)
        else:
            try:
                self.model = timm_model(name, pretrained, features_only=True, out_indices=(stage,), **arguments)
            except (AssertionError, IndexError) as error:
                raise ValueError(f"stage: {name} has no stage {stage} ({error}); -1 is the last") from error
        self.stage = stage

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, rows, columns)."""
        images = images.contiguous(memory_format=torch.channels_last)  # the faster layout on CPUs
        if self.stage is not None:
            [found] = self.model(images)
        else:
            found = self.model.forward_features(images)
        if found.ndim == 3:  # (B, T, D)
            height, width = self.model.patch_embed.patch_size
            return as_feature_map(found[:, self.model.num_prefix_tokens :], images, (height, width))
        return found.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else found


def as_feature_map(patches: Tensor, images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Patch features in row-major order, (B, T, D), as a feature map, (B, D, rows, columns).

    Args:
        patches: features of the patches.
        images: the images, (B, C, H, W).
        patch_size: height and width of a patch in pixels.
    """
    rows, columns = images.size(-2) // patch_size[0], images.size(-1) // patch_size[1]
    return patches.mT.reshape(len(patches), -1, rows, columns)


def feature_map_size(backbone: nn.Module, image_size: tuple[int, int], in_channels: int) -> tuple[int, int, int]:
    """D, rows and columns of a backbone's feature map, found by a forward pass of a black image.

    Args:
        backbone: (B, C, H, W) to (B, D, rows, columns).
        image_size: H and W.
        in_channels: C.

    Raises:
        ValueError: the output is not a feature map.
    """
    training = backbone.training
    with torch.no_grad():
        found = backbone.eval()(torch.zeros(1, in_channels, *image_size))
    backbone.train(training)
    if not isinstance(found, Tensor) or found.ndim != 4:
        raise ValueError(
            f"backbone must map images to (B, D, rows, columns), but {type(backbone).__name__} returns "
            f"{tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__}; see ResNetFeatures"
        )
    return found.size(1), found.size(2), found.size(3)
