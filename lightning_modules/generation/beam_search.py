"""Beam search: the continuations with the highest probability, ranked by length and by coverage of the source."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.generation.decoding_strategy import Continuations, DecodingStrategy, Options

# So many numbers at a time, 2 MiB of float32, stay in the caches between their softmax and the choice among them.
_CACHED = 2**19
# Half a dozen to a dozen largest of ten thousand are found fastest among the maxima of groups of this size.
_GROUP = 8


@dataclasses.dataclass(frozen=True)
class LengthPenalty:
    """What the log probability of a hypothesis is divided by, so that longer ones are not put at a disadvantage.

    ((offset + length) / (offset + 1)) ** alpha, where length counts the end of the sentence too. Offset 0 with alpha
    1 ranks by the average log probability of a token; offset 5 is the penalty of Wu et al.

    Args:
        alpha: 0 ranks by the plain log probability, more prefers longer hypotheses, less shorter ones.
        offset: 0 or more; with a large one lengths differ less.

    Raises:
        ValueError: ``alpha`` is not finite, or ``offset`` is negative.

    References:
        Wu et al. 2016, "Google's Neural Machine Translation System", equation 14.

    Example:
        >>> length = torch.tensor([1.0, 2.0, 7.0])
        >>> LengthPenalty()(length), LengthPenalty(alpha=1.0, offset=5.0)(length)
        (tensor([1., 2., 7.]), tensor([1.0000, 1.1667, 2.0000]))
    """

    alpha: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be a finite number, got {self.alpha}; 0 turns the penalty off")
        if not 0.0 <= self.offset < math.inf:
            raise ValueError(f"offset must be 0 (the average) or more (5 in Wu et al.), got {self.offset}")

    def __call__(self, length: Tensor) -> Tensor:
        """The divisor for each length."""
        return ((self.offset + length) / (self.offset + 1.0)) ** self.alpha


@dataclasses.dataclass(frozen=True)
class BeamSearch(DecodingStrategy):
    """Keeps the ``size`` likeliest unfinished hypotheses at each step, and the ``size`` best finished ones.

    A hypothesis finishes when the end of the sentence is among the ``size`` likeliest continuations, or at the
    maximum length. A sentence is done when it has ``size`` finished hypotheses and the best unfinished one, scored
    at its present length, is no better than the worst of them: Hugging Face's ``generate`` with
    ``early_stopping=False``. ``BeamSearch(size=1)`` is greedy search.

    Args:
        size: K, the hypotheses of a sentence.
        length_penalty: what log probabilities are divided by before hypotheses of different length are compared.
        coverage_penalty: the weight of the sum over the source of log(min(attention to the place, 1)), which is
            added to a score; 0 turns it off. A place whose attention is exactly 0 all the time counts as padding.
        no_repeat_ngram: no n-gram of this many tokens comes twice in a hypothesis; 0 lets them all.

    Raises:
        ValueError: a value is out of its range.

    References:
        Wu et al. 2016, "Google's Neural Machine Translation System", section 7.

    Example:
        >>> BeamSearch(length_penalty=LengthPenalty(alpha=0.6, offset=5.0), coverage_penalty=0.2).width(n_best=2)
        5
    """

    size: int = 5
    length_penalty: LengthPenalty = LengthPenalty()
    coverage_penalty: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"size must be 1 (greedy search) or more, got {self.size}")
        if not 0.0 <= self.coverage_penalty < math.inf:
            raise ValueError(f"coverage_penalty must be 0 (off) or more, got {self.coverage_penalty}")

    @property
    def needs_weights(self) -> bool:
        """Coverage is a sum of attention weights."""
        return self.coverage_penalty > 0.0

    def width(self, n_best: int) -> int:
        """The size of the beam.

        Raises:
            ValueError: more hypotheses are wanted than are kept.
        """
        if n_best > self.size:
            raise ValueError(f"n_best={n_best} hypotheses cannot come from a beam of {self.size}; make size larger")
        return self.size

    def propose(self, options: Options, width: int, generator: torch.Generator | None = None) -> Continuations:
        """The 2 * ``width`` likeliest continuations, best first.

        Each hypothesis ends in one way only, so that ``width`` unfinished ones are always among them.
        """
        dead = options.log_probability.isneginf()
        # As many more as there are banned tokens, since those are dropped afterwards: cheaper than masking logits.
        gain, token = _likeliest(options.logits, 2 * width + options.banned.size(2))
        banned = (token[..., None] == options.banned[:, :, None]).any(dim=-1)
        total = options.log_probability[..., None] + gain
        total = total.masked_fill(banned | dead[..., None], -math.inf).flatten(1)
        total, place = total.topk(min(2 * width, total.size(1)))
        missing = 2 * width - total.size(1)
        total, place = F.pad(total, (0, missing), value=-math.inf), F.pad(place, (0, missing))
        chosen = Continuations(total, place // token.size(2), token.flatten(1).gather(1, place))
        return chosen if options.forced is None else _force(chosen, options.log_probability, options.forced)

    def score(self, log_probability: Tensor, length: Tensor, coverage: Tensor | None) -> Tensor:
        """Log probability over length penalty, plus the coverage penalty."""
        score = log_probability / self.length_penalty(length.to(log_probability.dtype))
        if coverage is None:
            return score
        coverage = coverage.to(score.dtype)
        logarithm = coverage.clamp(max=1.0).log().masked_fill(coverage == 0.0, 0.0)
        return score + self.coverage_penalty * logarithm.sum(dim=-1)


def _force(chosen: Continuations, log_probability: Tensor, forced: Tensor) -> Continuations:
    # Before its first free step a sentence has one living hypothesis, the first. Given tokens are not scored.
    is_forced = (forced >= 0)[:, None]
    only = F.pad(log_probability[:, :1], (0, chosen.token.size(1) - 1), value=-math.inf)
    return Continuations(
        torch.where(is_forced, only, chosen.log_probability),
        chosen.origin.masked_fill(is_forced, 0),
        torch.where(is_forced, forced[:, None], chosen.token),
    )


def _likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The log probabilities of the likeliest tokens, at least in float32, and the tokens, (B, K, count)."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    rows, vocabulary = logits.flatten(0, 1), logits.size(2)
    step = max(1, _CACHED // vocabulary) if logits.device.type == "cpu" else len(rows)
    found = [
        _largest(part.log_softmax(dim=-1, dtype=dtype), min(count, vocabulary)) for part in torch.split(rows, step)
    ]
    values, tokens = (torch.cat(parts).view(*logits.shape[:2], -1) for parts in zip(*found, strict=True))
    return values, tokens


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What ``values.topk(count)`` gives of (rows, V), sooner on a CPU, whose topk looks at one number at a time."""
    rows, size = values.shape
    groups = size // _GROUP
    if values.device.type != "cpu" or groups < 8 * count:
        return values.topk(count)
    # The largest ones stand in the groups with the largest maxima; what fills no group is looked at as it is.
    grouped = values[:, : groups * _GROUP].view(rows, _GROUP, groups)
    best = grouped.amax(dim=1).topk(count).indices[:, None].expand(rows, _GROUP, count)
    place = torch.arange(size, device=values.device)
    places = torch.cat(
        [(best + groups * place[:_GROUP, None]).flatten(1), place[groups * _GROUP :].expand(rows, -1)], 1
    )
    candidates = torch.cat([grouped.gather(2, best).flatten(1), values[:, groups * _GROUP :]], dim=1)
    top, where = candidates.topk(count)
    return top, places.gather(1, where)
