"""Scores of additive attention, computed in parts so that the hidden layer is never stored as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.eager import is_transformed
from attention_blocks.kernels.unrolled import SumTape, is_shared, shared_sum

# Size of the part of the hidden layer that is computed at a time: on CPUs 1 MiB of float32, which fits their caches.
CPU_CHUNK, CHUNK = 2**18, 2**26


def additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Scores v · tanh(q + k) of every query with every key, computed in parts.

    The hidden layer of all pairs has B * T_q * T_k * hidden_dim entries; here parts of it are computed, used and
    overwritten, and computed again for the gradients. Inside :func:`unrolled` the steps accumulate one gradient of the
    keys. Gradients of gradients, ``torch.compile``, ``torch.export`` and ``torch.func`` see torch's own operations.

    Args:
        query: (B, T_q, hidden_dim).
        key: (B, T_k, hidden_dim).
        weight: v, (1, hidden_dim).

    Returns:
        (B, T_q, T_k).

    Example:
        >>> query, key, weight = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(1, 8)
        >>> torch.allclose(additive_scores(query, key, weight), plain_scores(query, key, weight), atol=1e-6)
        True
    """
    if query.dtype != key.dtype or query.size(0) != key.size(0) or is_transformed(query):
        return plain_scores(query, key, weight)
    tape = None
    if is_shared(key, query):
        key, tape = shared_sum(key)
    with torch.autocast("cpu" if query.is_meta else query.device.type, enabled=False):
        scores: Tensor = _AdditiveScores.apply(query, key, weight, tape)
    return scores


def plain_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """:func:`additive_scores` computed at once, with torch's own operations.

    Args:
        query: (B, T_q, hidden_dim).
        key: (B, T_k, hidden_dim).
        weight: v, (1, hidden_dim).

    Returns:
        (B, T_q, T_k).
    """
    hidden = torch.tanh(query.unsqueeze(2) + key.unsqueeze(1))  # (B, T_q, T_k, hidden_dim)
    return torch.nn.functional.linear(hidden, weight).squeeze(-1)


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
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, weight: Tensor, tape: SumTape | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(query, key, weight)
        ctx.tape = tape
        buffer, parts = _parts(query, key)
        vector = weight[0].to(buffer.dtype)  # (hidden_dim,)
        scores = buffer.new_empty(*query.shape[:2], key.size(1))  # (B, T_q, T_k)
        for rows, columns in parts:
            scores[rows, columns] = _hidden(query[rows, columns], key[rows], buffer) @ vector
        return scores

    @staticmethod
    def backward(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs = query, key, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # for gradients of gradients
            wanted = [each for each, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
            scores = plain_scores(query, key, weight.to(query.dtype))
            found = iter(torch.autograd.grad(scores, wanted, grad_scores.to(scores.dtype), create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None
        buffer, parts = _parts(query, key)
        wide = torch.promote_types(query.dtype, torch.float32)
        grad_query = torch.empty_like(query, dtype=wide)  # (B, T_q, hidden_dim)
        grad_key = torch.zeros_like(key, dtype=wide) if ctx.tape is None else ctx.tape.sum(key)  # (B, T_k, hidden_dim)
        grad_weight, vector = torch.zeros_like(weight, dtype=wide), weight.to(wide)  # (1, hidden_dim)
        for rows, columns in parts:
            hidden = _hidden(query[rows, columns], key[rows], buffer)  # (b, t_q, T_k, hidden_dim)
            grad_part = grad_scores[rows, columns].to(buffer.dtype)  # (b, t_q, T_k)
            grad_weight += grad_part.reshape(1, -1) @ hidden.reshape(-1, hidden.size(-1))
            # In place: the gradient of each score times the slope of tanh.
            above = grad_part.unsqueeze(-1).expand_as(hidden)
            torch.ops.aten.tanh_backward.grad_input(above, hidden, grad_input=hidden)
            torch.sum(hidden, dim=2, dtype=wide, out=grad_query[rows, columns])
            single = hidden.size(1) == 1 and hidden.dtype == wide
            summed = hidden.squeeze(1) if single else hidden.sum(dim=1, dtype=wide)  # (b, T_k, hidden_dim)
            grad_key[rows].addcmul_(summed, vector)
        grad_query *= vector
        return (
            grad_query.to(query.dtype),
            grad_key.to(key.dtype) if ctx.tape is None else None,
            grad_weight.to(weight.dtype),
            None,
        )
