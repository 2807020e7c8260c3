"""Side-by-side timing: the candidates take turns, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """How much longer a candidate takes than another, round by round.

    Attributes:
        median: of the rounds' ratios.
        low: the lower quartile.
        high: the upper quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def take_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each candidate in each round; a first round warms up and is not counted.

    The order turns round by one each time, so that no candidate always follows the same other.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            _wait()
            start = time.perf_counter()
            candidates[name]()
            _wait()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> Ratio:
    """The ratio of two candidates' seconds, round by round."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    return Ratio(statistics.median(ratios), low, high)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
