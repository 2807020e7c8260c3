"""Samples against the distribution they should come from."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from lightning_modules.generation.decoder import DecodingState, StepOutput
from lightning_modules.generation.decoding_strategy import Options
from lightning_modules.generation.engine import generate
from lightning_modules.generation.sampling import Sampling, draw_indices
from lightning_modules.system.plain import to_plain

DRAWS = 20_000
LOGITS = torch.tensor([1.0, 0.5, -0.3, 2.0, 0.0, -2.0, 1.5, -4.0])


def draw(strategy: Sampling, logits: Tensor = LOGITS, banned: tuple[int, ...] = (), seed: int = 0) -> Tensor:
    options = Options(logits[None, None], torch.zeros(1, 1), torch.tensor([[banned]], dtype=torch.int64))
    return strategy.propose(options, DRAWS, torch.Generator().manual_seed(seed)).token[0]


def assert_drawn_from(tokens: Tensor, probability: list[float]) -> None:
    """Each count lies within five standard deviations, and Pearson's statistic within five of its own."""
    counts = tokens.bincount(minlength=len(probability)).tolist()
    statistic = 0.0
    for count, chance in zip(counts, probability, strict=True):
        expected = chance * DRAWS
        if chance == 0.0:
            assert count == 0
        else:
            assert abs(count - expected) <= 5 * math.sqrt(expected * (1 - chance)) + 1e-9
            statistic += (count - expected) ** 2 / expected
    freedom = sum(chance > 0 for chance in probability) - 1
    assert statistic <= freedom + 5 * math.sqrt(2 * freedom)


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("banned", [(), (3,), (0, -1, 6)])
def test_tokens_come_as_often_as_softmax_says(temperature: float, banned: tuple[int, ...]) -> None:
    values = [-math.inf if token in banned else value / temperature for token, value in enumerate(LOGITS.tolist())]
    assert_drawn_from(draw(Sampling(temperature=temperature), banned=banned), softmax(values))


@pytest.mark.parametrize("count", [1, 3, 8, 50])
def test_top_k_draws_from_the_likeliest(count: int) -> None:
    best = sorted(LOGITS.tolist(), reverse=True)[:count]
    values = [value if value in best else -math.inf for value in LOGITS.tolist()]
    assert_drawn_from(draw(Sampling(top_k=count)), softmax(values))


@pytest.mark.parametrize(("top_p", "top_k"), [(0.05, 0), (0.5, 0), (0.9, 0), (0.999, 0), (0.5, 4)])
def test_top_p_draws_from_the_fewest_that_reach_it(top_p: float, top_k: int) -> None:
    order = sorted(range(8), key=lambda token: -LOGITS[token].item())
    values = [-math.inf if top_k and token not in order[:top_k] else LOGITS[token].item() for token in range(8)]
    probability, together, kept = softmax(values), 0.0, []
    for token in order:
        kept.append(token)
        together += probability[token]
        if together >= top_p:
            break
    expected = [probability[token] / together if token in kept else 0.0 for token in range(8)]
    assert_drawn_from(draw(Sampling(top_p=top_p, top_k=top_k)), expected)


