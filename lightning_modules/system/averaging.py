"""One checkpoint out of several of a run: the mean of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.system.system import read_checkpoint

# What belongs to one moment of training, and means nothing for the mean of several.
_OF_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", "loops", "MixedPrecision")


def average_checkpoints(paths: Sequence[str | Path]) -> dict[str, Any]:
    """The last of several checkpoints, with the mean of the weights of all; to be saved, and loaded as any other.

    "Attention Is All You Need" averages the last 5 checkpoints of the base model, written every ten minutes, and the
    last 20 of the big one. The mean of what a fine-tuning began with and what it gave often beats both. Sums are made
    in float64; what is no floating point number comes from the last one. The state of optimiser and trainer is left
    out, since training cannot go on from a mean.

    Args:
        paths: of the checkpoints of one run, or of one that began with another's weights; the last one last.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: there is none, one is no checkpoint of a system, or they hold different networks.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 6.1; Izmailov et al. 2018, "Averaging Weights Leads
        to Wider Optima and Better Generalization"; Wortsman et al. 2022, "Robust Fine-Tuning of Zero-Shot Models".
    """
    if not paths:
        raise ValueError("paths is empty; give the checkpoints to average")
    total: dict[str, Tensor] = {}
    for path in paths:
        read_checkpoint(path)  # says what is wrong with the file; it reads no weights
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = checkpoint["state_dict"]
        found, wanted = ({name: weight.shape for name, weight in some.items()} for some in (state, total or state))
        if found != wanted:
            names = sorted({name for name, _ in set(found.items()) ^ set(wanted.items())})
            raise ValueError(
                f"{path}: its network is another than that of {paths[0]}, they differ in {', '.join(names[:3])}"
                f"{' …' if len(names) > 3 else ''}; average checkpoints of one run"
            )
        for name, weight in state.items():
            summed = weight.is_floating_point() and name in total
            wide = weight.to(torch.float64) if weight.is_floating_point() else weight
            total[name] = total[name] + wide if summed else wide
    checkpoint["state_dict"] = {
        name: (total[name] / len(paths)).to(last.dtype) if last.is_floating_point() else last
        for name, last in state.items()
    }
    return {name: value for name, value in checkpoint.items() if name not in _OF_TRAINING}
