"""Base of the strategies that choose the next tokens, and their input and output."""

from __future__ import annotations

import dataclasses
from abc import ABC
from typing import NamedTuple

import torch
from torch import Tensor


class Options(NamedTuple):
    """Tokens that may follow K hypotheses of each of B sentences.

    Attributes:
        logits: of the next token, (B, K, V); strategies compare them in float32 or wider.
        log_probability: of each hypothesis so far, (B, K); minus infinity for one that is not continued.
        banned: tokens that may not follow, (B, K, m), padded with -1.
        forced: the only token that may follow in each sentence, (B,), -1 for any; ``None`` if no sentence has one.
    """

    logits: Tensor
    log_probability: Tensor
    banned: Tensor
    forced: Tensor | None = None


class Continuations(NamedTuple):
    """C continuations of the hypotheses of each of B sentences.

    Attributes:
        log_probability: of the hypothesis with its new token, (B, C); minus infinity for an invalid continuation.
        origin: index among the K hypotheses of the one that is continued, (B, C).
        token: the new token, (B, C).
    """

    log_probability: Tensor
    origin: Tensor
    token: Tensor


@dataclasses.dataclass(frozen=True)
class DecodingStrategy(ABC):  # noqa: B024 # an ABC's subclasses can be named in YAML, a pure dataclass's cannot
    """Base of the strategies that choose the next tokens: :class:`BeamSearch` and :class:`Sampling`.

    Args:
        no_repeat_ngram: no n-gram of this many tokens occurs twice in a hypothesis; 0 allows all.

    Raises:
        ValueError: ``no_repeat_ngram`` is negative.
    """

    no_repeat_ngram: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram must be 0 (off) or more, got {self.no_repeat_ngram}")

    @property
    def needs_weights(self) -> bool:
        """Whether :meth:`score` uses the coverage."""
        return False

    def width(self, n_best: int) -> int:
        """K, the number of hypotheses per sentence to keep, so as to return ``n_best``."""
        raise NotImplementedError(f"{type(self).__name__} must define width(n_best)")

    def propose(self, options: Options, width: int, generator: torch.Generator | None = None) -> Continuations:
        """Chooses continuations, best first: ``width`` of them, or more in reserve for those that end.

        Args:
            options: tokens that may follow.
            width: number of hypotheses per sentence that are live after this step.
            generator: random number generator; defaults to torch's global one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define propose(options, width, generator=None)")

    def score(self, log_probability: Tensor, length: Tensor, coverage: Tensor | None) -> Tensor:
        """Score by which the hypotheses of a sentence are ranked, (B, K); by default their log probability.

        Args:
            log_probability: of each hypothesis, (B, K).
            length: number of tokens that were not forced, the end of the sentence included, (B, 1).
            coverage: total attention to each source position, (B, K, T_k); ``None`` unless :attr:`needs_weights`.
        """
        return log_probability

    def repeating(self, tokens: Tensor) -> Tensor:
        """Tokens that would repeat an n-gram of the hypothesis, (B, K, m), padded with -1.

        Args:
            tokens: the hypotheses so far, (B, K, T).

        Example:
            >>> DecodingStrategy(no_repeat_ngram=2).repeating(torch.tensor([[[5, 6, 7, 5]]]))
            tensor([[[ 6, -1, -1]]])
        """
        size = self.no_repeat_ngram
        if size == 0 or tokens.size(2) < size:
            return tokens[..., :0]
        windows = tokens.unfold(2, size, 1)  # (B, K, m, n)
        same = (windows[..., :-1] == tokens[:, :, None, tokens.size(2) - size + 1 :]).all(dim=-1)  # (B, K, m)
        return windows[..., -1].masked_fill(~same, -1)
