"""BLEU and ROUGE-L of captions, as the COCO caption evaluation computes them, and the bases of caption metrics."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import chain
from operator import or_

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.metrics.text_records import TextRecords

NGram = tuple[str, ...]
Tokenize = Callable[[str], Sequence[str]]
ORDERS = 4
BETA = 1.2

_CLITIC = r"'(?:s|m|d|ll|re|ve)\b"
_WORD = re.compile(
    rf"""\w+?(?=n't\b) | n't\b | {_CLITIC}   # does n't, dog 's
    | (?:[^\W\d_]\.){{2,}}                   # u.s.
    | \d+(?:[.,:/]\d+)+                      # 3.5, 12:30
    | \w+(?:(?:-|(?!{_CLITIC})')\w+)*        # t-shirt, o'clock
    | [\#$%&]                                # symbols that are spoken""",
    re.VERBOSE,
)


def caption_words(text: str) -> list[str]:
    """Words of a caption in lower case, without punctuation, as caption metrics count them.

    Equal to the Penn Treebank tokenizer of the COCO caption evaluation except for rare abbreviations ("mr."), names of
    web sites, "cannot", and brackets, which that evaluation counts as words.

    Args:
        text: a caption.

    References:
        Chen et al. 2015, "Microsoft COCO Captions: Data Collection and Evaluation Server".

    Example:
        >>> caption_words("A man's dog doesn't catch the T-shirt.")
        ['a', 'man', "'s", 'dog', 'does', "n't", 'catch', 'the', 't-shirt']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


def ngrams(words: Sequence[str], order: int) -> Iterator[NGram]:
    """All n-grams of an order, repeated ones included."""
    return zip(*(words[start:] for start in range(order)), strict=False)


def count_ngrams(words: Sequence[str]) -> Counter[NGram]:
    """Number of occurrences of each n-gram of one to four words."""
    return Counter(chain.from_iterable(ngrams(words, order) for order in range(1, ORDERS + 1)))


def check_captions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Checks that every caption has references.

    Raises:
        ValueError: the numbers of captions and images differ, or an image has no reference.
        TypeError: an image's references are a string instead of a list of strings.
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses for {len(references)} references; give one caption and one list of "
            "references per image"
        )
    for index, several in enumerate(references):
        if isinstance(several, str):
            raise TypeError(
                f"references[{index}] must be a list of strings, got the string {several!r}; give [{several!r}]"
            )
        if not several:
            raise ValueError(f"references[{index}] is empty; every image needs at least one reference")


class CaptionScore(Metric):
    """Base of the caption metrics that are computed from sums over the captions.

    Args:
        size: number of sums.
        tokenize: splits a text into words; ``str.split`` for texts that are tokenized already.
    """

    higher_is_better = True
    full_state_update = False
    sums: Tensor

    def __init__(self, size: int, tokenize: Tokenize = caption_words) -> None:
        super().__init__()
        self.tokenize = tokenize
        self.add_state("sums", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def statistics(self, hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
        """Terms that one caption adds to the sums.

        Args:
            hypothesis: words of the caption.
            references: words of each of its references.
        """
        raise NotImplementedError(f"{type(self).__name__} must define statistics(hypothesis, references)")

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds captions.

        Args:
            hypotheses: one caption per image.
            references: one or more reference texts per image.

        Raises:
            ValueError: the numbers of captions and images differ, or an image has no reference.
            TypeError: an image's references are a string instead of a list of strings.
        """
        check_captions(hypotheses, references)
        found = [
            self.statistics(self.tokenize(hypothesis), [self.tokenize(text) for text in several])
            for hypothesis, several in zip(hypotheses, references, strict=True)
        ]
        if found:
            self.sums += torch.tensor(found, dtype=self.sums.dtype, device=self.sums.device).sum(dim=0)


class CaptionTexts(TextRecords):
    """Base of the caption metrics that need all captions at once.

    Args:
        tokenize: splits a text into words; ``str.split`` for texts that are tokenized already.
    """

    def __init__(self, tokenize: Tokenize = caption_words) -> None:
        super().__init__()
        self.tokenize = tokenize


class CaptionBLEU(CaptionScore):
    """BLEU of a corpus of captions, as ``pycocoevalcap`` computes it, scaled to [0, 100] as :class:`CorpusBLEU`.

    Unlike sacreBLEU it does not smooth counts of zero, and its brevity penalty uses the reference whose length is
    closest to the caption's, the shorter one of two.

    Args:
        order: the longest n-grams that count, 1 for BLEU-1 to 4 for BLEU-4.
        tokenize: splits a text into words; ``str.split`` for texts that are tokenized already.

    Raises:
        ValueError: ``order`` is not 1, 2, 3 or 4.

    References:
        Papineni et al. 2002, "BLEU"; Chen et al. 2015, "Microsoft COCO Captions".

    Example:
        >>> metric = CaptionBLEU(order=2)
        >>> metric.update(["A dog runs."], [["a dog runs fast", "the dog runs"]])
        >>> round(metric.compute().item(), 3)
        100.0
    """

    def __init__(self, order: int = ORDERS, tokenize: Tokenize = caption_words) -> None:
        # Matches per order, n-grams per order, words of the closest reference. All four orders, whichever is computed:
        # a MetricCollection of the four metrics then finds equal states and updates only one.
        super().__init__(2 * ORDERS + 1, tokenize)
        if not 1 <= order <= ORDERS:
            raise ValueError(f"order must lie between 1 and {ORDERS}, got {order}")
        self.order = order

    def statistics(self, hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
        """See :meth:`CaptionScore.statistics`."""
        # Clipped counts: at most the caption's, and at most those of the reference with the most.
        found = count_ngrams(hypothesis) & reduce(or_, map(count_ngrams, references))
        matches = [0] * ORDERS
        for ngram, count in found.items():
            matches[len(ngram) - 1] += count
        totals = [max(len(hypothesis) - order, 0) for order in range(ORDERS)]
        closest = min(map(len, references), key=lambda length: (abs(length - len(hypothesis)), length))
        return [*matches, *totals, closest]

    def compute(self) -> Tensor:
        """BLEU, from 0 to 100."""
        # pycocoevalcap's guards against division by zero.
        tiny, small = 1e-15, 1e-9
        *counts, reference_length = self.sums.tolist()
        matches, totals = counts[: self.order], counts[ORDERS : ORDERS + self.order]
        precision = math.prod((match + tiny) / (count + small) for match, count in zip(matches, totals, strict=True))
        ratio = (totals[0] + tiny) / (reference_length + small)
        brevity = math.exp(min(1 - 1 / ratio, 0))
        return torch.tensor(100 * brevity * precision ** (1 / self.order), device=self.sums.device)


class RougeL(CaptionScore):
    """ROUGE-L, a mean over the captions, as ``pycocoevalcap`` computes it, scaled to [0, 100].

    F score of the longest common subsequence of words, with slightly more weight on recall; precision and recall are
    each those of the best reference.

    Args:
        tokenize: splits a text into words; ``str.split`` for texts that are tokenized already.

    References:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".

    Example:
        >>> metric = RougeL()
        >>> metric.update(["a dog runs"], [["a dog runs fast", "one dog runs"]])
        >>> round(metric.compute().item(), 3)
        83.562
    """

    def __init__(self, tokenize: Tokenize = caption_words) -> None:
        # Sum of the scores, and their number.
        super().__init__(2, tokenize)

    def statistics(self, hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
        """See :meth:`CaptionScore.statistics`."""
        common = [_common_subsequence(hypothesis, reference) for reference in references]
        if not any(common):
            return [0, 1]
        precision = max(common) / len(hypothesis)
        recall = max(length / max(len(reference), 1) for length, reference in zip(common, references, strict=True))
        return [(1 + BETA**2) * precision * recall / (recall + BETA**2 * precision), 1]

    def compute(self) -> Tensor:
        """ROUGE-L, from 0 to 100."""
        total, count = self.sums.tolist()
        return torch.tensor(100 * total / max(count, 1), device=self.sums.device)


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for index, other in enumerate(second, start=1):
            longer = diagonal + 1 if word == other else max(lengths[index - 1], lengths[index])
            diagonal, lengths[index] = lengths[index], longer
    return lengths[-1]
