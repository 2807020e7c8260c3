"""The base of every image classifier: loss, mixing, metrics, and named classes of raw images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix
from torchvision.transforms import v2

from datamodules.images.image_transform import ImageTransform, RawImage
from lightning_modules.plots.figures import log_figure
from lightning_modules.system.evaluation import evaluation_view
from lightning_modules.system.system import System

NetworkFactory = Callable[[int, tuple[int, int], int], nn.Module]
ImageBatch = tuple[Tensor, Tensor]


class Classification(NamedTuple):
    """One predicted class of an image.

    Attributes:
        label: the class's name, or its number as text if the names are not known.
        probability: from 0 to 1.
    """

    label: str
    probability: float


class Classifier(System):
    """Trains any network that maps (B, C, H, W) to (B, num_classes) logits.

    Args:
        num_classes: K; linked to the data by the command line.
        transform: turns a raw image into the network's input; linked to the data by the command line.
        network: creates the network as ``network(num_classes, (height, width), channels)``.
        class_names: one per class, in order; linked to the data by the command line.
        label_smoothing: fraction of the target's probability that is spread over all classes.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off. With both on, each batch takes one of them at random.
        **arguments: those of :class:`System`.

    Attributes:
        network: the plain network, usable without a trainer.

    Raises:
        ValueError: fewer than two classes, names that do not match their number, a fraction or alpha out of range.

    References:
        Szegedy et al. 2016, "Rethinking the Inception Architecture" (label smoothing); Zhang et al. 2018, "mixup";
        Yun et al. 2019, "CutMix"; Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """

    def __init__(
        self,
        num_classes: int,
        transform: ImageTransform,
        network: NetworkFactory,
        class_names: Sequence[str] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**arguments)
        if not num_classes or num_classes < 2:  # None where the data does not say
            raise ValueError(f"num_classes must be 2 or more, got {num_classes}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"class_names has {len(class_names)} names for num_classes={num_classes}; give one per class"
            )
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if alpha < 0.0:
                raise ValueError(f"{name} is the alpha of a beta distribution and must be 0 (off) or more, got {alpha}")
        self.class_names = [str(n) for n in (range(num_classes) if class_names is None else class_names)]
        self.transform = transform
        self.network = network(num_classes, transform.image_size, transform.channels)
        self._label_smoothing = label_smoothing
        self._mixes: list[nn.Module] = []
        if mixup:
            self._mixes.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            self._mixes.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        scores = MetricCollection({"accuracy": MulticlassAccuracy(num_classes, average="micro")})
        self.val_metrics = scores.clone(prefix="val/")
        self.test_metrics = scores.clone(prefix="test/")
        self.test_metrics.add_metrics({"calibration_error": MulticlassCalibrationError(num_classes)})
        self.confusion_matrix = MulticlassConfusionMatrix(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of transformed images, (B, C, H, W)."""
        return self.network(images)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of a batch of images and class numbers, mixed if configured."""
        images, labels = batch
        if self._mixes:
            images, labels = self._mixes[int(torch.randint(len(self._mixes), ()))](images, labels)
        loss = F.cross_entropy(self(images), labels, label_smoothing=self._label_smoothing)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Accuracy, and the cross-entropy without smoothing."""
        self._evaluate(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Accuracy, calibration error, cross-entropy, and the confusion matrix."""
        logits = self._evaluate(batch, self.test_metrics, "test/loss")
        self.confusion_matrix.update(logits, batch[1])

    def on_test_epoch_end(self) -> None:
        """Draws the confusion matrix into the logger."""
        figure = Figure(layout="constrained")
        few = len(self.class_names) <= 20
        self.confusion_matrix.plot(ax=figure.subplots(), labels=self.class_names, add_text=few)
        log_figure(self.trainer, "test/confusion_matrix", figure)
        self.confusion_matrix.reset()

    def predict_step(self, batch: ImageBatch | Tensor, batch_idx: int) -> Tensor:
        """Probabilities, (B, num_classes), of images with or without labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self(images).softmax(dim=-1)

    def prediction_records(self, batch: ImageBatch | Tensor, predictions: Tensor) -> list[dict[str, object]]:
        """The most probable class of each image and its probability."""
        probabilities, classes = predictions.max(dim=-1)
        return [
            {"label": self.class_names[number], "probability": probability}
            for number, probability in zip(classes.tolist(), probabilities.tolist(), strict=True)
        ]

    def classify(self, images: Sequence[RawImage] | Tensor, top: int = 5) -> list[list[Classification]]:
        """Classifies raw images.

        Args:
            images: PIL images, arrays (H, W[, C]), tensors (C, H, W) or paths, of any size; or one tensor,
                (B, C, H, W), of transformed images.
            top: number of classes per image, the most probable first.

        Returns:
            The classes of each image.

        Raises:
            ValueError: ``top`` is below 1, there is no image, or one cannot be read.
            TypeError: the images are not in a list.
        """
        if top < 1:
            raise ValueError(f"top must be 1 or more, got {top}")
        probabilities = self.predict(self.prepare(images)).softmax(dim=-1)
        best = probabilities.topk(min(top, probabilities.size(-1)))
        return [
            [Classification(self.class_names[index], probability) for index, probability in zip(*row, strict=True)]
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def prepare(self, images: Sequence[RawImage] | Tensor) -> Tensor:
        """Raw images, or transformed ones, as one batch for the network, (B, C, H, W), on the system's device."""
        return self.transform.batch(images).to(self.device)

    def export_inputs(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, str], ...]]:
        """See :meth:`System.export_inputs`."""
        height, width = self.transform.image_size
        return (torch.randn(2, self.transform.channels, height, width),), ({0: "batch"},)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits in evaluation mode, whatever mode the network is in."""
        logits: Tensor = evaluation_view(self)(images)
        return logits

    def _evaluate(self, batch: ImageBatch, metrics: MetricCollection, loss_name: str) -> Tensor:
        images, labels = batch
        logits = self(images)
        metrics.update(logits, labels)
        self.log_dict(metrics, prog_bar=True, on_epoch=True)
        self.log(loss_name, F.cross_entropy(logits, labels), on_epoch=True, batch_size=len(images), sync_dist=True)
        return logits
