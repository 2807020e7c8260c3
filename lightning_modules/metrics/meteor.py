"""METEOR of captions, by exact and stem matches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from heapq import nsmallest
from operator import itemgetter
from typing import NamedTuple

import snowballstemmer
import torch
from torch import Tensor

from lightning_modules.metrics.caption_metrics import CaptionScore, Tokenize, caption_words

# METEOR 1.5's parameters and function words for English.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STEM_WEIGHT = 0.6
BEAM = 100
COMMON = """
    ' 's 't ( ) , - -- -lrb- -rrb- . : ? " $ — ’ “ ” a about after all also an and are as at be been but by can could
    first for from had has have he her his i if in into is it its last more new no not of on one or other out over
    people s said she so some than that the their there they this time to two up was we were what when which who will
    with would year years you
"""
FUNCTION_WORDS = frozenset(COMMON.split())

_stem = lru_cache(maxsize=100_000)(snowballstemmer.stemmer("english").stemWord)


class Alignment(NamedTuple):
    """Statistics of the alignment of a caption with a reference, or their sums over a corpus.

    Attributes:
        hypothesis: total weight of the caption's words.
        reference: total weight of the reference's words.
        hypothesis_matches: weight of the caption's matched words, less where only the stems are equal.
        reference_matches: weight of the reference's matched words, likewise.
        pairs: number of matched pairs.
        chunks: number of runs of matched words that are contiguous in both texts; 0 if the texts are equal.
    """

    hypothesis: float
    reference: float
    hypothesis_matches: float
    reference_matches: float
    pairs: float
    chunks: float

    def score(self) -> float:
        """METEOR, from 0 to 1: weighted harmonic mean of precision and recall, times a penalty for many chunks."""
        if not self.pairs:
            return 0.0
        precision = self.hypothesis_matches / self.hypothesis
        recall = self.reference_matches / self.reference
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        return mean * (1 - GAMMA * (self.chunks / self.pairs) ** BETA)


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> Alignment:
    """Best alignment of a caption with a reference, in which each word is matched at most once.

    Maximises the number of exact matches, then minimises the number of chunks, then maximises the number of pairs. As
    in METEOR's program, the only candidate pair of two words is always matched, and other stem matches are not made
    where they add a chunk.

    Args:
        hypothesis: words of the caption.
        reference: words of the reference.

    Example:
        >>> align("a dog runs".split(), "the dog is running".split())
        Alignment(hypothesis=1.75, reference=2.0, hypothesis_matches=1.2, reference_matches=1.2, pairs=2, chunks=2)
    """
    stems, reference_stems = [_stem(word) for word in hypothesis], [_stem(word) for word in reference]
    # Dynamic programme over the reference's words. State: the caption's matched words as a bit mask, and the position
    # in the caption at which the current chunk would continue, -1 for none. Cost, compared in this order: exact
    # matches, chunks, pairs, weights of the matches in both texts; negated where more is better.
    best = {(0, -1): (0, 0, 0, 0.0, 0.0)}
    for word, stem in zip(reference, reference_stems, strict=True):
        positions = [position for position, other in enumerate(stems) if other == stem]
        only_candidate = len(positions) == 1 and reference_stems.count(stem) == 1
        extended: dict[tuple[int, int], tuple[int, int, int, float, float]] = {}
        for (matched, end), cost in best.items():
            exact, chunks, pairs, hypothesis_matches, reference_matches = cost
            steps = [] if only_candidate else [((matched, -1), cost)]  # the word stays unmatched
            for position in positions:
                if not matched >> position & 1:
                    same = hypothesis[position] == word
                    factor = 1.0 if same else STEM_WEIGHT
                    longer = (
                        exact - same,
                        chunks + (position != end),
                        pairs - 1,
                        hypothesis_matches - factor * _weight(hypothesis[position]),
                        reference_matches - factor * _weight(word),
                    )
                    steps.append(((matched | 1 << position, position + 1), longer))
            for state, cost in steps:
                extended[state] = min(cost, extended.get(state, cost))
        # A beam, because a caption that repeats words has exponentially many alignments.
        best = dict(nsmallest(BEAM, extended.items(), key=itemgetter(1)))
    _, chunks, pairs, hypothesis_matches, reference_matches = min(best.values())
    equal = chunks == 1 and -pairs == len(hypothesis) == len(reference)
    return Alignment(
        sum(map(_weight, hypothesis)),
        sum(map(_weight, reference)),
        -hypothesis_matches,
        -reference_matches,
        -pairs,
        0 if equal else chunks,
    )


class METEOR(CaptionScore):
    """METEOR of a corpus of captions, as METEOR 1.5 computes it with its modules "exact stem", scaled to [0, 100].

    Compare only with scores of the same modules: synonyms and paraphrases, which need METEOR's data, give higher
    scores. METEOR's own program searches fewer alignments, and its score is slightly lower where it misses the best.

    Args:
        tokenize: splits a text into words; ``str.split`` for texts that are tokenized already.

    References:
        Denkowski and Lavie 2014, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language".

    Example:
        >>> metric = METEOR()
        >>> metric.update(["a dog runs"], [["the dog is running", "one dog"]])
        >>> round(metric.compute().item(), 3)
        26.966
    """

    def __init__(self, tokenize: Tokenize = caption_words) -> None:
        super().__init__(len(Alignment._fields), tokenize)

    def statistics(self, hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
        """See :meth:`CaptionScore.statistics`."""
        return max((align(hypothesis, reference) for reference in references), key=Alignment.score)

    def compute(self) -> Tensor:
        """METEOR, from 0 to 100."""
        return torch.tensor(100 * Alignment(*self.sums.tolist()).score(), device=self.sums.device)


def _weight(word: str) -> float:
    """Weight of a word, which is lower for function words."""
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA
