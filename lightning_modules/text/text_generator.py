"""The base of every system that writes text: its loss, its metrics from real decoding, its samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
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
from lightning_modules.system.system import System, adamw
from lightning_modules.text.linear_cross_entropy import linear_cross_entropy
from lightning_modules.text.text_decoder import Encoded, TextDecoder


class TextGenerator(System):
    """Base of every system that writes text; a subclass says what is read, in :meth:`encode`.

    Args:
        target_tokenizer: of the text that is written.
        network: has the :class:`TextDecoder` as its ``decoder``.
        label_smoothing: share of each target that is spread over the vocabulary.
        strategy: how text is written in tests and predictions, a beam of 5 when left out; validation, of which there
            is much, writes greedily.
        optimizer: makes the optimiser.
        lr_scheduler: makes the schedule.
        layer_decay: each of :meth:`layers`, from the last one down, learns at this share of the rate of what is above.

    Raises:
        ValueError: ``label_smoothing`` outside [0, 1).
    """

    def __init__(
        self,
        target_tokenizer: Tokenizer,
        network: nn.Module,
        label_smoothing: float = 0.0,
        strategy: DecodingStrategy | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, layer_decay)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.target_tokenizer = target_tokenizer
        self.network = network
        self.strategy = BeamSearch() if strategy is None else strategy
        self._label_smoothing = label_smoothing
        self.val_scores = TextScores(self.text_metrics())
        self.test_scores = TextScores(self.text_metrics())

    @property
    def decoder(self) -> TextDecoder:
        """What writes."""
        decoder = self.network.decoder
        if not isinstance(decoder, TextDecoder):
            raise TypeError(f"the decoder of network must be a TextDecoder, got {type(decoder).__name__}")
        return decoder

    def encode(self, batch: Any) -> Encoded:  # noqa: ANN401
        """What of a batch the decoder reads."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(batch)")

    def target(self, batch: Any) -> Tensor:  # noqa: ANN401
        """The tokens that should be written, (B, T), from the first to the last special one, padded."""
        raise NotImplementedError(f"{type(self).__name__} must define target(batch)")

    def references(self, batch: Any) -> list[list[str]]:  # noqa: ANN401
        """For each sentence of a batch the texts that what is written is compared with."""
        raise NotImplementedError(f"{type(self).__name__} must define references(batch)")

    def length_limit(self, batch: Any) -> int | Tensor:  # noqa: ANN401
        """How many tokens may be written at most, (B,) or one number for all."""
        raise NotImplementedError(f"{type(self).__name__} must define length_limit(batch)")

    def text_metrics(self) -> dict[str, Metric]:
        """What is measured of written text, besides the share that is exact: BLEU, with case and without, and chrF."""
        return {"bleu": CorpusBLEU(), "bleu_lower": CorpusBLEU(lowercase=True), "chrf": CorpusCHRF()}

    def decoder_arguments(self) -> Mapping[str, float]:
        """Further arguments of the decoder in training; none unless a system has some."""
        return {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401
        """See :meth:`loss`."""
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(self.target(batch)))
        return loss

    def loss(self, batch: Any) -> Tensor:  # noqa: ANN401
        """What is trained for: cross-entropy of each token given those before it, a mean over the tokens."""
        target = self.target(batch)
        features = self.decoder(target[:, :-1], self.encode(batch), **self.decoder_arguments())
        return self.cross_entropy(features, target, self._label_smoothing)

    def cross_entropy(self, features: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        """Of the tokens that are no padding, their mean.

        Args:
            features: (B, T - 1, R), from which each next token is told.
            target: (B, T), as :meth:`target` gives it.
            label_smoothing: share of each target that is spread over the vocabulary.
        """
        labels, output = target[:, 1:], self.decoder.output
        real = labels != self.target_tokenizer.pad_id
        return linear_cross_entropy(
            features[real], output.weight, output.bias, labels[real], label_smoothing=label_smoothing
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Loss and token accuracy of the given text, and what is written greedily."""
        self._evaluate(batch, self.val_scores, BeamSearch(size=1))

    def on_validation_epoch_end(self) -> None:
        """Logs loss, perplexity, token accuracy, BLEU and chrF."""
        self._finish("val", self.val_scores)

    def test_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """As validation, written by :attr:`strategy`."""
        self._evaluate(batch, self.test_scores, self.strategy)

    def on_test_epoch_end(self) -> None:
        """Logs what validation logs, and says by which signatures BLEU and chrF can be compared."""
        self._finish("test", self.test_scores)
        for name, signature in self.test_scores.signatures().items():
            rank_zero_info(f"test/{name}: {signature}")

    def predict_step(self, batch: Any, batch_idx: int) -> list[str]:  # noqa: ANN401
        """What is written for each sentence or image."""
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
        """The best hypotheses for each row of a batch, the best one first.

        Args:
            batch: as the data gives it.
            strategy: the system's own when left out.
            n_best: how many for each.
            need_weights: also tell where each token was looked for.
            memory: the batch as :meth:`encode` gives it, where that is known already.
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
        features, labels = self.decoder(target[:, :-1], memory), target[:, 1:]
        real = labels != self.target_tokenizer.pad_id
        # Of what is no padding alone: one text of a thousand words makes all others as long.
        logits, labels = self.decoder.output(features[real]).float(), labels[real]
        scores.loss.update(F.cross_entropy(logits, labels, reduction="none"))
        scores.accuracy.update((logits.argmax(dim=-1) == labels).float())
        scores.update(self.texts(self.write(batch, strategy, memory=memory)), self.references(batch))

    def _finish(self, stage: str, scores: TextScores) -> None:
        found = scores.compute()
        shown = {f"{stage}/{name}": value for name, value in found.items() if math.isfinite(value)}
        self.log_dict(
            shown, prog_bar=True, sync_dist=True
        )  # the same in every process already; said for Lightning's sake
