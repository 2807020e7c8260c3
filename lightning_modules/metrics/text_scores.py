"""Loss, token accuracy and text metrics of one evaluation loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from lightning_modules.metrics.text_metrics import CorpusScore


class TextScores(nn.Module):
    """What is measured of written text in one loop over a set.

    Args:
        texts: by their names, metrics whose ``update`` takes what was written, and for each text its references.

    Attributes:
        loss: cross-entropy a token, without smoothing, in nats.
        accuracy: share of tokens foretold right where all before them are given.
        exact: share of the texts that are written just like a reference.
        texts: the metrics of what was really written.
    """

    def __init__(self, texts: Mapping[str, Metric]) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.accuracy = MeanMetric()
        self.exact = MeanMetric()
        self.texts = nn.ModuleDict(texts)

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds written sentences and what they are compared with."""
        same = [float(text in several) for text, several in zip(hypotheses, references, strict=True)]
        self.exact.update(torch.tensor(same))
        for metric in self.texts.values():
            cast(Metric, metric).update(hypotheses, references)

    def compute(self) -> dict[str, Tensor]:
        """All of them, perplexity too, and the start of a new loop."""
        loss = self.loss.compute()
        scores = {
            "loss": loss,
            "perplexity": torch.exp(loss),
            "token_accuracy": self.accuracy.compute(),
            "exact": self.exact.compute(),
            **{name: cast(Metric, metric).compute() for name, metric in self.texts.items()},
        }
        for metric in (self.loss, self.accuracy, self.exact, *self.texts.values()):
            cast(Metric, metric).reset()
        return scores

    def signatures(self) -> dict[str, str]:
        """What to print beside those numbers that others compute in other ways."""
        return {name: metric.signature() for name, metric in self.texts.items() if isinstance(metric, CorpusScore)}
