"""The contract between a decoder and the generation engine."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class DecodingState(NamedTuple):
    """State of a decoder between two steps, as two trees of tensors.

    A tree is a tensor, a number, a string, ``None``, or a tuple, named tuple, list or dict of trees.

    Attributes:
        memory: state that all hypotheses of a sentence have in common; tensors have one row per sentence, (B, …).
            It is never copied per hypothesis: the K hypotheses of a sentence are K queries.
        hypotheses: state of each hypothesis; tensors have one row per hypothesis, (B K, …), those of a sentence next
            to each other.
    """

    memory: Any
    hypotheses: Any


class StepOutput(NamedTuple):
    """Output of a decoder for one step.

    Attributes:
        logits: of the next token, (B, K, V).
        state: for the next step.
        weights: attention weights of each hypothesis, (B, K, T_k); ``None`` if not requested.
    """

    logits: Tensor
    state: DecodingState
    weights: Tensor | None


class Decoder(Protocol):
    """Interface between a system and the generation engine."""

    def start(self, memory: Any) -> DecodingState:  # noqa: ANN401
        """State before the first token, with one hypothesis per sentence.

        Args:
            memory: as passed to :func:`generate`.
        """
        ...

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """Logits of the token that follows each hypothesis.

        Args:
            tokens: last token of each hypothesis, (B, K) int64. B shrinks as sentences are done; K is 1 in the
                first step and while every sentence is within its prefix, then the width of the search.
            state: from :meth:`start` or the previous :meth:`step`, with the rows of these hypotheses.
            need_weights: also return attention weights.
        """
        ...


class Hypothesis(NamedTuple):
    """One generated sequence.

    Attributes:
        tokens: T tokens after ``bos_id``, those of the prefix first; the last is ``eos_id`` unless the hypothesis was
            cut at the maximum length.
        score: value by which the hypotheses of a sentence are ranked, penalties included; the higher the better.
        log_probability: sum over the tokens that were not forced, in nats, under the decoder's full distribution.
        weights: attention weights of each token, (T, T_k); ``None`` if not requested.
    """

    tokens: list[int]
    score: float
    log_probability: float
    weights: Tensor | None = None
