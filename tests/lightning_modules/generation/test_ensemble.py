"""Several decoders at once against the mean of their probabilities."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty
from lightning_modules.generation.decoder import DecodingState, StepOutput
from lightning_modules.generation.engine import generate
from lightning_modules.generation.ensemble import Ensemble

write = partial(generate, pad_id=0, bos_id=1, eos_id=2, max_length=4)


class Summing:
    """Logits by the sum of all tokens so far, which is the state, from a table a sentence, which is the memory."""

    def start(self, memory: Tensor) -> DecodingState:
        return DecodingState((memory, None), [torch.zeros(len(memory), dtype=torch.int64)])

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        [total], (memory, _) = state.hypotheses, state.memory
        total = total + tokens.flatten()
        logits = memory[torch.arange(len(tokens))[:, None], total.view(tokens.shape)]
        weights = logits[..., :3].softmax(dim=-1) if need_weights else None
        return StepOutput(logits, DecodingState(state.memory, [total]), weights)


def tables(count: int, vocabulary: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [2.0 * torch.randn(3, 4 * vocabulary, vocabulary, generator=generator) for _ in range(count)]


def test_an_ensemble_of_one_is_that_one() -> None:
    [memory] = tables(1)
    alone = write(Summing(), memory, n_best=3)
    for one, other in zip(write(Ensemble([Summing()]), [memory], n_best=3), alone, strict=True):
        assert [hypothesis.tokens for hypothesis in one] == [hypothesis.tokens for hypothesis in other]
        scores = [hypothesis.score for hypothesis in other]
        assert [hypothesis.score for hypothesis in one] == pytest.approx(scores, abs=1e-5)


def test_a_wide_beam_finds_what_is_likeliest_by_the_mean_probability() -> None:
    memories = tables(3)
    strategy = BeamSearch(size=130, length_penalty=LengthPenalty(alpha=0.0))
    found = write(Ensemble([Summing()] * 3), memories, strategy, n_best=130)
    words = [3, 4, 5]
    sequences = [(*start, 2) for length in range(4) for start in itertools.product(words, repeat=length)]
    sequences += itertools.product(words, repeat=4)
    for sentence, hypotheses in enumerate(found):
        expected = {}
        for tokens in sequences:
            chance, path = 1.0, [1, *tokens]
            for position, token in enumerate(tokens):
                rows = [memory[sentence, sum(path[: position + 1])].tolist() for memory in memories]
                chance *= sum(math.exp(row[token]) / sum(map(math.exp, row)) for row in rows) / 3
            expected[tokens] = math.log(chance)
        assert {tuple(one.tokens) for one in hypotheses} == set(expected)
        assert [one.log_probability for one in hypotheses] == pytest.approx(
            [expected[tuple(one.tokens)] for one in hypotheses], abs=1e-5
        )
        assert [one.score for one in hypotheses] == sorted((one.score for one in hypotheses), reverse=True)


def test_weights_are_the_mean_of_the_members() -> None:
    memories = tables(2)
    for hypotheses in zip(
        write(Ensemble([Summing(), Summing()]), memories, need_weights=True),
        write(Ensemble([Summing(), Summing()]), memories),
        strict=True,
    ):
        [[with_weights], [without]] = hypotheses
        assert without.weights is None
        assert with_weights.tokens == without.tokens
    for sentence, [best] in enumerate(write(Ensemble([Summing(), Summing()]), memories, need_weights=True)):
        path = [1, *best.tokens]
        positions = [sum(path[: position + 1]) for position in range(len(best.tokens))]
        expected = sum(memory[sentence, positions, :3].softmax(dim=-1) for memory in memories) / 2
        assert isinstance(expected, Tensor)
        assert best.weights is not None
        torch.testing.assert_close(best.weights, expected)


def test_members_of_half_precision_are_averaged_in_float32() -> None:
    memories = [memory.bfloat16() for memory in tables(2)]
    ensemble = Ensemble([Summing(), Summing()])
    logits = ensemble.step(torch.tensor([[1], [1], [1]]), ensemble.start(memories)).logits
    expected = sum(memory[:, 1].double().softmax(dim=-1) for memory in memories) / 2
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(logits[:, 0].double(), expected.log(), rtol=1e-5, atol=1e-5)


def test_members_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="decoders is empty"):
        Ensemble([])
    with pytest.raises(ValueError, match=r"memory .* 2, .*got 3"):
        write(Ensemble([Summing(), Summing()]), tables(3))
    with pytest.raises(ValueError, match=r"logits .*got \[6, 7\]"):
        write(Ensemble([Summing(), Summing()]), [*tables(1), *tables(1, vocabulary=7)])
