"""Attention pooling of a feature map with a single learned query."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.autocast import autocast_dtype
from attention_blocks.kernels.fast_paths import is_traced, uses_fast_paths
from attention_blocks.kernels.leaf import leaf


@leaf
def attention_pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a feature map over its locations, weighted by the softmax of a linear score.

    ::

        a = softmax(w · x_p + b) over the locations p;   context = Σ a_p x_p

    The gradient of the feature map is computed as one product of rank two, in the feature map's memory layout.

    Args:
        x: (B, C, H, W).
        weight: (C,).
        bias: (1,).

    Returns:
        The context, (B, C), and the weights, (B, H * W).

    Example:
        >>> context, weights = attention_pool(torch.ones(2, 3, 4, 5), torch.randn(3), torch.zeros(1))
        >>> context.shape, weights.shape
        (torch.Size([2, 3]), torch.Size([2, 20]))
    """
    fast = torch.is_grad_enabled() and uses_fast_paths() and not is_traced()
    if fast and type(x) is Tensor and autocast_dtype(x.device.type) is None:
        return _AttentionPool.apply(x, weight, bias)
    return _pool(x, weight, bias)


def _pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    features = x.flatten(2)  # (B, C, H * W)
    # A batched product reads the feature map in its own memory layout.
    weights = (weight.expand(x.size(0), 1, -1) @ features + bias).softmax(dim=2).to(x.dtype)  # (B, 1, H * W)
    return (features @ weights.mT).squeeze(2), weights.squeeze(1)  # (B, C), (B, H * W)


class _AttentionPool(Function):
    """The weights are an output, so that second-order gradients flow through them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return _pool(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight, output[1])
        ctx.save_for_forward(x, weight, output[1])

    @staticmethod
    def backward(ctx: Any, grad_context: Tensor, grad_weights: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, weights = ctx.saved_tensors
        features = x.flatten(2)  # (B, C, H * W)
        grad_weights = grad_weights + (grad_context.unsqueeze(1) @ features).squeeze(1)  # (B, H * W)
        grad_scores = weights * (grad_weights - (weights * grad_weights).sum(1, keepdim=True))  # (B, H * W)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            by_channel = torch.stack([grad_context, weight.expand_as(grad_context)], dim=1)  # (B, 2, C)
            by_location = torch.stack([weights, grad_scores], dim=2)  # (B, H * W, 2)
            if x.stride(1) == 1 and not x.is_contiguous():  # channels last
                grad_x = (by_location @ by_channel).view(x.size(0), *x.shape[2:], -1).permute(0, 3, 1, 2)
            else:
                grad_x = (by_channel.mT @ by_location.mT).view(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = (features @ grad_scores.unsqueeze(2)).sum(0).squeeze(1)  # (C,)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_scores.sum().view(1)
        return grad_x, grad_weight, grad_bias

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x, weight, weights = ctx.saved_tensors
        scores_t = torch.zeros_like(weights)  # (B, H * W)
        if x_t is not None:
            scores_t = scores_t + weight @ x_t.flatten(2)
        if weight_t is not None:
            scores_t = scores_t + weight_t @ x.flatten(2)
        # The bias moves all scores of a map alike, which a softmax does not see.
        weights_t = weights * (scores_t - (weights * scores_t).sum(1, keepdim=True))  # (B, H * W)
        context_t = (x.flatten(2) @ weights_t.unsqueeze(2)).squeeze(2)  # (B, C)
        if x_t is not None:
            context_t = context_t + (x_t.flatten(2) @ weights.unsqueeze(2)).squeeze(2)
        return context_t, weights_t
