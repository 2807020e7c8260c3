"""Interleaved timing: the candidates take turns, so that a drift of the machine's speed affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """Ratio of the times of two candidates over the rounds.

    Attributes:
        median: median of the rounds' ratios.
        low: lower quartile.
        high: upper quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def take_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times each candidate once per round; a warm-up round comes first and is not counted.

    The order is rotated by one every round, so that no candidate always comes first.

    Args:
        candidates: functions to time, by name.
        rounds: number of counted rounds.

    Returns:
        Seconds of each candidate, one value per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            _synchronize()
            start = time.perf_counter()
            candidates[name]()
            _synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> Ratio:
    """Ratio of the seconds of two candidates, computed round by round."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    return Ratio(statistics.median(ratios), low, high)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
