"""The parts of beam search against formulas and sorting; searches themselves are tested in test_engine.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty
from lightning_modules.generation.decoding_strategy import Options
from lightning_modules.system.plain import to_plain

NOTHING = torch.empty(2, 3, 0, dtype=torch.int64)


@given(alpha=st.floats(-2, 2), offset=st.floats(0, 10), length=st.integers(1, 300))
def test_length_penalty_is_the_formula(alpha: float, offset: float, length: int) -> None:
    found = LengthPenalty(alpha, offset)(torch.tensor([float(length)], dtype=torch.float64)).item()
    assert found == pytest.approx(math.exp(alpha * (math.log(offset + length) - math.log(offset + 1))))


def test_coverage_penalty_is_the_formula_without_positions_of_no_weight() -> None:
    coverage = torch.tensor([[[0.5, 1.7, 0.0], [0.1, 0.9, 0.0]]])
    strategy = BeamSearch(length_penalty=LengthPenalty(alpha=0.5), coverage_penalty=0.2)
    found = strategy.score(torch.tensor([[-3.0, -4.0]]), torch.tensor([[4]]), coverage)
    expected = [-3.0 / 2 + 0.2 * math.log(0.5), -4.0 / 2 + 0.2 * (math.log(0.1) + math.log(0.9))]
    assert found[0].tolist() == pytest.approx(expected)
    assert strategy.needs_weights
    assert not BeamSearch().needs_weights


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.sampled_from([3, 7, 60, 1_000, 3_001]),
    width=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 10**6),
    bans=st.integers(0, 4),
)
def test_the_likeliest_continuations_are_those_of_sorting_them_all(
    vocabulary: int, width: int, dtype: torch.dtype, seed: int, bans: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Values far apart, so that no two continuations are equally likely in any of the types.
    logits = torch.randn(2, 3, vocabulary, generator=generator).to(dtype)
    before = torch.randn(2, 3, generator=generator)
    banned = torch.randint(-1, vocabulary, (2, 3, bans), generator=generator)
    found = BeamSearch().propose(Options(logits, before, banned), width)
    assert found.token.shape == (2, 2 * width)
    for sentence in range(2):
        every = {
            (hypothesis, token): before[sentence, hypothesis].item() + chance
            for hypothesis in range(3)
            for token, chance in enumerate(logits[sentence, hypothesis].double().log_softmax(dim=-1).tolist())
            if token not in banned[sentence, hypothesis].tolist()
        }
        best = sorted(every.values(), reverse=True)[: 2 * width]
        best += [-math.inf] * (2 * width - len(best))
        assert found.log_probability[sentence].tolist() == pytest.approx(best, abs=1e-5)
        chosen = list(zip(found.origin[sentence].tolist(), found.token[sentence].tolist(), strict=True))
        alive = [pair for pair, chance in zip(chosen, best, strict=True) if chance > -math.inf]
        assert len(set(alive)) == len(alive)
        for pair, chance in zip(alive, best, strict=False):
            assert every[pair] == pytest.approx(chance, abs=1e-5)


def test_a_finished_hypothesis_is_not_continued_whatever_its_logits() -> None:
    logits = torch.zeros(2, 3, 5)
    logits[:, 1] = math.nan
    found = BeamSearch().propose(Options(logits, torch.tensor([[0.0, -math.inf, -1.0]] * 2), NOTHING), 2)
    assert 1 not in found.origin[found.log_probability > -math.inf]
    assert not found.log_probability.isnan().any()


def test_a_forced_token_follows_once_and_costs_nothing() -> None:
    options = Options(torch.randn(2, 3, 5), torch.tensor([[-2.0, -math.inf, -math.inf]] * 2), NOTHING)
    free = BeamSearch().propose(options, 2)
    found = BeamSearch().propose(options._replace(forced=torch.tensor([3, -1])), 2)
    assert found.log_probability[0].tolist() == [-2.0, -math.inf, -math.inf, -math.inf]
    assert (found.origin[0, 0].item(), found.token[0, 0].item()) == (0, 3)

    def second(tensors: tuple[Tensor, ...]) -> list[list[float]]:
        return [tensor[1].tolist() for tensor in tensors]

    assert second(found) == second(free)


def test_more_hypotheses_than_the_beam_keeps_are_refused() -> None:
    assert BeamSearch(size=3).width(2) == 3
    with pytest.raises(ValueError, match=r"n_best=4 .* 3"):
        BeamSearch(size=3).width(4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BeamSearch(size=0), "size .*got 0"),
        (lambda: BeamSearch(coverage_penalty=-0.1), "coverage_penalty .*got -0.1"),
        (lambda: BeamSearch(coverage_penalty=math.nan), "coverage_penalty .*got nan"),
        (lambda: BeamSearch(no_repeat_ngram=-1), "no_repeat_ngram .*got -1"),
        (lambda: LengthPenalty(alpha=math.inf), "alpha .*got inf"),
        (lambda: LengthPenalty(offset=-1.0), "offset .*got -1.0"),
    ],
)
def test_values_out_of_range_are_named(build: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_it_is_built_from_a_recipe_and_from_a_checkpoint() -> None:
    parser = ArgumentParser()
    parser.add_argument("--strategy", type=BeamSearch | None)
    strategy = BeamSearch(7, LengthPenalty(alpha=0.6, offset=5.0), coverage_penalty=0.2, no_repeat_ngram=3)
    plain = to_plain(strategy, "strategy")
    built = parser.instantiate(parser.parse_object({"strategy": plain})).strategy
    assert built == strategy
    part = parser.parse_args(["--strategy.size=7", "--strategy.length_penalty.alpha=0.5"])
    assert parser.instantiate(part).strategy == BeamSearch(7, LengthPenalty(alpha=0.5))
