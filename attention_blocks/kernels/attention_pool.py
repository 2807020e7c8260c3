"""One query's attention over a feature map, with a gradient that is written once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.eager import runs_as_it_stands


def attention_pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a map's places, weighted by the softmax of a score that is linear in each place's features.

    ::

        a = softmax(w · x_p + b) over the places p;   context = Σ a_p x_p

    The map is read twice, both for scores and for products, so its gradient has two parts, each of rank one; they are
    written as one product of rank two, in the map's own layout.

    Args:
        x: (B, C, H, W).
        weight: (1, C).
        bias: (1,).

    Returns:
        The context, (B, C), and the weights, (B, H · W).

    Example:
        >>> context, weights = attention_pool(torch.ones(2, 3, 4, 5), torch.randn(1, 3), torch.zeros(1))
        >>> context.shape, weights.shape
        (torch.Size([2, 3]), torch.Size([2, 20]))
    """
    if torch.is_grad_enabled() and runs_as_it_stands(x):
        return _AttentionPool.apply(x, weight, bias)
    return _pool(x, weight, bias)


def _pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    places = x.flatten(2)
    # One product a row of the batch, so that the map is read as it lies.
    weights = (weight.expand(x.size(0), -1, -1) @ places + bias).softmax(dim=2).to(x.dtype)
    return (places @ weights.mT).squeeze(2), weights.squeeze(1)


class _AttentionPool(Function):
    """The weights are an output, so that gradients of gradients find their way through them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        context, weights = _pool(x, weight, bias)
        ctx.save_for_backward(x, weight, weights)
        return context, weights

    @staticmethod
    def backward(ctx: Any, of_context: Tensor, of_weights: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, weights = ctx.saved_tensors
        places = x.flatten(2)
        of_weights = of_weights + (of_context.unsqueeze(1) @ places).squeeze(1)
        of_scores = weights * (of_weights - (weights * of_weights).sum(1, keepdim=True))
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            features = torch.stack([of_context, weight.expand_as(of_context)], dim=1)
            by_place = torch.stack([weights, of_scores], dim=2)
            if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
                of_x = (by_place @ features).view(x.size(0), *x.shape[2:], -1).permute(0, 3, 1, 2)
            else:
                of_x = (features.mT @ by_place.mT).view(x.shape)
        if ctx.needs_input_grad[1]:
            of_weight = (places @ of_scores.unsqueeze(2)).sum(0).mT
        if ctx.needs_input_grad[2]:
            of_bias = of_scores.sum().view(1)
        return of_x, of_weight, of_bias
