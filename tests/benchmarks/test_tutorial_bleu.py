from __future__ import annotations

import math
from collections import Counter

import pytest

from benchmarks.tutorial_bleu import spacy_tokens, tutorial_bleu


def ngrams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))


def test_the_formula() -> None:
    """Papineni et al. 2002: clipped precisions of one to four words, their geometric mean, the brevity penalty."""
    hypotheses = ["A man rides a red bicycle .", "Two dogs play in the snow"]
    references = ["a man rides a bicycle .", "two dogs are running in the deep snow"]
    pairs = [(a.lower().split(), b.lower().split()) for a, b in zip(hypotheses, references, strict=True)]
    precision = 1.0
    for order in range(1, 5):
        matched = sum(sum((ngrams(a, order) & ngrams(b, order)).values()) for a, b in pairs)
        precision *= matched / sum(len(a) - order + 1 for a, _ in pairs)
    written, wanted = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    expected = 100 * precision**0.25 * math.exp(min(0.0, 1 - wanted / written))
    assert expected > 0
    assert tutorial_bleu(hypotheses, references, str.split).score == pytest.approx(expected)


def test_case_and_space_around_a_line_are_ignored() -> None:
    assert tutorial_bleu([" The CAT sat on a mat\n"], ["the cat sat on a mat"], str.split).score == pytest.approx(100)


def test_without_a_match_of_four_words_it_is_zero() -> None:
    """Tutorials do not smooth."""
    assert tutorial_bleu(["a b c x y"], ["a b c d e"], str.split).score == 0.0


def test_unlike_numbers_of_lines() -> None:
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        tutorial_bleu(["a"], ["a", "b"], str.split)


def test_spacys_tokens() -> None:
    pytest.importorskip("spacy", reason="spaCy is not installed: pip install 'attention-blocks[bench]'")
    assert spacy_tokens()("a t-shirt, isn't it?") == ["a", "t", "-", "shirt", ",", "is", "n't", "it", "?"]
