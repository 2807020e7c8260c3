"""RNN encoder-decoders: one sentence is read into states, and another is written from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.system.system import adamw
from lightning_modules.translation.rnn_translator import RNNTranslator
from lightning_modules.translation.seq2seq import Seq2Seq


class RNNSeq2Seq(Seq2Seq):
    """Translates with an RNN encoder-decoder, with any attention or without.

    Args:
        source_tokenizer: of the text that is read.
        target_tokenizer: of the text that is written.
        network: makes the network from the two vocabulary sizes.
        label_smoothing: share of each target that is spread over the vocabulary.
        scheduled_sampling: the share of the tokens that the decoder reads from itself in training; it rises from 0 at
            the first step linearly to this at the last.
        strategy: how text is written in tests, predictions and :meth:`translate`; validation writes greedily.
        optimizer: makes the optimiser.
        lr_scheduler: makes the schedule.

    References:
        Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks".
    """

    network: RNNTranslator

    def __init__(
        self,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        network: Callable[[int, int], RNNTranslator] = RNNTranslator,
        label_smoothing: float = 0.0,
        scheduled_sampling: float = 0.0,
        strategy: DecodingStrategy | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            source_tokenizer, target_tokenizer, network, label_smoothing, strategy, optimizer, lr_scheduler
        )
        if not 0.0 <= scheduled_sampling <= 1.0:
            raise ValueError(f"scheduled_sampling must lie in [0, 1], got {scheduled_sampling}")
        self._scheduled_sampling = scheduled_sampling

    def decoder_arguments(self) -> Mapping[str, float]:
        """How much the decoder reads from itself by now."""
        if not (self.training and self._scheduled_sampling):
            return {}
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("scheduled_sampling needs the training's length; give the trainer max_epochs or max_steps")
        return {"sampling": self._scheduled_sampling * min(1.0, self.global_step / max(1, steps - 1))}
