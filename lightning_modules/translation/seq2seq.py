"""The base of every system that translates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from sacrebleu import sentence_chrf
from torch import Tensor

from datamodules.text.text_batch import TextBatch
from datamodules.tokenizers.tokenizer import Tokenizer
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.plots.figures import NoAttentionError, alignment
from lightning_modules.system.evaluation import evaluation_view
from lightning_modules.text.text_decoder import Encoded
from lightning_modules.text.text_generator import TextGenerator
from lightning_modules.translation.seq2seq_network import Seq2SeqNetwork


class Seq2Seq(TextGenerator):
    """Translates with any network.

    Args:
        source_tokenizer: tokenizer of the input text; linked to the data by the command line.
        target_tokenizer: tokenizer of the generated text; linked to the data by the command line.
        network: creates the network as ``network(source_vocab_size, target_vocab_size)``.
        **arguments: those of :class:`TextGenerator`.
    """

    network: Seq2SeqNetwork

    def __init__(
        self,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        network: Callable[[int, int], Seq2SeqNetwork],
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(target_tokenizer, network(len(source_tokenizer), len(target_tokenizer)), **arguments)
        self.source_tokenizer = source_tokenizer

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Logits, (B, T, V); see :meth:`Seq2SeqNetwork.forward`."""
        return self.network(source, lengths, target)

    def encode(self, batch: TextBatch) -> Encoded:
        """See :meth:`TextGenerator.encode`."""
        return self.network.encode(batch.source, batch.source_lengths)

    def target(self, batch: TextBatch) -> Tensor:
        """See :meth:`TextGenerator.target`."""
        return batch.target

    def references(self, batch: TextBatch) -> list[list[str]]:
        """See :meth:`TextGenerator.references`."""
        return [[text] for text in batch.target_texts]

    def rewards(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        """ChrF of each sentence, from 0 to 1; see :meth:`TextGenerator.rewards`."""
        scores = [sentence_chrf(text, list(several)).score for text, several in zip(texts, references, strict=True)]
        return torch.tensor(scores, device=self.device) / 100

    def length_limit(self, batch: TextBatch) -> Tensor:
        """Four times the source's length plus 16, which only endless repetition reaches."""
        return 4 * batch.source_lengths + 16

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """Raw text as a batch without targets, on the system's device."""
        eos, pad = self.source_tokenizer.eos_id, self.source_tokenizer.pad_id
        ids = [[*tokens, eos] for tokens in self.source_tokenizer.encode(texts)]
        lengths = torch.tensor([len(tokens) for tokens in ids], device=self.device)
        longest = max(len(tokens) for tokens in ids)
        source = torch.tensor([tokens + [pad] * (longest - len(tokens)) for tokens in ids], device=self.device)
        empty = lengths.new_zeros(len(ids))
        return TextBatch(source, lengths, source[:, :0], empty, list(texts), [""] * len(ids), list(range(len(ids))))

    def prediction_records(self, batch: TextBatch, predictions: Sequence[str]) -> list[dict[str, object]]:
        """The translation of each sentence, and the sentence."""
        rows = zip(predictions, batch.source_texts, strict=True)
        return [{"translation": translation, "source": source} for translation, source in rows]

    def export_inputs(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, str], ...]]:
        """See :meth:`System.export_inputs`."""
        source = torch.randint(len(self.source_tokenizer), (2, 7))
        target = torch.randint(len(self.target_tokenizer), (2, 5))
        target[:, 0] = self.target_tokenizer.bos_id
        axes = ({0: "batch", 1: "source_length"}, {0: "batch"}, {0: "batch", 1: "target_length"})
        return (source, torch.tensor([7, 4]), target), axes

    def translate(
        self, texts: Sequence[str], strategy: DecodingStrategy | None = None, *, batch_size: int = 64
    ) -> list[str]:
        """Translates sentences, in their order; an empty sentence stays empty.

        Args:
            texts: raw text.
            strategy: defaults to the system's own.
            batch_size: sentences per batch; sentences of similar length share one.

        Raises:
            TypeError: ``texts`` is a single text instead of a list.
            ValueError: ``batch_size`` is below 1.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of sentences, got one str; put it in a list")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        translations = [""] * len(texts)
        view = evaluation_view(self)
        with torch.inference_mode():
            for indices in _by_length(texts, batch_size):
                written = view.texts(view.write(view.prepare([texts[index] for index in indices]), strategy))
                for index, text in zip(indices, written, strict=True):
                    translations[index] = text
        return translations

    def plot(self, texts: Sequence[str]) -> Figure:
        """Draws the attention of each generated token over its source sentence.

        Args:
            texts: raw text.

        Raises:
            NoAttentionError: the decoder has no attention.
            ValueError: there is no text.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts must be a list of at least one sentence, got {texts!r}")
        if not self.decoder.attends:
            raise NoAttentionError(f"{type(self.decoder).__name__} has no attention, so there is no map to draw")
        batch = self.prepare(texts)
        with torch.inference_mode():
            best = [hypotheses[0] for hypotheses in evaluation_view(self).write(batch, need_weights=True)]
        lengths = batch.source_lengths.tolist()
        maps = [cast(Tensor, one.weights)[:, :n] for one, n in zip(best, lengths, strict=True)]
        sources = [self.source_tokenizer.tokens(row[:n]) for row, n in zip(batch.source.tolist(), lengths, strict=True)]
        return alignment(maps, sources, [self.target_tokenizer.tokens(hypothesis.tokens) for hypothesis in best])


def _by_length(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Indices of the texts that are not empty, the longest first, batch by batch."""
    indices = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]), reverse=True)
    for start in range(0, len(indices), batch_size):
        yield indices[start : start + batch_size]
