"""Output map and cross-entropy in one, so that the logits of a whole batch never stand in memory."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from attention_blocks.kernels import autocast_dtype

# So many logits at a time: on a CPU 16 MiB of float32, which a last-level cache holds; elsewhere enough for large
# matrix products.
CPU_CHUNK, CHUNK = 2**22, 2**27


class _LinearCrossEntropy(Function):
    """The loss, and in the same pass its gradients: what a logit leads to is known as soon as it is."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
    ) -> Tensor:
        """Sum of the losses."""
        vocabulary = weight.size(0)
        rows = max(1, (CPU_CHUNK if features.device.type == "cpu" else CHUNK) // vocabulary)
        wanted = any(ctx.needs_input_grad[:3])
        loss = features.new_zeros((), dtype=torch.float32)
        grads = [torch.zeros_like(features), torch.zeros_like(weight), weight.new_zeros(vocabulary)] if wanted else []
        # All parts are made where the first was: new memory costs a CPU more than the products that fill it.
        logits = features.new_empty(min(rows, len(labels)), vocabulary)
        lower = torch.finfo(logits.dtype).bits < 32
        wide = torch.empty_like(logits, dtype=torch.float32) if lower else logits
        for start in range(0, len(labels), rows):
            x, label = features[start : start + rows], labels[start : start + rows, None]
            part, share = logits[: len(x)], wide[: len(x)]
            if bias is None:
                torch.mm(x, weight.t(), out=part)
            else:
                torch.addmm(bias, x, weight.t(), out=part)
            if lower:
                share.copy_(part)
            # In place: each logit is written once, after all of its row were read.
            torch.ops.aten._log_softmax.out(share, 1, False, out=share)
            loss -= ((1.0 - smoothing) * share.gather(1, label).sum()).float()
            if smoothing:
                loss -= (smoothing / vocabulary * share.sum()).float()
            if wanted:
                # d loss / d logits: the probabilities less the smoothed target.
                share.exp_()
                if smoothing:
                    share.sub_(smoothing / vocabulary)
                share.scatter_add_(1, label, torch.full_like(label, smoothing - 1.0, dtype=share.dtype))
                if lower:
                    part.copy_(share)
                torch.mm(part, weight, out=grads[0][start : start + rows])
                grads[1].addmm_(part.t(), x)
                grads[2].add_(part.sum(dim=0))
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """What forward prepared, times what comes from above."""
        features, weight, bias = (grad.mul_(upstream.to(grad.dtype)) for grad in ctx.saved_tensors)
        return features, weight, bias if ctx.needs_input_grad[2] else None, None, None


def linear_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """``F.cross_entropy(F.linear(features, weight, bias), labels, label_smoothing=…)``, a mean over the labels.

    The logits are made a cache-sized part at a time, and turned into the loss and into gradients where they stand; a
    batch of 4,096 tokens and a vocabulary of 10,000 would otherwise carry 160 MB of them through memory, several
    times. Gradients come out once, so there are no gradients of gradients.

    Args:
        features: (M, R).
        weight: (V, R).
        bias: (V,), or ``None``.
        labels: (M,) int64.
        label_smoothing: share of each target that is spread over the vocabulary.

    References:
        Hsu et al. 2024, "Liger Kernel: Efficient Triton Kernels for LLM Training" (the loss in parts, its gradients at
        once); Szegedy et al. 2016, "Rethinking the Inception Architecture" (label smoothing).

    Example:
        >>> features, weight, bias = torch.randn(6, 4), torch.randn(9, 4), torch.randn(9)
        >>> labels = torch.randint(9, (6,))
        >>> wanted = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels)
        >>> bool(torch.isclose(linear_cross_entropy(features, weight, bias, labels), wanted))
        True
    """
    lower = autocast_dtype(features.device.type)
    if lower is not None:
        features, weight = features.to(lower), weight.to(lower)
        bias = None if bias is None else bias.to(lower)
    total = cast(Tensor, _LinearCrossEntropy.apply(features, weight, bias, labels, label_smoothing))
    return total / len(labels)
