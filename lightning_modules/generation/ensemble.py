"""Several decoders that generate one text together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generation.decoder import Decoder, DecodingState, StepOutput


class Ensemble:
    """Decoder whose probabilities are the arithmetic mean of its members' probabilities.

    Its memory is a list with one memory per member, all of the same sentences. The members generate tokens of one
    vocabulary, from sources that may differ. Attention weights are the mean of the members', whose sources must then
    have the same positions.

    Args:
        decoders: the members.

    Raises:
        ValueError: ``decoders`` is empty.

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
        """State of all members before the first token.

        Args:
            memory: one memory per member.

        Raises:
            ValueError: the numbers of memories and members differ.
        """
        if len(memory) != len(self.decoders):
            raise ValueError(f"memory must be a list of {len(self.decoders)}, one per member, got {len(memory)}")
        states = [decoder.start(part) for decoder, part in zip(self.decoders, memory, strict=True)]
        return _joint_state(states)

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """Logarithm of the mean probability of each token.

        Args:
            tokens: last token of each hypothesis, (B, K) int64.
            state: of all members.
            need_weights: also return the mean of the members' attention weights.

        Raises:
            ValueError: the members' vocabularies or, if requested, their weights differ in size.
        """
        outputs = [
            decoder.step(tokens, DecodingState(*parts), need_weights=need_weights)
            for decoder, *parts in zip(self.decoders, state.memory, state.hypotheses, strict=True)
        ]
        logits = torch.stack(_same_size("logits", [output.logits for output in outputs]))  # (members, B, K, V)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        mean = logits.log_softmax(dim=-1, dtype=dtype).logsumexp(dim=0) - math.log(len(outputs))  # (B, K, V)
        weights = [output.weights for output in outputs if output.weights is not None]
        has_weights = need_weights and len(weights) == len(outputs)
        return StepOutput(
            mean,
            _joint_state([output.state for output in outputs]),
            torch.stack(_same_size("weights", weights)).mean(dim=0) if has_weights else None,
        )


def _joint_state(states: Sequence[DecodingState]) -> DecodingState:
    return DecodingState([state.memory for state in states], [state.hypotheses for state in states])


def _same_size(name: str, tensors: list[Tensor]) -> list[Tensor]:
    sizes = {tensor.size(-1) for tensor in tensors}
    if len(sizes) > 1:
        raise ValueError(f"the members' {name} must be of one size, got {sorted(sizes)} in the last dimension")
    return tensors
