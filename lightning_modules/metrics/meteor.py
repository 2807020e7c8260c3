"""METEOR of captions, from words that are alike or have the same stem."""

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

# METEOR 1.5's parameters for English, and the words that it finds so common that they say little.
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
    """How the words of a caption and of a reference go together; of several, the sums.

    Attributes:
        written: weight of the caption's words.
        wanted: weight of the reference's words.
        written_matches: weight of the caption's words that have a partner, less where only the stems are alike.
        wanted_matches: weight of the reference's words that have one.
        pairs: how many these are.
        chunks: runs of words that go on in both; none where the texts are the same.
    """

    written: float
    wanted: float
    written_matches: float
    wanted_matches: float
    pairs: float
    chunks: float

    def score(self) -> float:
        """METEOR, from 0 to 1: a mean of precision and recall, less a penalty for many chunks."""
        if not self.pairs:
            return 0.0
        precision, recall = self.written_matches / self.written, self.wanted_matches / self.wanted
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        return mean * (1 - GAMMA * (self.chunks / self.pairs) ** BETA)


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> Alignment:
    """Pairs each word with at most one: as many alike as can be, then in the fewest chunks, then as many as can be.

    As in METEOR's program, a pair without rivals is always made, and others of which only the stems are alike are not
    made where that costs a chunk.

    Args:
        hypothesis: the caption's words.
        reference: the words that it is compared with.

    Example:
        >>> align("a dog runs".split(), "the dog is running".split())
        Alignment(written=1.75, wanted=2.0, written_matches=1.2, wanted_matches=1.2, pairs=2, chunks=2)
    """
    stems, wanted = [_stem(word) for word in hypothesis], [_stem(word) for word in reference]
    # By the caption's words that have a partner, as bits, and the place where a chunk would go on: the best way there,
    # as pairs alike, chunks, pairs and their weights, negated where more is better.
    ways = {(0, -1): (0, 0, 0, 0.0, 0.0)}
    for word, stem in zip(reference, wanted, strict=True):
        places = [place for place, other in enumerate(stems) if other == stem]
        certain = len(places) == 1 and wanted.count(stem) == 1
        longer: dict[tuple[int, int], tuple[int, int, int, float, float]] = {}
        for (taken, end), way in ways.items():
            alike, chunks, pairs, written, expected = way
            steps = [] if certain else [((taken, -1), way)]
            for place in places:
                if not taken >> place & 1:
                    same = hypothesis[place] == word
                    share = 1.0 if same else STEM_WEIGHT
                    costs = (
                        alike - same,
                        chunks + (place != end),
                        pairs - 1,
                        written - share * _weight(hypothesis[place]),
                        expected - share * _weight(word),
                    )
                    steps.append(((taken | 1 << place, place + 1), costs))
            for state, costs in steps:
                longer[state] = min(costs, longer.get(state, costs))
        # A caption that repeats words over and over has too many ways to follow all.
        ways = dict(nsmallest(BEAM, longer.items(), key=itemgetter(1)))
    _, chunks, pairs, written, expected = min(ways.values())
    whole = chunks == 1 and -pairs == len(hypothesis) == len(reference)
    return Alignment(
        sum(map(_weight, hypothesis)), sum(map(_weight, reference)), -written, -expected, -pairs, 0 if whole else chunks
    )


class METEOR(CaptionScore):
    """METEOR of a corpus of captions, as METEOR 1.5 computes it with its modules "exact stem", but from 0 to 100.

    Its modules of synonyms and paraphrases need its data, and with them scores are higher: compare with scores of the
    same modules only. Its program searches less far and now and then misses the best alignment of a caption, which then
    has a slightly lower score.

    Args:
        tokenize: makes a text words; ``str.split`` where texts are words with spaces between them.

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
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA
