"""Base of the decoding strategies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.generation.decoding_strategy import DecodingStrategy, Options


@given(
    size=st.integers(0, 4),
    hypotheses=st.integers(0, 9).flatmap(
        lambda length: st.lists(st.lists(st.integers(0, 3), min_size=length, max_size=length), min_size=2, max_size=2)
    ),
)
def test_repeating_tokens_are_those_that_a_search_for_the_ngram_finds(size: int, hypotheses: list[list[int]]) -> None:
    tokens = torch.tensor(hypotheses, dtype=torch.int64)[None]
    found = DecodingStrategy(no_repeat_ngram=size).repeating(tokens)
    for row, hypothesis in zip(found[0].tolist(), hypotheses, strict=True):
        seen = {tuple(hypothesis[start : start + size]) for start in range(len(hypothesis) - size + 1)}
        start = tuple(hypothesis[len(hypothesis) - size + 1 :])
        expected = {token for token in range(4) if size and len(start) == size - 1 and (*start, token) in seen}
        assert set(row) - {-1} == expected


def test_a_strategy_names_the_methods_that_it_must_define() -> None:
    strategy = DecodingStrategy()
    with pytest.raises(NotImplementedError, match=r"must define width\(n_best\)"):
        strategy.width(1)
    with pytest.raises(NotImplementedError, match="must define propose"):
        strategy.propose(Options(torch.zeros(1, 1, 3), torch.zeros(1, 1), torch.zeros(1, 1, 0)), 1)
    ranked = torch.tensor([[-1.0, -2.0]])
    assert strategy.score(ranked, torch.tensor([[3]]), None) is ranked
