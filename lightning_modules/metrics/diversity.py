"""Diversity of generated texts: distinct n-grams, and use of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from lightning_modules.metrics.caption_metrics import CaptionTexts, NGram, Tokenize, caption_words, ngrams


class Diversity(CaptionTexts):
    """Base of the metrics of generated texts that need no references."""

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]] = ()) -> None:
        """Adds generated texts.

        Args:
            hypotheses: the texts.
            references: ignored; accepted so that all caption metrics are updated in the same way.
        """
        self.keep(hypotheses)

    def generated_ngrams(self, order: int) -> list[NGram]:
        """All n-grams of one order in the texts, repeated ones included."""
        return list(chain.from_iterable(ngrams(self.tokenize(text), order) for text in self.kept()))


class DistinctNGrams(Diversity):
    """Distinct-n: percentage of the generated n-grams that are distinct.

    Args:
        order: n.
        tokenize: splits a text into words.

    Raises:
        ValueError: ``order`` is not positive.

    References:
        Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".

    Example:
        >>> metric = DistinctNGrams(order=2)
        >>> metric.update(["a dog runs", "a dog sits"])
        >>> metric.compute()
        tensor(75.)
    """

    def __init__(self, order: int = 1, tokenize: Tokenize = caption_words) -> None:
        super().__init__(tokenize)
        if order < 1:
            raise ValueError(f"order must be 1 or more, got {order}")
        self.order = order

    def compute(self) -> Tensor:
        """Distinct-n, from 0 to 100."""
        found = self.generated_ngrams(self.order)
        return torch.tensor(100 * len(set(found)) / max(len(found), 1), device=self.device)


class VocabularyUse(Diversity):
    """Number of distinct generated words, or their percentage of a vocabulary.

    Args:
        vocabulary_size: number of words in the vocabulary; if omitted, the metric is the number of distinct words.
        tokenize: splits a text into words.

    Raises:
        ValueError: ``vocabulary_size`` is not positive.

    Example:
        >>> metric = VocabularyUse()
        >>> metric.update(["a dog runs", "a dog sits"])
        >>> metric.compute()
        tensor(4.)
        >>> metric = VocabularyUse(vocabulary_size=16)
        >>> metric.update(["a dog runs", "a dog sits"])
        >>> metric.compute()
        tensor(25.)
    """

    def __init__(self, vocabulary_size: int | None = None, tokenize: Tokenize = caption_words) -> None:
        super().__init__(tokenize)
        if vocabulary_size is not None and vocabulary_size < 1:
            raise ValueError(f"vocabulary_size must be 1 or more, got {vocabulary_size}; None counts the words instead")
        self.vocabulary_size = vocabulary_size

    def compute(self) -> Tensor:
        """Number of distinct words, or their percentage of the vocabulary, from 0 to 100."""
        distinct = len(set(self.generated_ngrams(order=1)))
        found = distinct if self.vocabulary_size is None else 100 * distinct / self.vocabulary_size
        return torch.tensor(float(found), device=self.device)
