"""Cross-entropy over a large vocabulary."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Logits per chunk: on a CPU 4 MiB of float32, which fits a cache; elsewhere enough to keep the device busy.
CPU_CHUNK, CHUNK = 2**20, 2**27


class _CrossEntropy(Function):
    """Loss and gradient in one pass over the logits, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:  # noqa: ANN401
        """Sum of the losses of M labels, a scalar."""
        vocabulary = logits.size(1)
        rows = max(1, (CPU_CHUNK if logits.device.type == "cpu" else CHUNK) // vocabulary)
        grad = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        wide = torch.promote_types(logits.dtype, torch.float32)
        loss = logits.new_zeros((), dtype=wide)
        for start in range(0, len(labels), rows):
            chunk, label = logits[start : start + rows], labels[start : start + rows, None]  # (rows, V), (rows, 1)
            scores = torch.log_softmax(chunk, dim=1, dtype=wide)
            loss -= (1.0 - smoothing) * scores.gather(1, label).sum()
            if smoothing:
                loss -= smoothing / vocabulary * scores.sum()
            if grad is not None:
                # d loss / d logits = probabilities - smoothed target, (rows, V)
                scores.exp_()
                if smoothing:
                    scores.sub_(smoothing / vocabulary)
                scores.scatter_add_(1, label, torch.full_like(label, smoothing - 1.0, dtype=wide))
                grad[start : start + rows] = scores
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradient from the forward pass, times the upstream gradient."""
        [grad] = ctx.saved_tensors
        return grad * upstream.to(grad.dtype), None, None


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """``F.cross_entropy(logits.float(), labels, label_smoothing=…)`` with less memory and time.

    The logits are read in chunks of the size of a cache, each of which is turned into loss and gradient at once.
    Second derivatives are not available.

    Args:
        logits: (M, V).
        labels: (M,) int64.
        label_smoothing: fraction of each target's probability that is spread over the vocabulary.

    Returns:
        Mean loss over the labels, a scalar, in float32 or wider.

    References:
        Szegedy et al. 2016, "Rethinking the Inception Architecture" (label smoothing).

    Example:
        >>> logits, labels = torch.randn(6, 9), torch.randint(9, (6,))
        >>> wanted = torch.nn.functional.cross_entropy(logits, labels)
        >>> bool(torch.isclose(cross_entropy(logits, labels), wanted))
        True
    """
    total = cast(Tensor, _CrossEntropy.apply(logits, labels, label_smoothing))
    return total / len(labels)
