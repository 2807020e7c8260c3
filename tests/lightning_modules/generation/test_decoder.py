"""The contract between decoders and the engine: two methods, and states that are trees of tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules import generate
from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.decoder import Decoder, DecodingState, Hypothesis, StepOutput


class Language:
    """A decoder without memory and without state: the last token alone determines the logits."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def start(self, memory: object) -> DecodingState:
        return DecodingState(memory, None)

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        return StepOutput(self.table[tokens], state, None)


class Nested:
    """A decoder whose state is a tree: a named tuple, a list and a dict of tensors, and values that are not tensors."""

    def start(self, memory: Tensor) -> DecodingState:
        read = memory.new_zeros(len(memory), 1)
        return DecodingState({"table": [memory], "name": "kept"}, (Hypothesis([], 0.0, 0.0, read), [{"read": read}], 7))

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        one, [parts], number = state.hypotheses
        assert (state.memory["name"], number) == ("kept", 7)
        assert torch.equal(one.weights, parts["read"])
        read = parts["read"] + tokens.reshape(-1, 1)
        [table] = state.memory["table"]
        logits = table[torch.arange(len(tokens))[:, None], read.long().view(tokens.shape) % table.size(1)]
        return StepOutput(logits, state._replace(hypotheses=(one._replace(weights=read), [{"read": read}], 7)), None)


def test_a_decoder_is_any_object_with_the_two_methods() -> None:
    decoder: Decoder = Language(torch.tensor([[0.0] * 5, [0, 0, 0, 0, 9.0], [0.0] * 5, [0.0] * 5, [0, 0, 9.0, 0, 0]]))
    [[found]] = generate(decoder, None, prefix=[[]], bos_id=1, eos_id=2, pad_id=0, max_length=5)
    assert found.tokens == [4, 2]


@pytest.mark.parametrize("size", [1, 3])
def test_states_may_be_trees(size: int) -> None:
    """Every hypothesis keeps its own part of the tree: logits depend on the sum of its tokens."""
    table = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    found = generate(Nested(), table, BeamSearch(size), bos_id=1, eos_id=2, pad_id=0, max_length=5, n_best=size)
    for sentence, hypotheses in enumerate(found):
        for one in hypotheses:
            read, total = 1, 0.0
            for token in one.tokens:
                total += table[sentence, read].log_softmax(0)[token].item()
                read += token
            assert one.log_probability == pytest.approx(total, abs=1e-5)


def test_a_hypothesis_has_weights_on_request_only() -> None:
    assert Hypothesis([4, 2], -1.0, -2.0).weights is None
