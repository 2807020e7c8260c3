"""What every way of choosing the next tokens shares: what it is shown, what it answers, and what may not be written."""

from __future__ import annotations

import dataclasses
from abc import ABC
from typing import NamedTuple

import torch
from torch import Tensor


class Options(NamedTuple):
    """What may follow K hypotheses of each of B sentences.

    Attributes:
        logits: (B, K, V), of the next token; float32 at least is made of them before anything is compared.
        log_probability: (B, K), of each hypothesis so far; minus infinity for one that is no longer continued.
        banned: (B, K, m), tokens that may not follow; -1 bans nothing.
        forced: (B,), the only token that may follow in a sentence, -1 where it is free; ``None`` if all are.
    """

    logits: Tensor
    log_probability: Tensor
    banned: Tensor
    forced: Tensor | None = None


class Continuations(NamedTuple):
    """Which tokens follow which hypotheses, C of them for each of B sentences.

    Attributes:
        log_probability: (B, C), of the hypothesis with its new token; minus infinity for what is no continuation.
        origin: (B, C), which of the K hypotheses is continued.
        token: (B, C), the new token.
    """

    log_probability: Tensor
    origin: Tensor
    token: Tensor


@dataclasses.dataclass(frozen=True)
class DecodingStrategy(ABC):  # noqa: B024 # an ABC's subclasses can be named in YAML, a pure dataclass's cannot
    """Base of how the next tokens are chosen: :class:`BeamSearch` and :class:`Sampling`.

    Args:
        no_repeat_ngram: no n-gram of this many tokens comes twice in a hypothesis; 0 lets them all.

    Raises:
        ValueError: ``no_repeat_ngram`` is negative.
    """

    no_repeat_ngram: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram must be 0 (off) or more, got {self.no_repeat_ngram}")

    @property
    def needs_weights(self) -> bool:
        """Whether :meth:`score` looks at the coverage."""
        return False

    def width(self, n_best: int) -> int:
        """K, the number of hypotheses a sentence, for so many wanted ones."""
        raise NotImplementedError(f"{type(self).__name__} must define width(n_best)")

    def propose(self, options: Options, width: int, generator: torch.Generator | None = None) -> Continuations:
        """Chooses continuations, the best ones first: ``width`` of them, or more if some may be needed in reserve.

        Args:
            options: what may follow.
            width: how many hypotheses of a sentence are alive after this step.
            generator: what chance is drawn from; torch's global one when left out.
        """
        raise NotImplementedError(f"{type(self).__name__} must define propose(options, width, generator=None)")

    def score(self, log_probability: Tensor, length: Tensor, coverage: Tensor | None) -> Tensor:
        """By what the hypotheses of a sentence are ranked; their log probability unless a subclass says otherwise.

        Args:
            log_probability: (B, K).
            length: (B, 1), the number of chosen tokens, the end of the sentence included.
            coverage: (B, K, T_k), how much each place of the source was looked at, only if :attr:`needs_weights`.

        Returns:
            (B, K).
        """
        return log_probability

    def repeating(self, tokens: Tensor) -> Tensor:
        """Tokens that would complete an n-gram which a hypothesis already has.

        Args:
            tokens: (B, K, T), the hypotheses so far.

        Returns:
            (B, K, m), filled up with -1.

        Example:
            >>> DecodingStrategy(no_repeat_ngram=2).repeating(torch.tensor([[[5, 6, 7, 5]]]))
            tensor([[[ 6, -1, -1]]])
        """
        size = self.no_repeat_ngram
        if size == 0 or tokens.size(2) < size:
            return tokens[..., :0]
        windows = tokens.unfold(2, size, 1)
        same = (windows[..., :-1] == tokens[:, :, None, tokens.size(2) - size + 1 :]).all(dim=-1)
        return windows[..., -1].masked_fill(~same, -1)
