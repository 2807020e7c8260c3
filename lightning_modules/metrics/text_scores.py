"""Loss, token accuracy and text metrics of one evaluation loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from lightning_modules.metrics.text_metrics import CorpusScore


class TextScores(nn.Module):
    """Metrics of one evaluation loop over generated text.

    Args:
        texts: metrics by name; their ``update`` takes generated texts and the references of each.

    Attributes:
        loss: mean cross-entropy per token, without label smoothing, in nats.
        accuracy: fraction of tokens that are predicted correctly given all tokens before them.
        exact: fraction of texts that equal a reference.
        texts: as given.
    """

    def __init__(self, texts: Mapping[str, Metric]) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.accuracy = MeanMetric()
        self.exact = MeanMetric()
        self.texts = nn.ModuleDict(texts)

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds generated texts and their references."""
        same = [float(text in several) for text, several in zip(hypotheses, references, strict=True)]
        self.exact.update(torch.tensor(same))
        for metric in self.texts.values():
            cast(Metric, metric).update(hypotheses, references)

    def compute(self) -> dict[str, Tensor]:
        """All scores, with the perplexity; then resets them for the next loop."""
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
        """Settings to print next to the scores that others compute differently."""
        return {name: metric.signature() for name, metric in self.texts.items() if isinstance(metric, CorpusScore)}
