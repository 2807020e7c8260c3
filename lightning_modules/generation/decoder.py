"""The contract between a decoder and the generation engine."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class DecodingState(NamedTuple):
    """What a decoder knows between two steps, as two trees of tensors.

    A tree is a tensor, a number, a text, ``None``, or a tuple, named tuple, list or dict of trees.

    Attributes:
        memory: what is the same for all hypotheses of a sentence; its tensors have one row a sentence, (B, ...).
            Never copied for each hypothesis: the K hypotheses of a sentence are K queries.
        hypotheses: what is each hypothesis's own; its tensors have one row a hypothesis, (B * K, ...), those of a
            sentence next to each other.
    """

    memory: Any
    hypotheses: Any


class StepOutput(NamedTuple):
    """What a decoder says of the next token.

    Attributes:
        logits: (B, K, V).
        state: for the next step.
        weights: (B, K, T_k), where each hypothesis looked; ``None`` unless it was asked for.
    """

    logits: Tensor
    state: DecodingState
    weights: Tensor | None


class Decoder(Protocol):
    """What a system gives the engine."""

    def start(self, memory: Any) -> DecodingState:  # noqa: ANN401
        """The state before the first token, with one hypothesis a sentence.

        Args:
            memory: what :func:`generate` was given.
        """
        ...

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """The logits of the token that follows each hypothesis.

        Args:
            tokens: (B, K) int64, the last token of each hypothesis. B falls when sentences are done; K is 1 in the
                first step, and the width of the search after the last token that is forced in every sentence.
            state: what :meth:`start` or the last :meth:`step` returned, with the rows of these hypotheses.
            need_weights: also return where each hypothesis looked.
        """
        ...


class Hypothesis(NamedTuple):
    """One generated sequence.

    Attributes:
        tokens: from the first after ``bos_id`` on, the forced ones first; ``eos_id`` is the last one unless the
            hypothesis was cut at the maximum length.
        score: what hypotheses were ranked by, penalties included.
        log_probability: the sum over the tokens that were not forced, in nats, by the decoder's whole distribution.
        weights: (T, T_k), where the decoder looked for each token; ``None`` unless it was asked for.
    """

    tokens: list[int]
    score: float
    log_probability: float
    weights: Tensor | None = None
