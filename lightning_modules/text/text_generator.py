"""The base of every system that generates text, and of what it is trained for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.decoder import Hypothesis
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.generation.engine import generate
from lightning_modules.metrics.text_metrics import CorpusBLEU, CorpusCHRF
from lightning_modules.metrics.text_scores import TextScores
from lightning_modules.system.system import System
from lightning_modules.text.cross_entropy import cross_entropy
from lightning_modules.text.text_decoder import Encoded, TextDecoder


class TextGenerator(System):
    """Base of every system that generates text; a subclass defines its input in :meth:`encode`.

    Args:
        target_tokenizer: tokenizer of the generated text.
        network: has a :class:`TextDecoder` as its ``decoder``.
        objective: what the system is trained for; defaults to :class:`Likelihood`.
        strategy: how text is generated in tests and predictions; defaults to a beam search of size 5. Validation
            always decodes greedily.
        **arguments: those of :class:`System`.

    Raises:
        ValueError: the objective cannot train this decoder.
    """

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        network: nn.Module,
        objective: Objective | None = None,
        strategy: DecodingStrategy | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**arguments)
        self.target_tokenizer = target_tokenizer
        self.network = network
        self.objective = Likelihood() if objective is None else objective
        self.strategy = BeamSearch() if strategy is None else strategy
        self.val_scores = TextScores(self.text_metrics())
        self.test_scores = TextScores(self.text_metrics())
        self.objective.check(self.decoder)

    @property
    def decoder(self) -> TextDecoder:
        """The network's text decoder."""
        decoder = self.network.decoder
        if not isinstance(decoder, TextDecoder):
            raise TypeError(f"the decoder of network must be a TextDecoder, got {type(decoder).__name__}")
        return decoder

    def encode(self, batch: Any) -> Encoded:  # noqa: ANN401
        """The decoder's memory of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(batch)")

    def target(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Target tokens, (B, T) int64, from the beginning to the end of the sentence, padded."""
        raise NotImplementedError(f"{type(self).__name__} must define target(batch)")

    def references(self, batch: Any) -> list[list[str]]:  # noqa: ANN401
        """Reference texts of each row of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define references(batch)")

    def length_limit(self, batch: Any) -> int | Tensor:  # noqa: ANN401
        """Maximum number of generated tokens, (B,) or one number for all rows."""
        raise NotImplementedError(f"{type(self).__name__} must define length_limit(batch)")

    def rewards(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        """Score of each text, the higher the better, (n,), which :class:`SelfCritical` maximises.

        Args:
            texts: n generated texts.
            references: reference texts of each.
        """
        raise NotImplementedError(f"{type(self).__name__} must define rewards(texts, references)")

    def text_metrics(self) -> dict[str, Metric]:
        """Metrics of generated text: BLEU, cased and lower-cased, and chrF; the exact match is always computed."""
        return {"bleu": CorpusBLEU(), "bleu_lower": CorpusBLEU(lowercase=True), "chrf": CorpusCHRF()}

    def progress(self) -> float:
        """Fraction of the training that is done, 0 at the first step and 1 at the last.

        Raises:
            ValueError: the training has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                f"objective={self.objective} needs the training's length; give the trainer max_epochs or max_steps"
            )
        return min(1.0, self.global_step / max(1, steps - 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401
        """The loss of :attr:`objective`."""
        loss = self.objective.loss(self, batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(self.target(batch)))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Loss and token accuracy under teacher forcing, and the metrics of greedily decoded text."""
        self._evaluate(batch, self.val_scores, BeamSearch(size=1))

    def on_validation_epoch_end(self) -> None:
        """Logs loss, perplexity, token accuracy and the text metrics."""
        self._finish("val", self.val_scores)

    def test_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """As in validation, with text generated by :attr:`strategy`."""
        self._evaluate(batch, self.test_scores, self.strategy)

    def on_test_epoch_end(self) -> None:
        """Logs what validation logs, and prints the signatures of BLEU and chrF."""
        self._finish("test", self.test_scores)
        for name, signature in self.test_scores.signatures().items():
            rank_zero_info(f"test/{name}: {signature}")

    def predict_step(self, batch: Any, batch_idx: int) -> list[str]:  # noqa: ANN401
        """The generated text of each row."""
        return self.texts(self.write(batch))

    def write(
        self,
        batch: Any,  # noqa: ANN401
        strategy: DecodingStrategy | None = None,
        *,
        n_best: int = 1,
        need_weights: bool = False,
        memory: Encoded | None = None,
    ) -> list[list[Hypothesis]]:
        """Generates the best hypotheses of each row of a batch, the best one first.

        Args:
            batch: a batch of the DataModule.
            strategy: defaults to the system's own.
            n_best: number of hypotheses per row.
            need_weights: also return attention maps.
            memory: the batch as :meth:`encode` returns it, if it is known already.
        """
        tokenizer = self.target_tokenizer
        return generate(
            self.decoder,
            self.encode(batch) if memory is None else memory,
            self.strategy if strategy is None else strategy,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            unk_id=tokenizer.unk_id,
            max_length=self.length_limit(batch),
            n_best=n_best,
            need_weights=need_weights,
        )

    def texts(self, hypotheses: Sequence[Sequence[Hypothesis]]) -> list[str]:
        """The text of each best hypothesis."""
        return self.target_tokenizer.decode([best[0].tokens for best in hypotheses])

    def _evaluate(self, batch: Any, scores: TextScores, strategy: DecodingStrategy) -> None:  # noqa: ANN401
        target, memory = self.target(batch), self.encode(batch)
        features, labels = self.decoder(target[:, :-1], memory), target[:, 1:]  # (B, T - 1, R), (B, T - 1)
        real = labels != self.target_tokenizer.pad_id
        # Logits of real tokens only: one text of a thousand words would make all others as long.
        logits, labels = self.decoder.output(features[real]).float(), labels[real]  # (M, V), (M,)
        scores.loss.update(F.cross_entropy(logits, labels, reduction="none"))
        scores.accuracy.update((logits.argmax(dim=-1) == labels).float())
        scores.update(self.texts(self.write(batch, strategy, memory=memory)), self.references(batch))

    def _finish(self, stage: str, scores: TextScores) -> None:
        found = scores.compute()
        shown = {f"{stage}/{name}": value for name, value in found.items() if math.isfinite(value)}
        # Equal in every process already; Lightning asks for it all the same.
        self.log_dict(shown, prog_bar=True, sync_dist=True)


class Objective(ABC):
    """Base of what a :class:`TextGenerator` is trained for; a frozen dataclass, so that checkpoints can describe it."""

    def check(self, decoder: TextDecoder) -> None:  # noqa: B027 # most objectives train any decoder
        """Refuses a decoder that cannot be trained for this objective.

        Raises:
            ValueError: the decoder is of the wrong kind.
        """

    @abstractmethod
    def loss(self, system: TextGenerator, batch: Any) -> Tensor:  # noqa: ANN401
        """Loss of a batch, a scalar.

        Args:
            system: the system in training.
            batch: a batch of its DataModule.
        """


@dataclass(frozen=True)
class Likelihood(Objective):
    """Maximum likelihood: mean cross-entropy of each target token given those before it.

    Args:
        label_smoothing: fraction of each target's probability that is spread over the vocabulary.

    Raises:
        ValueError: ``label_smoothing`` outside [0, 1).

    References:
        Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision" (label smoothing).

    Example:
        >>> Likelihood(label_smoothing=0.1)
        Likelihood(label_smoothing=0.1)
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")

    def loss(self, system: TextGenerator, batch: Any) -> Tensor:  # noqa: ANN401
        """See :meth:`Objective.loss`."""
        target = system.target(batch)
        return self.cross_entropy(system, system.decoder(target[:, :-1], system.encode(batch)), target)

    def cross_entropy(self, system: TextGenerator, features: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of the tokens that are not padding.

        Args:
            system: the system in training.
            features: the decoder's, (B, T - 1, R), from which each next token is predicted.
            target: target tokens, (B, T) int64.
        """
        labels = target[:, 1:]
        real = labels != system.target_tokenizer.pad_id
        logits = system.decoder.output(features[real])  # (M, V)
        return cross_entropy(logits, labels[real], label_smoothing=self.label_smoothing)
