"""Translation with an RNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.translation.rnn_translator import RNNTranslator
from lightning_modules.translation.seq2seq import Seq2Seq


class RNNSeq2Seq(Seq2Seq):
    """Translates with an RNN encoder-decoder, with any attention or without.

    Args:
        source_tokenizer: tokenizer of the input text.
        target_tokenizer: tokenizer of the generated text.
        network: creates the network from the two vocabulary sizes.
        **arguments: those of :class:`Seq2Seq`; see :class:`ScheduledSampling` for an ``objective`` of RNNs.
    """

    network: RNNTranslator

    def __init__(
        self,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        network: Callable[[int, int], RNNTranslator] = RNNTranslator,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(source_tokenizer, target_tokenizer, network, **arguments)
