"""METEOR's alignments, and its formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.metrics.meteor import METEOR, align

WORDS = st.lists(st.sampled_from(["a", "the", "dog", "dogs", "run", "runs", "running", "cat", "on"]), max_size=8)


def score(hypothesis: str, *references: str) -> float:
    metric = METEOR()
    metric.update([hypothesis], [references])
    return float(metric.compute().item()) / 100


def test_the_formula() -> None:
    # Common words weigh .25, others .75: "dog" is equal and "runs" has the stem of "running", in two chunks.
    found = 0.75 + 0.6 * 0.75
    precision, recall = found / (0.25 + 0.75 + 0.75), found / (0.25 + 0.75 + 0.25 + 0.75)
    wanted = (1 - 0.6 * (2 / 2) ** 0.2) / (0.15 / precision + 0.85 / recall)
    assert score("a dog runs", "the dog is running") == pytest.approx(wanted)
    # Three words in two chunks.
    precision, recall = (0.25 + 0.75 + 0.75) / (0.25 + 0.75 + 0.75), (0.25 + 0.75 + 0.75) / (0.25 + 4 * 0.75)
    wanted = (1 - 0.6 * (2 / 3) ** 0.2) / (0.15 / precision + 0.85 / recall)
    assert score("a dog runs", "a dog quickly runs home") == pytest.approx(wanted)
    # The best reference counts.
    assert score("a dog runs", "the dog is running", "a dog quickly runs home") == pytest.approx(wanted)


def test_a_corpus_is_the_formula_of_its_sums() -> None:
    metric = METEOR()
    metric.update(["a dog runs", "a cat"], [["the dog is running"], ["a cat"]])
    # The second is its reference and adds no chunk.
    found = 1.2 + 1.0
    mean = 1 / (0.15 / (found / 2.75) + 0.85 / (found / 3.0))
    assert metric.compute().item() == pytest.approx(100 * mean * (1 - 0.6 * (2 / 4) ** 0.2))


@pytest.mark.parametrize(
    ("hypothesis", "reference", "pairs", "chunks"),
    [
        ("a dog", "a dog", 2, 0),
        ("a dog a cat", "a cat", 2, 1),
        ("a cat a dog", "a dog a cat", 4, 2),
        ("the cat and the dog", "the dog", 2, 1),
        # An equal word is worth more than a stem in a longer chunk.
        ("a dogs on dog", "a dog", 2, 2),
        # An ambiguous stem is not worth a chunk, an unambiguous one is.
        ("dogs see dogs", "a dog", 0, 0),
        ("dogs", "a dog", 1, 1),
        ("", "a dog", 0, 0),
        ("a dog", "", 0, 0),
        ("", "", 0, 0),
    ],
)
def test_as_many_pairs_in_as_few_chunks(hypothesis: str, reference: str, pairs: int, chunks: int) -> None:
    found = align(hypothesis.split(), reference.split())
    assert (found.pairs, found.chunks) == (pairs, chunks)


@given(hypothesis=WORDS, reference=WORDS)
def test_every_alignment_is_possible(hypothesis: list[str], reference: list[str]) -> None:
    found = align(hypothesis, reference)
    assert 0 <= found.chunks <= found.pairs <= min(len(hypothesis), len(reference))
    assert 0 <= found.hypothesis_matches <= found.hypothesis
    assert 0 <= found.reference_matches <= found.reference
    alike = sum(min(hypothesis.count(word), reference.count(word)) for word in {*hypothesis})
    assert found.pairs >= alike
    assert 0 <= found.score() <= 1
    turned = align(reference, hypothesis)
    assert (turned.hypothesis, turned.reference) == (found.reference, found.hypothesis)


@given(words=WORDS.filter(bool))
def test_only_equal_texts_get_the_highest_score(words: list[str]) -> None:
    assert align(words, words).score() == pytest.approx(1)
    assert align(words, [*words, "bird"]).score() < 1
    assert align([*words, "bird"], words).score() < 1


def test_endless_repetition_ends() -> None:
    assert align(["a", "dog"] * 30, ["dog", "a", "a"] * 20).pairs == 50
