"""Scores of additive attention, computed in parts so that the hidden layer is never stored as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.fast_paths import is_traced, uses_fast_paths
from attention_blocks.kernels.leaf import leaf

# Size of the part of the hidden layer that is computed at a time: on CPUs 1 MiB of float32, which fits their caches.
CPU_CHUNK, CHUNK = 2**18, 2**26


@leaf
def additive_scores(query: Tensor, key: Tensor, weight: Tensor, *, in_parts: bool = True) -> Tensor:
    """Scores v · tanh(q + k) of every query with every key.

    The hidden layer of all pairs has B * T_q * T_k * hidden_dim entries. In parts, it is computed, used and
    overwritten, and computed again for the gradients. Compiled code and subclasses of tensors see it computed at once.

    Args:
        query: (B, T_q, hidden_dim).
        key: (B, T_k, hidden_dim).
        weight: v, (hidden_dim,).
        in_parts: compute the hidden layer in parts rather than at once.

    Returns:
        (B, T_q, T_k).

    Example:
        >>> query, key, weight = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(8)
        >>> found, expected = (additive_scores(query, key, weight, in_parts=parts) for parts in (True, False))
        >>> torch.allclose(found, expected, atol=1e-6)
        True
    """
    in_parts = in_parts and uses_fast_paths() and not is_traced()
    if not in_parts or query.dtype != key.dtype or type(query) is not Tensor:
        return _at_once(query, key, weight)
    with torch.autocast("cpu" if query.is_meta else query.device.type, enabled=False):
        scores: Tensor = _AdditiveScores.apply(query, key, weight)
    return scores


def _at_once(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    hidden = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))  # (…, T_q, T_k, hidden_dim)
    return torch.nn.functional.linear(hidden, weight.unsqueeze(-2)).squeeze(-1)


def _hidden_dtype(query: Tensor) -> torch.dtype:
    """Dtype of the hidden layer; never half precision on CPUs, where tanh is slow in it."""
    return torch.promote_types(query.dtype, torch.float32) if query.device.type == "cpu" else query.dtype


def _parts(query: Tensor, key: Tensor) -> tuple[Tensor, list[tuple[slice, slice]]]:
    """Splits the pairs into parts: a buffer for the hidden layer of one part, and slices of B and T_q for each part."""
    (batch, queries), pair_size = query.shape[:2], max(1, key[:1].numel())  # pair_size: T_k * hidden_dim
    count = max(1, (CPU_CHUNK if query.device.type == "cpu" else CHUNK) // pair_size)  # queries per part
    rows, columns = max(1, count // max(1, queries)), min(count, queries)
    parts = [
        (slice(row, min(row + rows, batch)), slice(column, min(column + columns, queries)))
        for row in range(0, batch, rows)
        for column in range(0, queries, max(1, columns))
    ]
    # (rows, columns, T_k, hidden_dim)
    buffer = query.new_empty(min(rows, batch), columns, *key.shape[1:], dtype=_hidden_dtype(query))
    return buffer, parts


def _hidden(query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
    query, key = query.to(buffer.dtype), key.to(buffer.dtype)
    out = buffer[: query.size(0), : query.size(1)]  # (b, t_q, T_k, hidden_dim)
    return torch.add(query.unsqueeze(2), key.unsqueeze(1), out=out).tanh_()


class _AdditiveScores(Function):
    """Transforms of ``torch.func`` and gradients of gradients use the formulas of the hidden layer at once."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        buffer, parts = _parts(query, key)
        vector = weight.to(buffer.dtype).unsqueeze(1)  # (hidden_dim, 1)
        scores = buffer.new_empty(*query.shape[:2], key.size(1))  # (B, T_q, T_k)
        for rows, columns in parts:
            scores[rows, columns] = _hidden(query[rows, columns], key[rows], buffer).matmul(vector).squeeze(-1)
        return scores

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:  # noqa: ANN401
        sample = [x[None] if axis is None else x.movedim(axis, 0) for x, axis in zip(inputs, in_dims, strict=True)]
        query, key, weight = sample  # (S or 1, …)
        hidden = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))  # (S, B, T_q, T_k, hidden_dim)
        return (hidden * weight[:, None, None, None]).sum(-1), 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:  # noqa: ANN401
        query, key, weight = ctx.saved_tensors
        hidden = torch.tanh(query.unsqueeze(2) + key.unsqueeze(1))  # (B, T_q, T_k, hidden_dim)
        pairs = zip(ctx.saved_tensors, tangents, strict=True)
        query_t, key_t, weight_t = (torch.zeros_like(x) if t is None else t for x, t in pairs)
        inner_t = (query_t.unsqueeze(2) + key_t.unsqueeze(1)) * (1 - hidden.square())
        return (inner_t * weight + hidden * weight_t).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad_scores: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        query, key, weight = ctx.saved_tensors
        wide = torch.promote_types(query.dtype, torch.float32)
        if torch.is_grad_enabled():  # for gradients of gradients
            hidden = torch.tanh(query.to(wide).unsqueeze(2) + key.to(wide).unsqueeze(1))  # (B, T_q, T_k, hidden_dim)
            grads = grad_scores.to(wide).unsqueeze(-1)  # (B, T_q, T_k, 1)
            slope = grads * weight * (1 - hidden.square())  # (B, T_q, T_k, hidden_dim)
            grad_weight = (grads * hidden).sum((0, 1, 2))  # (hidden_dim,)
            return slope.sum(2).to(query.dtype), slope.sum(1).to(key.dtype), grad_weight.to(weight.dtype)
        buffer, parts = _parts(query, key)
        grad_query = torch.empty_like(query, dtype=wide)  # (B, T_q, hidden_dim)
        grad_key = torch.zeros_like(key, dtype=wide)  # (B, T_k, hidden_dim)
        grad_weight, vector = torch.zeros_like(weight, dtype=wide), weight.to(wide)  # (hidden_dim,)
        for rows, columns in parts:
            hidden = _hidden(query[rows, columns], key[rows], buffer)  # (b, t_q, T_k, hidden_dim)
            grad_part = grad_scores[rows, columns].to(buffer.dtype)  # (b, t_q, T_k)
            grad_weight += grad_part.flatten() @ hidden.flatten(0, 2)
            # In place: the gradient of each score times the slope of tanh.
            hidden.square_().sub_(1.0).mul_(-grad_part.unsqueeze(-1))
            torch.sum(hidden, dim=2, dtype=wide, out=grad_query[rows, columns])
            single = hidden.size(1) == 1 and hidden.dtype == wide
            summed = hidden.squeeze(1) if single else hidden.sum(dim=1, dtype=wide)  # (b, T_k, hidden_dim)
            grad_key[rows].addcmul_(summed, vector)
        grad_query *= vector
        return grad_query.to(query.dtype), grad_key.to(key.dtype), grad_weight.to(weight.dtype)
