"""Image classification with a Vision Transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from typing_extensions import Self

from datamodules.images.image_transform import ImageTransform, RawImage
from lightning_modules.backbones.vit import VisionTransformer
from lightning_modules.classification.classifier import Classifier
from lightning_modules.plots.figures import overlay
from lightning_modules.plots.rollout import attention_rollout
from lightning_modules.system.evaluation import evaluation_view


class AttentionMaps(NamedTuple):
    """Attention maps of a ViT.

    Attributes:
        layers: one map per layer, from the input up, (B, N, T, T); of the T tokens, the class token and the registers
            come first, then the patches row by row.
        rollout: attention rollout over the patches, (B, rows, columns), each summing to 1: how much the class token
            (or with mean pooling the mean patch) attended to each patch through all layers.
    """

    layers: tuple[Tensor, ...]
    rollout: Tensor


class ViTClassifier(Classifier):
    """A Vision Transformer that classifies images.

    ``ViTClassifier(10, ImageTransform(32), partial(VisionTransformer, patches=4, depth=6))`` is ready to be fitted on
    any loader of ``(images, labels)``; :meth:`from_timm` starts from timm's weights.

    Args:
        num_classes: K; linked to the data by the command line.
        transform: turns a raw image into the network's input; linked to the data by the command line.
        network: creates the network as ``network(num_classes, (height, width), channels)``.
        **arguments: those of :class:`Classifier`.

    Example:
        >>> from functools import partial
        >>> model = ViTClassifier(10, ImageTransform(8), partial(VisionTransformer, patches=2, dim=24, depth=2))
        >>> [[best]] = model.classify([torch.rand(3, 20, 30)], top=1)
        >>> best.label in "0123456789"
        True
    """

    network: VisionTransformer

    def __init__(
        self,
        num_classes: int,
        transform: ImageTransform,
        network: Callable[[int, tuple[int, int], int], VisionTransformer] = VisionTransformer,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(num_classes, transform, network, **arguments)

    @classmethod
    def from_timm(
        cls,
        name: str,
        *,
        pretrained: bool = False,
        image_size: int | tuple[int, int] | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> Self:
        """A plain ViT or DeiT of timm, with its weights, outputs and input transform.

        Args:
            name: such as "vit_tiny_patch16_224" or "deit_small_patch16_224.fb_in1k".
            pretrained: whether to load trained weights, downloaded by timm.
            image_size: another resolution, to which the positions are resampled.
            **arguments: constructor arguments of this class; with another ``num_classes`` the head starts untrained.

        Raises:
            ValueError: timm has no such model, or it is not of the plain family.
        """
        from lightning_modules.backbones import timm_weights  # timm takes seconds to import

        model = timm_weights.create_timm_vit(name, pretrained=pretrained)
        transform = timm_weights.transform_like(model, image_size)
        classes = model.pretrained_cfg["num_classes"]
        arguments.setdefault("num_classes", classes)
        if arguments["num_classes"] == classes == 1000:
            arguments.setdefault("class_names", timm_weights.imagenet_names())
        system = cls(transform=transform, network=timm_weights.network_like(model), **arguments)
        network, state = system.network, timm_weights.renamed_state(model)
        if network.head.out_features != classes:
            state.update({f"head.{name}": value for name, value in network.head.state_dict().items()})
        network.load_state_dict(state)
        return system

    def layers(self) -> Sequence[nn.Module]:
        """The embedding with its tokens and positions, then the encoder's layers."""
        network = self.network
        embedding = nn.ModuleList([network.patches, network.position, nn.ParameterList([network.prefix_tokens])])
        return [embedding, *network.encoder.layers]

    @torch.no_grad()
    def attention_maps(self, images: Sequence[RawImage] | Tensor) -> AttentionMaps:
        """Attention maps of raw images, or of a batch of transformed ones, (B, C, H, W)."""
        batch = self.prepare(images)
        maps = evaluation_view(self.network).attention_maps(batch)
        rollout, prefix = attention_rollout(maps), self.network.num_prefix_tokens
        if self.network.pool == "token":
            patches = rollout[:, 0, prefix:]  # (B, rows · columns)
        else:
            patches = rollout[:, prefix:, prefix:].mean(dim=1)
        patches = patches / patches.sum(dim=-1, keepdim=True)
        rows = batch.size(-2) // self.network.patch_size[0]
        return AttentionMaps(maps, patches.view(len(batch), rows, -1))

    def plot(self, images: Sequence[RawImage] | Tensor) -> Figure:
        """Draws each image next to its attention rollout, titled with the most probable class.

        Args:
            images: raw images, or a batch of transformed ones, (B, C, H, W).
        """
        batch = self.prepare(images)
        best = self.predict(batch).softmax(dim=-1).max(dim=-1)
        titles = [
            f"{self.class_names[index]} {probability:.0%}"
            for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return overlay(self.transform.denormalize(batch), self.attention_maps(batch).rollout, titles)
