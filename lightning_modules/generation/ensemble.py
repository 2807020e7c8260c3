"""Several decoders that write one text together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generation.decoder import Decoder, DecodingState, StepOutput


class Ensemble:
    """A decoder whose probabilities are the arithmetic mean of those of its members.

    Its memory is a list, one memory for each member, all of the same sentences; the members share the vocabulary of
    what is written, but may read different things. Its weights are the mean of theirs, which must then look at the
    same places.

    Args:
        decoders: the members.

    Raises:
        ValueError: there are none.

    Example:
        >>> class Fixed:
        ...     def __init__(self, *probability):
        ...         self.logits = torch.tensor(probability).log()
        ...     def start(self, memory):
        ...         return DecodingState(memory, None)
        ...     def step(self, tokens, state, *, need_weights=False):
        ...         return StepOutput(self.logits.expand(*tokens.shape, -1), state, None)
        >>> both = Ensemble([Fixed(0.2, 0.8), Fixed(0.6, 0.4)])
        >>> state = both.start([torch.zeros(1, 3), torch.zeros(1, 5)])
        >>> both.step(torch.tensor([[0]]), state).logits.exp()
        tensor([[[0.4000, 0.6000]]])
    """

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        if not decoders:
            raise ValueError("decoders is empty; an ensemble needs at least one")
        self.decoders = list(decoders)

    def start(self, memory: Sequence[Any]) -> DecodingState:
        """The states of all members.

        Args:
            memory: what each member starts from.

        Raises:
            ValueError: not as many memories as members.
        """
        if len(memory) != len(self.decoders):
            raise ValueError(f"memory must be a list of {len(self.decoders)}, one for each member, got {len(memory)}")
        states = [decoder.start(part) for decoder, part in zip(self.decoders, memory, strict=True)]
        return _together(states)

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """The logarithm of the mean probability of each token.

        Args:
            tokens: (B, K) int64, the last token of each hypothesis.
            state: of all members.
            need_weights: also return where the members looked, on average.

        Raises:
            ValueError: the members' vocabularies or, if asked for, their weights are of different sizes.
        """
        outputs = [
            decoder.step(tokens, DecodingState(*parts), need_weights=need_weights)
            for decoder, *parts in zip(self.decoders, state.memory, state.hypotheses, strict=True)
        ]
        logits = torch.stack(_same_size("logits", [output.logits for output in outputs]))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        mean = logits.log_softmax(dim=-1, dtype=dtype).logsumexp(dim=0) - math.log(len(outputs))
        weights = [output.weights for output in outputs if output.weights is not None]
        looked = need_weights and len(weights) == len(outputs)
        return StepOutput(
            mean,
            _together([output.state for output in outputs]),
            torch.stack(_same_size("weights", weights)).mean(dim=0) if looked else None,
        )


def _together(states: Sequence[DecodingState]) -> DecodingState:
    return DecodingState([state.memory for state in states], [state.hypotheses for state in states])


def _same_size(name: str, tensors: list[Tensor]) -> list[Tensor]:
    sizes = {tensor.size(-1) for tensor in tensors}
    if len(sizes) > 1:
        raise ValueError(f"the members' {name} must be of one size, got {sorted(sizes)} in the last dimension")
    return tensors
