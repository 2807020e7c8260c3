"""Translation with a Transformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.translation import marian
from lightning_modules.translation.seq2seq import Seq2Seq
from lightning_modules.translation.transformer_translator import TransformerTranslator

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformerSeq2Seq(Seq2Seq):
    """Translates with a Transformer.

    :meth:`from_marian` starts from any of the more than a thousand language pairs of OPUS-MT.

    Args:
        source_tokenizer: tokenizer of the input text.
        target_tokenizer: tokenizer of the generated text.
        network: creates the network from the two vocabulary sizes.
        **arguments: those of :class:`Seq2Seq`.
    """

    network: TransformerTranslator

    def __init__(
        self,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        network: Callable[[int, int], TransformerTranslator] = TransformerTranslator,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(source_tokenizer, target_tokenizer, network, **arguments)

    @classmethod
    def from_marian(
        cls,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> Self:
        """A Marian model of Hugging Face's ``transformers``, with its weights, tokenizers and beam.

        Args:
            model: a folder, the name of a model such as "Helsinki-NLP/opus-mt-de-en", or the loaded model.
            tokenizer: the loaded tokenizer, of a loaded model.
            **arguments: constructor arguments of this class, such as the optimiser to fine-tune with.

        Raises:
            ImportError: ``transformers`` or ``sentencepiece`` is not installed.
            ValueError: the model is not a Marian model, or has parts that OPUS-MT's models do not have.
        """
        theirs, their_tokenizer = marian.load_marian(model, tokenizer)
        source, target = marian.tokenizers_like(theirs, their_tokenizer)
        settings = {"strategy": marian.beam_like(theirs), **arguments}
        ours = cls(source, target, network=marian.network_like(theirs), **settings)
        ours.network.load_state_dict(marian.renamed_state(theirs, ours.network))
        return ours
