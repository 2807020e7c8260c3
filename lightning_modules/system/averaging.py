"""Mean of the weights of several checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.system.system import read_checkpoint

# Entries that describe the state of a training, which cannot be resumed from a mean of weights.
_TRAINING_STATE = ("optimizer_states", "lr_schedulers", "callbacks", "loops", "MixedPrecision")


def average_checkpoints(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Checkpoint with the mean of the weights of several, ready to be saved and loaded like any other.

    Sums are computed in float64. Tensors that are not floating-point, and all other entries, are those of the last
    checkpoint, without the state of optimiser and trainer.

    Args:
        paths: checkpoint files of one run, or of one run and the run that it was fine-tuned from; the latest one last.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: ``paths`` is empty, a file is not a checkpoint of a system, or the networks differ.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", section 6.1; Izmailov et al. 2018, "Averaging Weights Leads
        to Wider Optima and Better Generalization"; Wortsman et al. 2022, "Robust Fine-Tuning of Zero-Shot Models".
    """
    if not paths:
        raise ValueError("paths is empty; give the checkpoints to average")
    total: dict[str, Tensor] = {}
    for path in paths:
        read_checkpoint(path)  # checks the file, without its weights
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = checkpoint["state_dict"]
        found, expected = ({name: weight.shape for name, weight in some.items()} for some in (state, total or state))
        if found != expected:
            names = sorted({name for name, _ in set(found.items()) ^ set(expected.items())})
            raise ValueError(
                f"paths: the networks of {path} and {paths[0]} differ in {', '.join(names[:3])}"
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
    return {name: value for name, value in checkpoint.items() if name not in _TRAINING_STATE}
