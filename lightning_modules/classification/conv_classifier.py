"""A CNN that classifies images, with attention in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from matplotlib.figure import Figure
from torch import Tensor, nn

from attention_blocks import EaseIn, FeatureMapAttention
from attention_blocks.feature_maps.insert import follow_replaced
from datamodules.images.image_transform import ImageTransform, RawImage
from lightning_modules.backbones.attended import Places, attended
from lightning_modules.backbones.resnet import SmallResNet
from lightning_modules.classification.classifier import Classifier, NetworkFactory
from lightning_modules.plots.figures import NoAttentionError, gates
from lightning_modules.system.system import adamw


class ConvClassifier(Classifier):
    """A CNN that classifies images, with any attention on feature maps, or none.

    ``ConvClassifier(10, ImageTransform(28, channels=1), attention=CBAM)`` is ready to be fitted on any loader of
    ``(images, labels)``. The other arguments are those of :class:`Classifier`; ``layer_decay`` is the share of the
    head's rate, and of new attention's, at which the backbone learns.

    Args:
        backbone: makes the network as ``backbone(num_classes, (height, width), channels)``: :class:`SmallResNet`,
            :class:`TimmNetwork` for any CNN of timm, or one's own, whose head is its part of that name, or else the
            last of its parts that has weights.
        attention: makes a block as ``attention(channels)``; :class:`EaseIn` of one for a backbone that is trained.
        where: behind which modules, see :func:`insert_attention`; where the backbone says when left out. Without
            ``attention`` it says nothing.

    Raises:
        ValueError: see :class:`Classifier` and :func:`insert_attention`.
        TypeError: ``backbone`` makes no network.

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
        backbone: NetworkFactory = SmallResNet,
        attention: Callable[[int], FeatureMapAttention] | None = None,
        where: Places | None = None,
        class_names: Sequence[str] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__(
            num_classes,
            transform,
            partial(attended, backbone=backbone, attention=attention, where=where),
            class_names,
            label_smoothing,
            mixup,
            cutmix,
            optimizer,
            lr_scheduler,
            layer_decay,
        )

    def on_train_start(self) -> None:
        """Finds the modules again that Lightning has replaced, as ``sync_batchnorm=True`` has it do."""
        follow_replaced(self.network)

    def layers(self) -> Sequence[nn.Module]:
        """The backbone, as one layer: all but the head and what was inserted."""
        own = {name: child for name, child in self.network.named_children() if name != "inserted_attention"}
        with_weights = [name for name, child in own.items() if any(True for _ in child.parameters())]
        head = ["head"] if "head" in own else with_weights[-1:]
        return [nn.ModuleList(child for name, child in own.items() if name not in head)]

    @torch.inference_mode()
    def attention_gates(self, images: Sequence[RawImage] | Tensor) -> dict[str, Tensor]:
        """What multiplies the maps, block by block, for raw images or for a batch that is transformed already.

        Returns:
            By the names of block and gate, what :meth:`FeatureMapAttention.gates` gives.
        """
        found: dict[str, Tensor] = {}

        def look(name: str, block: FeatureMapAttention, inputs: tuple[Tensor, ...]) -> None:
            found.update({f"{name} {kind}": gate for kind, gate in block.gates(*inputs).items()})

        handles = [
            block.register_forward_pre_hook(partial(look, name)) for name, block in _blocks(self.network).items()
        ]
        try:
            self.predict(self.prepare(images))
        finally:
            for handle in handles:
                handle.remove()
        return found

    def plot(self, images: Sequence[RawImage] | Tensor) -> Figure:
        """Draws, beside each image, the gates of the last block at each size of map: places over it, channels as bars.

        Args:
            images: raw images, or a batch that is transformed already, (B, C, H, W).

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
    """The blocks, by place if they were inserted, without the parts of others."""
    found: dict[str, FeatureMapAttention] = {}
    for name, module in network.named_modules():
        gated = isinstance(module.block if isinstance(module, EaseIn) else module, FeatureMapAttention)
        if gated and not any(name.startswith(f"{other}.") for other in found):
            assert isinstance(module, FeatureMapAttention)  # noqa: S101 (EaseIn is one too)
            found[name] = module
    return {name.removeprefix("inserted_attention.").replace("/", "."): block for name, block in found.items()}


def _last_of_each_kind(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of all gates with one shape, the one nearest to the output."""
    last = {tuple(gate.shape[1:]): name for name, gate in found.items()}
    return {name: gate for name, gate in found.items() if name in last.values()}
