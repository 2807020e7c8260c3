"""CIDEr-D: agreement of a caption with the references of its image, by weighted n-grams."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.metrics.caption_metrics import (
    ORDERS,
    CaptionTexts,
    NGram,
    Tokenize,
    caption_words,
    check_captions,
    count_ngrams,
)

SIGMA = 6.0


class WeightedNGrams(NamedTuple):
    """TF-IDF weights of a text's n-grams.

    Attributes:
        weights: count of each n-gram times its inverse document frequency.
        norms: Euclidean norm of the weights of each order.
        length: number of bigrams.
    """

    weights: dict[NGram, float]
    norms: list[float]
    length: int

    def similarity(self, reference: WeightedNGrams) -> float:
        """Mean over the orders of the cosine similarity, with weights clipped to the reference's."""
        products = [0.0] * ORDERS
        for ngram, weight in self.weights.items():
            other = reference.weights.get(ngram, 0.0)
            products[len(ngram) - 1] += min(weight, other) * other
        norms = [own * other for own, other in zip(self.norms, reference.norms, strict=True)]
        cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
        return math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2)) * sum(cosines) / ORDERS


@dataclasses.dataclass(frozen=True)
class DocumentFrequencies:
    """Document frequencies of n-grams, the references of one image being one document.

    Args:
        images: number of images.
        counts: for each n-gram, the number of images with a reference that contains it.

    Raises:
        ValueError: ``images`` is not positive, or is less than a count.

    Example:
        >>> frequencies = DocumentFrequencies.of([["a dog", "a black dog"], ["a cat"]])
        >>> frequencies.images, frequencies.counts[("a",)], frequencies.counts[("a", "dog")]
        (2, 2, 1)
    """

    images: int
    counts: Mapping[NGram, int]

    def __post_init__(self) -> None:
        most = max(self.counts.values(), default=0)
        if self.images < max(most, 1):
            raise ValueError(
                f"images must be 1 or more, and no less than the counts, whose greatest is {most}, got {self.images}"
            )

    @classmethod
    def of(cls, references: Iterable[Sequence[str]], tokenize: Tokenize = caption_words) -> DocumentFrequencies:
        """Document frequencies of a corpus, such as the captions of the training images.

        Args:
            references: reference texts of each image.
            tokenize: splits a text into words.

        Raises:
            ValueError: ``references`` is empty.
        """
        images, counts = 0, Counter[NGram]()
        for several in references:
            images += 1
            counts.update({ngram for text in several for ngram in count_ngrams(tokenize(text))})
        return cls(images, counts)

    def weigh(self, words: Sequence[str]) -> WeightedNGrams:
        """TF-IDF weights of a text's n-grams."""
        most = math.log(self.images)
        weights = {
            ngram: count * (most - math.log(max(self.counts.get(ngram, 0), 1)))
            for ngram, count in count_ngrams(words).items()
        }
        squares = [0.0] * ORDERS
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight * weight
        # The authors' code takes the number of bigrams as the length.
        return WeightedNGrams(weights, [math.sqrt(square) for square in squares], max(len(words) - 1, 0))


def cider_d(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies,
    tokenize: Tokenize = caption_words,
) -> list[float]:
    """CIDEr-D of each caption, from 0 to 10; the reward of self-critical training.

    Args:
        hypotheses: one caption per image; an image may occur more than once.
        references: one or more reference texts per image.
        frequencies: document frequencies that weight the n-grams.
        tokenize: splits a text into words.

    Raises:
        ValueError: the numbers of captions and images differ, or an image has no reference.
        TypeError: an image's references are a string instead of a list of strings.

    References:
        Vedantam et al. 2015, "CIDEr: Consensus-Based Image Description Evaluation"; Rennie et al. 2017, "Self-Critical
        Sequence Training for Image Captioning".

    Example:
        >>> corpus = [["a dog runs on grass"], ["a cat sleeps"]]
        >>> frequencies = DocumentFrequencies.of(corpus)
        >>> [round(score, 3) for score in cider_d(["a dog runs on grass", "a cat runs"], corpus, frequencies)]
        [10.0, 2.5]
    """
    check_captions(hypotheses, references)

    # Cached, since several captions of an image have the same references.
    @cache
    def weigh(text: str) -> WeightedNGrams:
        return frequencies.weigh(tokenize(text))

    return [
        10 * sum(weigh(hypothesis).similarity(weigh(text)) for text in several) / len(several)
        for hypothesis, several in zip(hypotheses, references, strict=True)
    ]


class CIDErD(CaptionTexts):
    """CIDEr-D, a mean over the captions, as ``pycocoevalcap`` computes "CIDEr", times 100: from 0 to 1000.

    Args:
        frequencies: document frequencies that weight the n-grams; defaults to those of all references that the metric
            was updated with, in all processes.
        tokenize: splits a text into words; ``str.split`` for texts that are tokenized already.

    References:
        Vedantam et al. 2015, "CIDEr: Consensus-Based Image Description Evaluation".

    Example:
        >>> metric = CIDErD()
        >>> metric.update(["a dog runs on grass", "a cat runs"], [["a dog runs on grass"], ["a cat sleeps"]])
        >>> round(metric.compute().item(), 3)
        625.0
    """

    def __init__(self, frequencies: DocumentFrequencies | None = None, tokenize: Tokenize = caption_words) -> None:
        super().__init__(tokenize)
        self.frequencies = frequencies

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """See :meth:`CaptionScore.update`."""
        check_captions(hypotheses, references)
        self.keep(zip(hypotheses, map(list, references), strict=True))

    def compute(self) -> Tensor:
        """CIDEr-D, from 0 to 1000."""
        records = self.kept()
        if not records:
            return torch.tensor(0.0, device=self.device)
        hypotheses, references = zip(*records, strict=True)
        frequencies = self.frequencies or DocumentFrequencies.of(references, self.tokenize)
        scores = cider_d(hypotheses, references, frequencies, self.tokenize)
        return torch.tensor(100 * sum(scores) / len(scores), device=self.device)
