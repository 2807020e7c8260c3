"""The scores of additive attention, without its hidden layer ever standing in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.eager import is_watched

# So many features of the hidden layer at a time: on a CPU 4 MiB of float32, which its caches hold.
CPU_CHUNK, CHUNK = 2**20, 2**26


def additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Scores v · tanh(q + k) of every query with every key, some queries at a time.

    The hidden layer of all pairs would be B · T_q · T_k · hidden_dim numbers, several times over with its gradients;
    here a part of it is made, used and overwritten, and made again for the gradients. For many queries that is two to
    four times as fast on CPUs in float32, and as fast in bfloat16. A single query has so few pairs that they are kept;
    gradients of gradients, ``torch.compile``, ``torch.export`` and ``torch.func`` see plain torch.

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
    alike = query.dtype == key.dtype and query.size(0) == key.size(0)
    if query.size(1) == 1 or not alike or is_watched(query):
        return plain_scores(query, key, weight)
    scores: Tensor = _AdditiveScores.apply(query, key, weight.to(query.dtype))
    return scores


def plain_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """:func:`additive_scores` as it is written.

    Args:
        query: (B, T_q, hidden_dim).
        key: (B, T_k, hidden_dim).
        weight: v, (1, hidden_dim).
    """
    return torch.nn.functional.linear(torch.tanh(query.unsqueeze(2) + key.unsqueeze(1)), weight).squeeze(-1)


def _parts(query: Tensor, key: Tensor) -> tuple[Tensor, list[slice]]:
    """Room for the hidden layer of some queries, (B, some, T_k, hidden_dim), and which queries take turns in it."""
    queries, pairs = query.size(1), key.numel()
    step = max(1, (CPU_CHUNK if query.device.type == "cpu" else CHUNK) // max(1, pairs))
    room = query.new_empty(query.size(0), min(step, queries), *key.shape[1:])
    return room, [slice(start, min(start + step, queries)) for start in range(0, queries, step)]


def _hidden(query: Tensor, key: Tensor, room: Tensor) -> Tensor:
    return torch.add(query.unsqueeze(2), key.unsqueeze(1), out=room[:, : query.size(1)]).tanh_()


class _AdditiveScores(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(query, key, weight)
        room, parts = _parts(query, key)
        scores = query.new_empty(*query.shape[:2], key.size(1))
        for part in parts:
            scores[:, part] = _hidden(query[:, part], key, room) @ weight[0]
        return scores

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs = query, key, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants gradients of these
            wanted = [each for each, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed]
            found = iter(torch.autograd.grad(plain_scores(*inputs), wanted, upstream, create_graph=True))
            return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)
        room, parts = _parts(query, key)
        wide = torch.promote_types(query.dtype, torch.float32)
        of_query, of_key = torch.empty_like(query), torch.zeros_like(key, dtype=wide)
        of_weight = torch.zeros_like(weight, dtype=wide)
        for part in parts:
            hidden, of_scores = _hidden(query[:, part], key, room), upstream[:, part]
            of_weight += of_scores.reshape(1, -1) @ hidden.reshape(-1, hidden.size(-1))
            # In place: what each pair gets from above, times the slope of tanh there.
            above = of_scores.unsqueeze(-1).expand_as(hidden)
            torch.ops.aten.tanh_backward.grad_input(above, hidden, grad_input=hidden)
            of_query[:, part] = hidden.sum(dim=2)
            of_key += hidden.sum(dim=1, dtype=wide)
        return of_query * weight, (of_key * weight).to(key.dtype), of_weight.to(weight.dtype)