class Table:
    """Logits by the last token."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def start(self, memory: object) -> DecodingState:
        return DecodingState(memory, None)

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        return StepOutput(self.table[tokens], state, None)


def write(table: Tensor, strategy: Sampling, n_best: int, generator: torch.Generator | None = None) -> list[list[int]]:
    found = generate(
        Table(table),
        None,
        strategy,
        prefix=[[]],
        pad_id=0,
        bos_id=1,
        eos_id=2,
        max_length=2,
        n_best=n_best,
        generator=generator,
    )
    return [hypothesis.tokens for hypothesis in found[0]]


@given(data=st.data(), number=st.integers(1, 50))
def test_tokens_without_probability_are_never_drawn(data: st.DataObject, number: int) -> None:
    sizes = st.sampled_from([0.0, 1e-30, 1e-7, 0.3, 1.0])
    rows = data.draw(st.lists(st.lists(sizes, min_size=5, max_size=5).filter(any), min_size=1, max_size=4))
    probability = torch.tensor(rows)
    drawn = draw_indices(probability, number)
    assert drawn.shape == (len(rows), number)
    assert (probability.gather(1, drawn) > 0).all()


def test_whole_sequences_come_as_often_as_the_decoder_says() -> None:
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    allowed = [2, 3, 4]
    chances = {
        token: softmax([table[token, other].item() if other in allowed else -math.inf for other in range(5)])
        for token in (1, 3, 4)
    }
    sequences = [[2], *([first, second] for first in (3, 4) for second in allowed)]
    expected = [
        chances[1][tokens[0]] * (chances[tokens[0]][tokens[1]] if len(tokens) > 1 else 1.0) for tokens in sequences
    ]
    written = write(table, Sampling(), DRAWS, torch.Generator().manual_seed(0))
    assert_drawn_from(torch.tensor([sequences.index(tokens) for tokens in written]), expected)


def test_log_probability_is_that_of_the_decoder_whatever_the_sampling() -> None:
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(4))
    model = table.double().log_softmax(dim=-1)
    [found] = generate(
        Table(table),
        None,
        Sampling(temperature=0.3, top_k=2, top_p=0.8),
        prefix=[[]],
        pad_id=0,
        bos_id=1,
        eos_id=2,
        max_length=5,
        n_best=4,
    )
    for hypothesis in found:
        path = [1, *hypothesis.tokens]
        expected = sum(model[before, after].item() for before, after in itertools.pairwise(path))
        assert hypothesis.log_probability == pytest.approx(expected, abs=1e-5)
        assert hypothesis.score == hypothesis.log_probability


def test_a_generator_repeats_its_draws_and_leaves_the_global_one_unchanged() -> None:
    table = torch.zeros(40, 40)
    state = torch.get_rng_state()
    first, second, other = (write(table, Sampling(), 20, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert first == second != other
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    by_global = write(table, Sampling(), 20)
    torch.manual_seed(5)
    assert write(table, Sampling(), 20) == by_global
    assert not torch.equal(torch.get_rng_state(), state)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), draws=st.integers(1, 4))
def test_one_continuation_of_each_hypothesis_and_none_of_one_that_is_over(seed: int, draws: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 7, generator=generator).half()
    logits[0, 1] = math.nan
    before = torch.randn(2, 3, generator=generator)
    before[0, 1] = -math.inf
    banned = torch.tensor([[[4], [-1], [9]]] * 2)
    found = Sampling(top_p=0.9).propose(Options(logits, before, banned), 3 * draws, generator)
    assert found.origin.tolist() == [[row for row in range(3) for _ in range(draws)]] * 2
    over = torch.zeros(2, 3, draws, dtype=torch.bool)
    over[0, 1] = True
    assert torch.equal(found.log_probability.isneginf(), over.flatten(1))
    assert not found.log_probability.isnan().any()
    assert (found.token[:, :draws] != 4).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sampling(temperature=0.0), "temperature .*got 0.0"),
        (lambda: Sampling(temperature=math.nan), "temperature .*got nan"),
        (lambda: Sampling(top_k=-1), "top_k .*got -1"),
        (lambda: Sampling(top_p=0.0), "top_p .*got 0.0"),
        (lambda: Sampling(top_p=1.1), "top_p .*got 1.1"),
        (lambda: Sampling(no_repeat_ngram=-1), "no_repeat_ngram .*got -1"),
    ],
)
def test_values_out_of_range_are_named(build: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_it_is_built_from_a_recipe_and_from_a_checkpoint() -> None:
    parser = ArgumentParser()
    parser.add_argument("--strategy", type=Sampling)
    strategy = Sampling(temperature=0.7, top_k=30, top_p=0.9, no_repeat_ngram=2)
    plain = to_plain(strategy, "strategy")
    assert parser.instantiate(parser.parse_object({"strategy": plain})).strategy == strategy
