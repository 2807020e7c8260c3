"""Fused linear layer and cross-entropy, without the logits of a whole batch in memory."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from attention_blocks.kernels import autocast_dtype

# Logits per chunk: on a CPU 16 MiB of float32, which fits a last-level cache; elsewhere enough for large products.
CPU_CHUNK, CHUNK = 2**22, 2**27


class _LinearCrossEntropy(Function):
    """Loss and gradients in one pass over the logits, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
    ) -> Tensor:
        """Sum of the losses of M labels, a scalar."""
        vocabulary = weight.size(0)
        rows = max(1, (CPU_CHUNK if features.device.type == "cpu" else CHUNK) // vocabulary)
        needs_grad = any(ctx.needs_input_grad[:3])
        loss = features.new_zeros((), dtype=torch.float32)
        grads: list[Tensor] = []
        if needs_grad:
            grads = [torch.zeros_like(features), torch.zeros_like(weight), weight.new_zeros(vocabulary)]
        # One buffer for all chunks: on a CPU, allocating memory costs more than computing the logits.
        logits = features.new_empty(min(rows, len(labels)), vocabulary)  # (rows, V)
        lower = torch.finfo(logits.dtype).bits < 32
        wide = torch.empty_like(logits, dtype=torch.float32) if lower else logits
        for start in range(0, len(labels), rows):
            x, label = features[start : start + rows], labels[start : start + rows, None]  # (rows, R), (rows, 1)
            chunk, wide_chunk = logits[: len(x)], wide[: len(x)]  # (rows, V) each
            if bias is None:
                torch.mm(x, weight.t(), out=chunk)
            else:
                torch.addmm(bias, x, weight.t(), out=chunk)
            if lower:
                wide_chunk.copy_(chunk)
            # In place is safe: the kernel writes a row only after it has read it.
            torch.ops.aten._log_softmax.out(wide_chunk, 1, False, out=wide_chunk)
            loss -= ((1.0 - smoothing) * wide_chunk.gather(1, label).sum()).float()
            if smoothing:
                loss -= (smoothing / vocabulary * wide_chunk.sum()).float()
            if needs_grad:
                # d loss / d logits = probabilities - smoothed target, (rows, V)
                wide_chunk.exp_()
                if smoothing:
                    wide_chunk.sub_(smoothing / vocabulary)
                wide_chunk.scatter_add_(1, label, torch.full_like(label, smoothing - 1.0, dtype=wide_chunk.dtype))
                if lower:
                    chunk.copy_(wide_chunk)
                torch.mm(chunk, weight, out=grads[0][start : start + rows])  # (rows, R)
                grads[1].addmm_(chunk.t(), x)  # (V, R)
                grads[2].add_(chunk.sum(dim=0))  # (V,)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Gradients from the forward pass, times the upstream gradient."""
        features, weight, bias = (grad.mul_(upstream.to(grad.dtype)) for grad in ctx.saved_tensors)
        return features, weight, bias if ctx.needs_input_grad[2] else None, None, None


def linear_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """``F.cross_entropy(F.linear(features, weight, bias), labels, label_smoothing=…)`` with less memory.

    Logits are computed in chunks of the size of a cache, each of which is turned into loss and gradients at once.
    Second derivatives are not available.

    Args:
        features: (M, R).
        weight: (V, R).
        bias: (V,), or ``None``.
        labels: (M,) int64.
        label_smoothing: fraction of each target's probability that is spread over the vocabulary.

    Returns:
        Mean loss over the labels, a scalar.

    References:
        Hsu et al. 2024, "Liger Kernel: Efficient Triton Kernels for LLM Training" (chunked
        loss with its gradients); Szegedy et al. 2016, "Rethinking the Inception Architecture" (label smoothing).

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
