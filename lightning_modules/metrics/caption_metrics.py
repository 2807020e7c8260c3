"""How good captions are: BLEU and ROUGE-L as the COCO caption evaluation computes them, and what such metrics share."""

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
    | [\#$%&]                                # these are read aloud""",
    re.VERBOSE,
)


def caption_words(text: str) -> list[str]:
    """The words of a caption in lower case, without punctuation, as caption metrics count them.

    They are those of the Penn Treebank tokenizer as the COCO caption evaluation uses it, but for rare abbreviations
    ("mr."), names of web sites, "cannot", and brackets, which that evaluation takes for words.

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
    """All runs of ``order`` words, as often as they come."""
    return zip(*(words[start:] for start in range(order)), strict=False)


def count_ngrams(words: Sequence[str]) -> Counter[NGram]:
    """How often each run of one to four words comes."""
    return Counter(chain.from_iterable(ngrams(words, order) for order in range(1, ORDERS + 1)))


def check_captions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuses captions that cannot be compared.

    Raises:
        ValueError: unlike numbers of captions and images, or an image without a reference.
        TypeError: an image's references are one text instead of a list of texts.
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses for {len(references)} references; give one caption and one list of "
            "references an image"
        )
    for place, several in enumerate(references):
        if isinstance(several, str):
            raise TypeError(
                f"references[{place}] must be a list of texts, got the text {several!r}; give [{several!r}]"
            )
        if not several:
            raise ValueError(f"references[{place}] is empty; every image needs a text to compare its caption with")


class CaptionScore(Metric):
    """Base of the caption metrics that are made of sums over the captions: batches and devices only add up.

    Args:
        size: how many sums there are.
        tokenize: makes a text words; ``str.split`` where texts are words with spaces between them.
    """

    higher_is_better = True
    full_state_update = False
    sums: Tensor

    def __init__(self, size: int, tokenize: Tokenize = caption_words) -> None:
        super().__init__()
        self.tokenize = tokenize
        self.add_state("sums", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def statistics(self, hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
        """What one caption adds to the sums.

        Args:
            hypothesis: the caption's words.
            references: the words of each text that it is compared with.
        """
        raise NotImplementedError(f"{type(self).__name__} must define statistics(hypothesis, references)")

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds captions.

        Args:
            hypotheses: one an image.
            references: for each image the texts that its caption is compared with, one or more.

        Raises:
            ValueError: unlike numbers of captions and images, or an image without a reference.
            TypeError: an image's references are one text instead of a list of texts.
        """
        check_captions(hypotheses, references)
        found = [
            self.statistics(self.tokenize(hypothesis), [self.tokenize(text) for text in several])
            for hypothesis, several in zip(hypotheses, references, strict=True)
        ]
        if found:
            self.sums += torch.tensor(found, dtype=self.sums.dtype, device=self.sums.device).sum(dim=0)


class CaptionTexts(TextRecords):
    """Base of the caption metrics that need every caption at once.

    Args:
        tokenize: splits a text into words; ``str.split`` for texts that are split already.
    """

    def __init__(self, tokenize: Tokenize = caption_words) -> None:
        super().__init__()
        self.tokenize = tokenize


class CaptionBLEU(CaptionScore):
    """BLEU of a corpus of captions, as ``pycocoevalcap`` computes it, but from 0 to 100 as :class:`CorpusBLEU`.

    Unlike sacreBLEU's it smooths no count of zero, and measures each caption against the reference whose length is the
    closest, the shorter of two.

    Args:
        order: BLEU-1 to BLEU-4: the longest n-grams that count.
        tokenize: makes a text words; ``str.split`` where texts are words with spaces between them.

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
        # Matches of each order, n-grams of each order, words of the closest reference. All orders, whichever is asked
        # for: a MetricCollection sees that the four metrics hold the same and updates one.
        super().__init__(2 * ORDERS + 1, tokenize)
        if not 1 <= order <= ORDERS:
            raise ValueError(f"order must lie between 1 and {ORDERS}, got {order}")
        self.order = order

    def statistics(self, hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
        """See :meth:`CaptionScore.statistics`."""
        # Of each n-gram count the best reference, then no more than were written.
        found = count_ngrams(hypothesis) & reduce(or_, map(count_ngrams, references))
        matches = [0] * ORDERS
        for ngram, count in found.items():
            matches[len(ngram) - 1] += count
        written = [max(len(hypothesis) - order, 0) for order in range(ORDERS)]
        closest = min(map(len, references), key=lambda length: (abs(length - len(hypothesis)), length))
        return [*matches, *written, closest]

    def compute(self) -> Tensor:
        """BLEU, from 0 to 100."""
        # That package's guards against zero.
        tiny, small = 1e-15, 1e-9
        *counts, wanted = self.sums.tolist()
        matches, written = counts[: self.order], counts[ORDERS : ORDERS + self.order]
        precision = math.prod((match + tiny) / (count + small) for match, count in zip(matches, written, strict=True))
        ratio = (written[0] + tiny) / (wanted + small)
        brevity = math.exp(min(1 - 1 / ratio, 0))
        return torch.tensor(100 * brevity * precision ** (1 / self.order), device=self.sums.device)


class RougeL(CaptionScore):
    """ROUGE-L, a mean over the captions, as ``pycocoevalcap`` computes it, but from 0 to 100.

    An F score with a little more weight on recall: how much of the longest common subsequence of words is of the
    caption, and how much of the reference, each in its best reference.

    Args:
        tokenize: makes a text words; ``str.split`` where texts are words with spaces between them.

    References:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".

    Example:
        >>> metric = RougeL()
        >>> metric.update(["a dog runs"], [["a dog runs fast", "one dog runs"]])
        >>> round(metric.compute().item(), 3)
        83.562
    """

    def __init__(self, tokenize: Tokenize = caption_words) -> None:
        # The scores, and how many there are.
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
    """The length of the longest one."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            longer = diagonal + 1 if word == other else max(lengths[place - 1], lengths[place])
            diagonal, lengths[place] = lengths[place], longer
    return lengths[-1]
