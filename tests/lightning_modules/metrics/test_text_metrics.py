"""Metrics of batches against sacreBLEU of all lines at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from lightning_modules import CorpusBLEU, CorpusCHRF
from lightning_modules.metrics.text_metrics import CorpusScore

WORDS = ["a", "A", "the", "The", "cat", "Cat", "sat", "on", "mat", ",", ".", "don't", "3.5"]
LINES = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
CORPORA = st.lists(st.tuples(LINES, LINES), min_size=1, max_size=12)


def cut(count: int, positions: Sequence[int]) -> list[slice]:
    """The corpus in batches, some of them empty."""
    borders = [0, *sorted(position % (count + 1) for position in positions), count]
    return [slice(start, stop) for start, stop in pairwise(borders)]


@settings(max_examples=60, deadline=None)
@given(corpus=CORPORA, positions=st.lists(st.integers(0, 100), max_size=4), lowercase=st.booleans())
def test_bleu_is_sacrebleus_whatever_the_batching(
    corpus: list[tuple[str, str]], positions: list[int], lowercase: bool
) -> None:
    hypotheses, references = [one for one, _ in corpus], [other for _, other in corpus]
    metric = CorpusBLEU(lowercase=lowercase)
    for part in cut(len(corpus), positions):
        metric.update(hypotheses[part], [[reference] for reference in references[part]])
    wanted = sacrebleu.corpus_bleu(hypotheses, [references], lowercase=lowercase).score
    assert metric.compute().item() == pytest.approx(wanted)


@settings(max_examples=60, deadline=None)
@given(corpus=CORPORA, positions=st.lists(st.integers(0, 100), max_size=4))
def test_chrf_is_sacrebleus_whatever_the_batching(corpus: list[tuple[str, str]], positions: list[int]) -> None:
    hypotheses, references = [one for one, _ in corpus], [other for _, other in corpus]
    metric = CorpusCHRF()
    for part in cut(len(corpus), positions):
        metric.update(hypotheses[part], [[reference] for reference in references[part]])
    assert metric.compute().item() == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [references]).score)


HYPOTHESES = ["the cat sat on the mat .", "a dog barks at night", "one two three four five"]
REFERENCES = [
    ["the cat sat on a mat .", "a cat was sitting on the mat ."],
    ["a dog barks by night", "dogs bark at night"],
    ["one two four five", "one two three four six"],
]
STREAMS = [list(stream) for stream in zip(*REFERENCES, strict=True)]


def test_several_references() -> None:
    for metric, wanted in ((CorpusBLEU(), BLEU()), (CorpusCHRF(), CHRF())):
        metric.update(HYPOTHESES[:1], REFERENCES[:1])
        metric.update(HYPOTHESES[1:], REFERENCES[1:])
        assert metric.compute().item() == pytest.approx(wanted.corpus_score(HYPOTHESES, STREAMS).score)
        assert metric.signature() == str(wanted.get_signature())
        assert "nrefs:2" in metric.signature()


def test_another_tokenizer() -> None:
    metric = CorpusBLEU(tokenize="char")
    metric.update(["abcdef"], [["abcdxf"]])
    assert metric.compute().item() == pytest.approx(BLEU(tokenize="char").corpus_score(["abcdef"], [["abcdxf"]]).score)
    assert "tok:char" in metric.signature()


@pytest.mark.parametrize("make", [CorpusBLEU, CorpusCHRF])
def test_two_processes_score_as_one(make: Callable[[], CorpusScore]) -> None:
    whole, parts = make(), [make(), make()]
    whole.update(HYPOTHESES, REFERENCES)
    parts[0].update(HYPOTHESES[:2], REFERENCES[:2])
    parts[1].update(HYPOTHESES[2:], REFERENCES[2:])
    parts[0].texts += parts[1].texts  # as torchmetrics gathers a list state
    assert parts[0].compute() == whole.compute()


@pytest.mark.parametrize("make", [CorpusBLEU, CorpusCHRF])
def test_no_texts_score_zero_and_a_reset_forgets(make: Callable[[], CorpusScore]) -> None:
    metric = make()
    metric.update(HYPOTHESES, REFERENCES)
    assert metric.compute() > 30
    metric.reset()
    metric.update([], [])
    assert metric.compute() == 0


@pytest.mark.parametrize("make", [CorpusBLEU, CorpusCHRF])
def test_unlike_numbers_are_refused(make: Callable[[], CorpusScore]) -> None:
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        make().update(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match=r"references .*same number"):
        make().update(["a", "b"], [["a"], ["a", "b"]])
