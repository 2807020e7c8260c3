"""Doubly stochastic attention as a training objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from lightning_modules.text.rnn_text_decoder import RNNTextDecoder
from lightning_modules.text.text_decoder import TextDecoder
from lightning_modules.text.text_generator import Likelihood, TextGenerator


@dataclass(frozen=True)
class DoublyStochastic(Likelihood):
    r"""Maximum likelihood of an RNN that is encouraged to attend to every location equally often in total.

    To the negative log-likelihood of each text it adds :math:`λ Σ_i (1 - Σ_t α_{ti})^2`, over all locations i and
    generated tokens t.

    Args:
        label_smoothing: fraction of each target's probability that is spread over the vocabulary.
        weight: λ.

    Raises:
        ValueError: a value is out of its range, or the decoder is not an RNN with attention.

    References:
        Xu et al. 2015, "Show, Attend and Tell", section 4.2.1.

    Example:
        >>> DoublyStochastic(label_smoothing=0.1)
        DoublyStochastic(label_smoothing=0.1, weight=1.0)
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0.0:
            raise ValueError(f"weight must be 0 (off) or more, got {self.weight}")

    def check(self, decoder: TextDecoder) -> None:
        """See :meth:`Objective.check`."""
        if not (isinstance(decoder, RNNTextDecoder) and decoder.attends):
            raise ValueError(
                f"objective={self} trains RNN decoders with attention, got a {type(decoder).__name__}; use Likelihood"
            )

    def loss(self, system: TextGenerator, batch: Any) -> Tensor:  # noqa: ANN401
        """See :meth:`Objective.loss`."""
        target, decoder = system.target(batch), cast(RNNTextDecoder, system.decoder)
        features, weights = decoder.unroll(target[:, :-1], system.encode(batch), need_weights=True)
        real = target[:, 1:] != system.target_tokenizer.pad_id  # (B, T - 1)
        total = (cast(Tensor, weights) * real[..., None]).sum(dim=1)  # (B, T_k)
        # Divided by the number of tokens, as the mean cross-entropy is.
        penalty = self.weight * (1.0 - total).square().sum() / real.sum()
        return self.cross_entropy(system, features, target) + penalty
