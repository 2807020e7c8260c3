"""CIDEr-D of single captions, with the frequencies of another corpus too."""

from __future__ import annotations

import math

import pytest
from pycocoevalcap.cider.cider import Cider

from lightning_modules.metrics.cider import CIDErD, DocumentFrequencies, cider_d

HYPOTHESES = ["a dog runs on the grass", "two cats sleep", "a cat a cat a cat", "a man", "", "rain", "the end of a day"]
REFERENCES = [
    ["a brown dog runs on green grass", "the dog is running", "a dog on the grass"],
    ["two cats sleep"],
    ["a cat sits", "the cat is on the mat", "a cat on a mat"],
    ["a man reads a book", "a man with a book"],
    ["a boat on the sea"],
    ["rain", "rain and snow"],
    ["the end of the day", "the sun sets on the sea"],
]


def test_each_caption_is_scored_as_the_coco_caption_evaluation_does() -> None:
    written = {index: [text] for index, text in enumerate(HYPOTHESES)}
    _, wanted = Cider().compute_score(dict(enumerate(REFERENCES)), written)
    frequencies = DocumentFrequencies.of(REFERENCES)
    assert cider_d(HYPOTHESES, REFERENCES, frequencies) == pytest.approx(wanted.tolist(), abs=1e-9)
    # One by one, in another order, and some of them twice: the frequencies alone depend on the corpus.
    chosen = [2, 0, 2, 6]
    texts, several = [HYPOTHESES[index] for index in chosen], [REFERENCES[index] for index in chosen]
    assert cider_d(texts, several, frequencies) == pytest.approx([wanted[index] for index in chosen], abs=1e-9)
    metric = CIDErD(frequencies)
    metric.update(texts, several)
    assert metric.compute().item() == pytest.approx(100 * sum(wanted[index] for index in chosen) / 4)


def test_given_frequencies_weigh_the_words() -> None:
    # Of 8 images 4 show a dog and 2 a cat; nobody has ever seen a unicorn.
    frequencies = DocumentFrequencies(8, {("dog",): 4, ("cat",): 2, ("a",): 8})
    dog, cat, unicorn = math.log(8 / 4), math.log(8 / 2), math.log(8)
    [found] = cider_d(["a dog cat"], [["a unicorn cat"]], frequencies)
    words = cat**2 / math.hypot(dog, cat) / math.hypot(unicorn, cat)
    assert found == pytest.approx(10 * words / 4)


def test_repeated_words_and_unlike_lengths_lose() -> None:
    frequencies = DocumentFrequencies(8, {})
    [found] = cider_d(["dog dog"], [["dog"]], frequencies)
    # The cosine of words is 1; but only one of two counts, and the lengths differ by one.
    assert found == pytest.approx(10 * (1 / 2) * math.exp(-1 / (2 * 6**2)) / 4)
    assert cider_d(["cat"], [["dog"]], frequencies) == [0]


def test_frequencies_count_images() -> None:
    frequencies = DocumentFrequencies.of([["A dog, a dog", "the dog"], ["A dog!"]])
    assert frequencies.images == 2
    assert frequencies.counts[("dog",)] == frequencies.counts[("a", "dog")] == 2
    assert frequencies.counts[("dog", "a")] == frequencies.counts[("a", "dog", "a", "dog")] == 1
    assert ("dog", "the") not in frequencies.counts
    assert DocumentFrequencies.of([["A dog"]], str.split).counts == {("A",): 1, ("dog",): 1, ("A", "dog"): 1}


def test_impossible_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match="images"):
        DocumentFrequencies.of([])
    with pytest.raises(ValueError, match=r"images .* 3, got 2"):
        DocumentFrequencies(2, {("dog",): 3})


def test_captions_without_references_are_refused() -> None:
    with pytest.raises(ValueError, match=r"references\[0\] is empty"):
        cider_d(["a"], [[]], DocumentFrequencies(1, {}))
