"""A CNN that classifies images, with attention in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from attention_blocks import EaseIn, FeatureMapAttention, inserted
from attention_blocks.feature_maps.with_attention import original_parts
from datamodules.images.image_transform import ImageTransform, RawImage
from lightning_modules.backbones.attended import Locations, NetworkFactory, WithoutAttention, attended
from lightning_modules.backbones.resnet import SmallResNet
from lightning_modules.classification.classifier import Classifier
from lightning_modules.plots.figures import NoAttentionError, gates
from lightning_modules.system.evaluation import evaluation_view, module_view


class ConvClassifier(Classifier):
    """A CNN that classifies images, with any attention on feature maps, or none.

    ``ConvClassifier(10, ImageTransform(28, channels=1), attention=CBAM)`` is ready to be fitted on any loader of
    ``(images, labels)``.

    Args:
        num_classes: K; linked to the data by the command line.
        transform: turns a raw image into the network's input; linked to the data by the command line.
        network: creates the network as ``network(num_classes, (height, width), channels)``: :class:`SmallResNet`,
            :class:`TimmNetwork` for any CNN of timm, or your own, whose head is its child of that name, or else its
            last child that has weights.
        attention: creates a block as ``attention(channels)``; :class:`EaseIn` of one for a trained network.
        where: modules that the attention is inserted behind, see :func:`insert_attention`; defaults to the network's
            ``attention_locations``.
        **arguments: those of :class:`Classifier`; ``layer_decay`` scales the learning rate of everything but the head
            and the inserted attention.

    Raises:
        ValueError: see :class:`Classifier` and :func:`insert_attention`.
        TypeError: ``network`` does not create a network.

    Example:
        >>> from attention_blocks import SqueezeExcite, inserted
        >>> model = ConvClassifier(10, ImageTransform(8), attention=SqueezeExcite)
        >>> list(inserted(model.network))[:2]
        ['stages.0.0.norm2', 'stages.0.1.norm2']
    """

    def __init__(
        self,
        num_classes: int,
        transform: ImageTransform,
        network: NetworkFactory = SmallResNet,
        attention: Callable[[int], FeatureMapAttention] | None = None,
        where: Locations | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        build = partial(attended, network=network, attention=attention, where=where)
        super().__init__(num_classes, transform, build, **arguments)

    def layers(self) -> Sequence[nn.Module]:
        """Everything but the head and the inserted attention, as one layer."""
        own = dict(self.network.named_children())
        with_weights = [
            name for name, child in own.items() if any(True for _ in WithoutAttention([child]).parameters())
        ]
        head = ["head"] if "head" in own else with_weights[-1:]
        return [WithoutAttention(child for name, child in own.items() if name not in head)]

    @torch.no_grad()
    def attention_gates(self, images: Sequence[RawImage] | Tensor) -> dict[str, Tensor]:
        """Gates of every block for raw images, or for a batch of transformed ones.

        Returns:
            The results of :meth:`FeatureMapAttention.gates`, by the names of block and gate.
        """
        found: dict[str, Tensor] = {}

        def look(name: str, block: FeatureMapAttention, inputs: tuple[Tensor, ...]) -> None:
            found.update({f"{name} {kind}": gate for kind, gate in block.gates(*inputs).items()})

        # The hooks are those of a view, so that no other call of this system reaches them.
        view = module_view(evaluation_view(self))
        for name, block in _blocks(view.network).items():
            block.register_forward_pre_hook(partial(look, name))
        view(self.prepare(images))
        return found

    def plot(self, images: Sequence[RawImage] | Tensor) -> Figure:
        """Draws the gates of the last block at each resolution: locations over the image, channels as bars.

        Args:
            images: raw images, or a batch of transformed ones, (B, C, H, W).

        Raises:
            NoAttentionError: there is no attention in the network.
        """
        batch = self.prepare(images)
        found = self.attention_gates(batch)
        if not found:
            raise NoAttentionError("there is no attention in this network, so there are no gates to draw")
        titles = [f"{best[0].label} {best[0].probability:.0%}" for best in self.classify(batch, top=1)]
        return gates(self.transform.denormalize(batch), _last_of_each_kind(found), titles)


def _blocks(network: nn.Module) -> dict[str, FeatureMapAttention]:
    """The attention blocks, without the parts of other blocks, by their names in the network without insertions.

    Inserted blocks have the names of the modules that they were inserted after.
    """
    named = list(original_parts(network))
    for location, block in inserted(network).items():
        named += [(f"{location}.{name}" if name else location, part) for name, part in block.named_modules()]
    found: dict[str, FeatureMapAttention] = {}
    inside: set[nn.Module] = set()
    for name, module in named:
        gated = isinstance(module.block if isinstance(module, EaseIn) else module, FeatureMapAttention)
        if gated and module not in inside:
            assert isinstance(module, FeatureMapAttention)  # noqa: S101 (EaseIn is one too)
            found[name] = module
            inside.update(part for _, part in original_parts(module))
    return found


def _last_of_each_kind(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last gate of each shape."""
    last = {tuple(gate.shape[1:]): name for name, gate in found.items()}
    return {name: gate for name, gate in found.items() if name in last.values()}
