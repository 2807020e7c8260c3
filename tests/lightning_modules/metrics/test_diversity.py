"""Distinct n-grams and words, counted by hand."""

from __future__ import annotations

import pytest

from lightning_modules.metrics.diversity import DistinctNGrams, VocabularyUse

TEXTS = ["A dog runs.", "a dog sits", "a", ""]


@pytest.mark.parametrize(("order", "fraction"), [(1, 4 / 7), (2, 3 / 4), (3, 1), (4, 0)])
def test_distinct_ngrams(order: int, fraction: float) -> None:
    metric = DistinctNGrams(order)
    metric.update(TEXTS[:1])
    metric.update(TEXTS[1:], [["what they are compared with"]] * 3)
    assert metric.compute().item() == pytest.approx(100 * fraction)


def test_distinct_words() -> None:
    words, fraction, cased = VocabularyUse(), VocabularyUse(50), VocabularyUse(tokenize=str.split)
    for metric in (words, fraction, cased):
        metric.update(TEXTS)
    assert words.compute() == 4
    assert fraction.compute() == 8
    # "A", "a", "dog", "runs.", "sits"
    assert cased.compute() == 5


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"order .*got 0"):
        DistinctNGrams(0)
    with pytest.raises(ValueError, match=r"vocabulary_size .*got 0; None counts the words instead"):
        VocabularyUse(0)
