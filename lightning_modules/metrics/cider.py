"""CIDEr-D: how much a caption says what the references of its image agree on."""

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
    """A text as CIDEr-D sees it.

    Attributes:
        weights: how often each n-gram comes, times how rare it is.
        norms: for each order, the Euclidean norm of its weights.
        length: of the text.
    """

    weights: dict[NGram, float]
    norms: list[float]
    length: int

    def similarity(self, reference: WeightedNGrams) -> float:
        """The mean over the orders of the cosine, where no weight counts more than the reference's."""
        products = [0.0] * ORDERS
        for ngram, weight in self.weights.items():
            wanted = reference.weights.get(ngram, 0.0)
            products[len(ngram) - 1] += min(weight, wanted) * wanted
        norms = [own * other for own, other in zip(self.norms, reference.norms, strict=True)]
        cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
        return math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2)) * sum(cosines) / ORDERS


@dataclasses.dataclass(frozen=True)
class DocumentFrequencies:
    """Of how many images the references hold an n-gram: what is found in few says much.

    Args:
        images: how many images were counted.
        counts: for each n-gram the number of images that have it in one of their references or more.

    Raises:
        ValueError: ``images`` is not positive, or less than a count.

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
        """Counts the references of a corpus, such as those that a captioner is trained on.

        Args:
            references: for each image its texts.
            tokenize: makes a text words.

        Raises:
            ValueError: there are no images.
        """
        images, counts = 0, Counter[NGram]()
        for several in references:
            images += 1
            counts.update({ngram for text in several for ngram in count_ngrams(tokenize(text))})
        return cls(images, counts)

    def weigh(self, words: Sequence[str]) -> WeightedNGrams:
        """The weights of a text."""
        most = math.log(self.images)
        weights = {
            ngram: count * (most - math.log(max(self.counts.get(ngram, 0), 1)))
            for ngram, count in count_ngrams(words).items()
        }
        squares = [0.0] * ORDERS
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight * weight
        # The length is the number of bigrams, as CIDEr's authors have it: a text of no word is as long as one of one.
        return WeightedNGrams(weights, [math.sqrt(square) for square in squares], max(len(words) - 1, 0))


def cider_d(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies,
    tokenize: Tokenize = caption_words,
) -> list[float]:
    """CIDEr-D of each caption by itself, from 0 to 10: the reward of self-critical training.

    Args:
        hypotheses: one an image; an image may come more than once.
        references: for each image the texts that its caption is compared with, one or more.
        frequencies: of the corpus that tells common n-grams from rare ones.
        tokenize: makes a text words.

    Raises:
        ValueError: unlike numbers of captions and images, or an image without a reference.
        TypeError: an image's references are one text instead of a list of texts.

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

    # Several captions of an image have the same references.
    @cache
    def weigh(text: str) -> WeightedNGrams:
        return frequencies.weigh(tokenize(text))

    return [
        10 * sum(weigh(hypothesis).similarity(weigh(text)) for text in several) / len(several)
        for hypothesis, several in zip(hypotheses, references, strict=True)
    ]


class CIDErD(CaptionTexts):
    """CIDEr-D, a mean over the captions, as ``pycocoevalcap`` computes "CIDEr", but a hundred times that: up to 1000.

    Common n-grams are told from rare ones by the references of everything seen, on all devices.

    Args:
        frequencies: of another corpus, to tell by that one instead.
        tokenize: makes a text words; ``str.split`` where texts are words with spaces between them.

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
