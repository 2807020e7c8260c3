"""How varied written texts are: distinct n-grams, and how much of the vocabulary is used."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from lightning_modules.metrics.caption_metrics import CaptionTexts, NGram, Tokenize, caption_words, ngrams


class Diversity(CaptionTexts):
    """Base of what is measured of the written texts alone."""

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]] = ()) -> None:
        """Adds written texts.

        Args:
            hypotheses: the texts.
            references: not looked at; taken so that all caption metrics are updated alike.
        """
        self.keep(hypotheses)

    def written(self, order: int) -> list[NGram]:
        """All n-grams of one order that were written, on all devices where these were synchronised."""
        return list(chain.from_iterable(ngrams(self.tokenize(text), order) for text in self.kept()))


class DistinctNGrams(Diversity):
    """Distinct-n: of all n-grams that were written, how many are distinct, from 0 to 100.

    Args:
        order: n.
        tokenize: makes a text words.

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
        written = self.written(self.order)
        return torch.tensor(100 * len(set(written)) / max(len(written), 1), device=self.device)


class VocabularyUse(Diversity):
    """How many distinct words were written, or which share, from 0 to 100, of a vocabulary.

    Args:
        vocabulary_size: how many words there are to choose from; the share is of this many.
        tokenize: makes a text words.

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
        """How many distinct words, or the share of the vocabulary."""
        distinct = len(set(self.written(order=1)))
        share = distinct if self.vocabulary_size is None else 100 * distinct / self.vocabulary_size
        return torch.tensor(float(share), device=self.device)
