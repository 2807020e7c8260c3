"""Sampling of tokens at random, from the whole distribution or from its likeliest part."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from lightning_modules.generation.decoding_strategy import Continuations, DecodingStrategy, Options


@dataclasses.dataclass(frozen=True)
class Sampling(DecodingStrategy):
    """Draws each token by its probability; the ``n_best`` hypotheses of a sentence are independent.

    The temperature is applied first, then ``top_k``, then ``top_p``. Reported log probabilities are those of the
    model's full distribution, without any of the three.

    Args:
        temperature: divides the logits; less than 1 sharpens, more than 1 flattens.
        top_k: draw from this many likeliest tokens; 0 draws from all.
        top_p: draw from the smallest set of likeliest tokens whose total probability reaches this; 1 draws from all.
        no_repeat_ngram: no n-gram of this many tokens occurs twice in a hypothesis; 0 allows all.

    Raises:
        ValueError: a value is out of its range.

    References:
        Fan et al. 2018, "Hierarchical Neural Story Generation" (``top_k``); Holtzman et al. 2020, "The Curious Case of
        Neural Text Degeneration" (``top_p``).

    Example:
        >>> Sampling(temperature=0.8, top_p=0.95).width(n_best=3)
        3
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {self.temperature}; BeamSearch(size=1) takes the best")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all tokens) or more, got {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}; 1 draws from all tokens")

    def width(self, n_best: int) -> int:
        """See :meth:`DecodingStrategy.width`."""
        return n_best

    def propose(self, options: Options, width: int, generator: torch.Generator | None = None) -> Continuations:
        """One continuation of each hypothesis, or ``width`` of the only one that a sentence starts with."""
        logits = options.logits
        model = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))  # (B, K, V)
        allowed = model.masked_fill(_listed(options.banned, logits.size(2)), -math.inf)  # (B, K, V)
        # Where every token is banned, any is drawn, and the continuation is marked as invalid.
        stuck = allowed.amax(dim=-1).isneginf() | options.log_probability.isneginf()  # (B, K)
        tokens, probability = self._distribution(allowed)  # (B, K, n) each
        probability = torch.where(probability.isnan().any(dim=-1, keepdim=True), 1.0, probability)
        draws = width // logits.size(1)
        drawn = draw_indices(probability.flatten(0, 1), draws, generator)  # (B K, draws)
        token = tokens.gather(2, drawn.view(*logits.shape[:2], draws))  # (B, K, draws)
        gain, token = model.gather(2, token).flatten(1), token.flatten(1)  # (B, width) each
        origin = (torch.arange(width, device=logits.device) // draws).expand(len(logits), -1)  # (B, width)
        before = options.log_probability.gather(1, origin)  # (B, width)
        total = torch.where(stuck.gather(1, origin), -math.inf, before + gain)  # (B, width)
        if options.forced is not None:
            is_forced = (options.forced >= 0)[:, None]  # (B, 1)
            total = torch.where(is_forced, before, total)
            token = torch.where(is_forced, options.forced[:, None], token)
        return Continuations(total, origin, token)

    def _distribution(self, log_probability: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens to draw from and their probabilities, (B, K, n) each, n up to V."""
        vocabulary = log_probability.size(2)
        values = log_probability / self.temperature
        if self.top_k == 0 and self.top_p == 1.0:
            return torch.arange(vocabulary, device=values.device).expand_as(values), values.softmax(dim=-1)
        values, tokens = values.topk(min(self.top_k or vocabulary, vocabulary))
        probability = values.softmax(dim=-1)
        if self.top_p < 1.0:
            likelier = probability.cumsum(dim=-1) - probability  # total probability of all likelier tokens
            probability = probability.masked_fill(likelier >= self.top_p, 0.0)
        return tokens, probability


def draw_indices(probability: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Indices drawn at random by their probability, with replacement, (B, count).

    Args:
        probability: (B, V); rows may have any positive sum. An index of probability 0 is never drawn.
        count: number of draws per row.
        generator: random number generator; defaults to torch's global one.

    Example:
        >>> draw_indices(torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 2.0]]), 4)
        tensor([[1, 1, 1, 1],
                [2, 2, 2, 2]])
    """
    # Inverse transform sampling: on a CPU about twenty times as fast as torch.multinomial.
    cumulative = probability.cumsum(dim=-1)  # (B, V)
    total = cumulative[:, -1:]  # (B, 1)
    uniform = torch.rand(
        len(cumulative), count, dtype=cumulative.dtype, device=cumulative.device, generator=generator
    )  # (B, count)
    # Rounding may give the total itself, which no index reaches.
    heights = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, heights, right=True)


def _listed(tokens: Tensor, vocabulary: int) -> Tensor:
    """Whether each token of the vocabulary is among ``tokens``, (B, K, m) to (B, K, V)."""
    inside = torch.where((tokens >= 0) & (tokens < vocabulary), tokens, vocabulary)
    listed = torch.zeros(*tokens.shape[:2], vocabulary + 1, dtype=torch.bool, device=tokens.device)
    return listed.scatter_(2, inside, torch.ones_like(inside, dtype=torch.bool))[..., :vocabulary]
