"""Beam search, with penalties for length and for coverage of the source."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.generation.decoding_strategy import Continuations, DecodingStrategy, Options

# Logits per chunk on a CPU, 2 MiB of float32: they stay in its caches between softmax and top-k.
_CHUNK = 2**19
# Size of the groups whose maxima are searched first: fastest for the few largest of ten thousand values.
_GROUP = 8


@dataclasses.dataclass(frozen=True)
class LengthPenalty:
    """Divisor of a hypothesis's log probability, which would otherwise favour short hypotheses.

    ::

        penalty = ((offset + length) / (offset + 1)) ** alpha

    The length includes the end-of-sentence token. ``alpha=1`` with ``offset=0`` ranks by the mean log probability per
    token; ``offset=5`` is the penalty of Wu et al.

    Args:
        alpha: 0 ranks by the plain log probability; larger values favour longer hypotheses, smaller ones shorter.
        offset: 0 or more; the larger, the less the length matters.

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
        """Divisor for each length, elementwise."""
        return ((self.offset + length) / (self.offset + 1.0)) ** self.alpha


@dataclasses.dataclass(frozen=True)
class BeamSearch(DecodingStrategy):
    """Keeps the ``size`` likeliest unfinished hypotheses at each step, and the ``size`` best finished ones.

    A hypothesis is finished when the end of the sentence is among the ``size`` likeliest continuations, or at the
    maximum length. A sentence is done when it has ``size`` finished hypotheses and its best unfinished one, scored at
    its current length, is not better than the worst of them, as in Hugging Face's ``generate`` with
    ``early_stopping=False``. ``BeamSearch(size=1)`` is greedy search.

    Args:
        size: K, hypotheses per sentence.
        length_penalty: divides log probabilities before hypotheses of different lengths are compared.
        coverage_penalty: weight of the coverage term that is added to a score: the sum over source positions of
            log(min(total attention to the position, 1)). 0 turns it off. Positions whose attention is exactly 0 at
            every step count as padding.
        no_repeat_ngram: no n-gram of this many tokens occurs twice in a hypothesis; 0 allows all.

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
        """Whether there is a coverage penalty, which sums attention weights."""
        return self.coverage_penalty > 0.0

    def width(self, n_best: int) -> int:
        """Size of the beam.

        Raises:
            ValueError: ``n_best`` exceeds the size of the beam.
        """
        if n_best > self.size:
            raise ValueError(f"n_best={n_best} hypotheses cannot come from a beam of {self.size}; increase size")
        return self.size

    def propose(self, options: Options, width: int, generator: torch.Generator | None = None) -> Continuations:
        """The 2 * ``width`` likeliest continuations, best first.

        At most ``width`` of them end a hypothesis, so at least ``width`` can be continued.
        """
        dead = options.log_probability.isneginf()  # (B, K)
        # One more candidate per banned token, as those are dropped afterwards: cheaper than masking the logits.
        gain, token = _likeliest(options.logits, 2 * width + options.banned.size(2))  # (B, K, n) each
        banned = (token[..., None] == options.banned[:, :, None]).any(dim=-1)  # (B, K, n)
        total = options.log_probability[..., None] + gain  # (B, K, n)
        total = total.masked_fill(banned | dead[..., None], -math.inf).flatten(1)  # (B, K n)
        total, index = total.topk(min(2 * width, total.size(1)))  # (B, C) each, C up to 2 * width
        missing = 2 * width - total.size(1)
        total, index = F.pad(total, (0, missing), value=-math.inf), F.pad(index, (0, missing))  # (B, 2 * width) each
        chosen = Continuations(total, index // token.size(2), token.flatten(1).gather(1, index))
        return chosen if options.forced is None else _force(chosen, options.log_probability, options.forced)

    def score(self, log_probability: Tensor, length: Tensor, coverage: Tensor | None) -> Tensor:
        """Log probability divided by the length penalty, plus the coverage penalty."""
        score = log_probability / self.length_penalty(length.to(log_probability.dtype))  # (B, K)
        if coverage is None:
            return score
        coverage = coverage.to(score.dtype)
        logarithm = coverage.clamp(max=1.0).log().masked_fill(coverage == 0.0, 0.0)  # (B, K, T_k)
        return score + self.coverage_penalty * logarithm.sum(dim=-1)


def _force(chosen: Continuations, log_probability: Tensor, forced: Tensor) -> Continuations:
    """Replaces the continuations of sentences whose next token is forced; forced tokens are not scored."""
    is_forced = (forced >= 0)[:, None]  # (B, 1)
    # While its prefix lasts a sentence has one live hypothesis, the first.
    only = F.pad(log_probability[:, :1], (0, chosen.token.size(1) - 1), value=-math.inf)  # (B, C)
    return Continuations(
        torch.where(is_forced, only, chosen.log_probability),
        chosen.origin.masked_fill(is_forced, 0),
        torch.where(is_forced, forced[:, None], chosen.token),
    )


def _likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Log probabilities of the likeliest tokens, in float32 or wider, and the tokens, (B, K, count) each."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    rows, vocabulary = logits.flatten(0, 1), logits.size(2)  # (B K, V)
    step = max(1, _CHUNK // vocabulary) if logits.device.type == "cpu" else len(rows)
    found = [
        _largest(part.log_softmax(dim=-1, dtype=dtype), min(count, vocabulary)) for part in torch.split(rows, step)
    ]  # (step, count) each
    values, tokens = (torch.cat(parts).view(*logits.shape[:2], -1) for parts in zip(*found, strict=True))
    return values, tokens


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``values.topk(count)`` of (M, V), faster on a CPU, where topk is not vectorised."""
    rows, size = values.shape
    groups = size // _GROUP
    if values.device.type != "cpu" or groups < 8 * count:
        return values.topk(count)
    # The largest values are in the groups with the largest maxima, or in the rest that does not fill a group.
    grouped = values[:, : groups * _GROUP].view(rows, _GROUP, groups)  # member g of group j is value j + g * groups
    best = grouped.amax(dim=1).topk(count).indices[:, None].expand(rows, _GROUP, count)
    number = torch.arange(size, device=values.device)  # (V,)
    numbers = torch.cat(
        [(best + groups * number[:_GROUP, None]).flatten(1), number[groups * _GROUP :].expand(rows, -1)], 1
    )  # (M, _GROUP * count + rest)
    candidates = torch.cat([grouped.gather(2, best).flatten(1), values[:, groups * _GROUP :]], dim=1)  # likewise
    top, index = candidates.topk(count)  # (M, count) each
    return top, numbers.gather(1, index)
