"""Scores of one evaluation loop; those of whole loops of a system are tested in text/test_text_generator.py."""

from __future__ import annotations

import pytest
import torch

from lightning_modules import CorpusBLEU, CorpusCHRF
from lightning_modules.metrics.diversity import DistinctNGrams
from lightning_modules.metrics.text_scores import TextScores


def test_what_is_not_finite_is_returned_and_no_text_is_not_an_error() -> None:
    scores = TextScores({"bleu": CorpusBLEU(), "chrf": CorpusCHRF()})
    scores.loss.update(torch.tensor([1000.0]))
    scores.accuracy.update(torch.tensor([0.0]))
    scores.update(["a"], [["b"]])
    found = scores.compute()
    assert found["loss"] == 1000
    assert found["perplexity"].isinf()
    assert found["bleu"] == 0
    assert tuple(found) == ("loss", "perplexity", "token_accuracy", "exact", "bleu", "chrf")


def test_a_text_is_exact_if_it_equals_any_reference_and_a_new_loop_starts_at_zero() -> None:
    scores = TextScores({})
    for hypotheses, references, exact in (
        (["a dog", "a cat"], [["the dog", "a dog"], ["the cat", "A cat"]], 0.5),
        (["a dog"], [["a cat"]], 0.0),
    ):
        scores.loss.update(torch.tensor([0.0]))
        scores.accuracy.update(torch.tensor([1.0]))
        scores.update(hypotheses, references)
        found = scores.compute()
        assert found["exact"].item() == pytest.approx(exact)
        assert found["perplexity"] == 1


def test_only_scores_that_others_compute_differently_have_a_signature() -> None:
    bleu = CorpusBLEU()
    scores = TextScores({"bleu": bleu, "distinct": DistinctNGrams(1)})
    scores.update(["a"], [["b"]])
    bleu.compute()
    assert scores.signatures() == {"bleu": bleu.signature()}
