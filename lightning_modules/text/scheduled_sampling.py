"""Scheduled sampling as a training objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_modules.text.rnn_text_decoder import RNNTextDecoder
from lightning_modules.text.text_decoder import TextDecoder
from lightning_modules.text.text_generator import Likelihood, TextGenerator


@dataclass(frozen=True)
class ScheduledSampling(Likelihood):
    """Maximum likelihood of an RNN that reads a growing fraction of its own predictions instead of the target.

    Args:
        label_smoothing: fraction of each target's probability that is spread over the vocabulary.
        fraction: of the tokens that the decoder predicted itself at the last training step; it rises linearly from 0
            at the first.

    Raises:
        ValueError: a value is out of its range; the decoder is not an RNN; or, in training, the training has no end.

    References:
        Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks".

    Example:
        >>> ScheduledSampling(fraction=0.5)
        ScheduledSampling(label_smoothing=0.0, fraction=0.5)
    """

    fraction: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction must lie in [0, 1], got {self.fraction}")

    def check(self, decoder: TextDecoder) -> None:
        """See :meth:`Objective.check`."""
        if not isinstance(decoder, RNNTextDecoder):
            raise ValueError(f"objective={self} trains RNN decoders, got a {type(decoder).__name__}; use Likelihood")

    def loss(self, system: TextGenerator, batch: Any) -> Tensor:  # noqa: ANN401
        """See :meth:`Objective.loss`."""
        target = system.target(batch)
        fraction = self.fraction * system.progress()
        features = system.decoder(target[:, :-1], system.encode(batch), sampling=fraction)
        return self.cross_entropy(system, features, target)
