"""The scores of additive attention, without its hidden layer ever standing in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention_blocks.kernels.eager import is_watched
from attention_blocks.kernels.unrolled import SumTape, is_shared, shared_sum

# So many features of the hidden layer at a time: on a CPU 1 MiB of float32, which its caches hold.
CPU_CHUNK, CHUNK = 2**18, 2**26


def additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Scores v · tanh(q + k) of every query with every key, some pairs at a time.

    The hidden layer of all pairs would be B · T_q · T_k · hidden_dim numbers, several times over with its gradients;
    here a part of it is made, used and overwritten, and made again for the gradients. For many queries that is two to
    four times as fast on CPUs. Inside :func:`unrolled` the steps add to one gradient of the keys. Gradients of
    gradients, ``torch.compile``, ``torch.export`` and ``torch.func`` see plain torch.

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
    if query.dtype != key.dtype or query.size(0) != key.size(0) or is_watched(query):
        return plain_scores(query, key, weight)
    tape = None
    if is_shared(key, query):
        key, tape = shared_sum(key)
    with torch.autocast("cpu" if query.is_meta else query.device.type, enabled=False):
        scores: Tensor = _AdditiveScores.apply(query, key, weight, tape)
    return scores


def plain_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """:func:`additive_scores` as it is written.

    Args:
        query: (B, T_q, hidden_dim).
        key: (B, T_k, hidden_dim).
        weight: v, (1, hidden_dim).
    """
    return torch.nn.functional.linear(torch.tanh(query.unsqueeze(2) + key.unsqueeze(1)), weight).squeeze(-1)


def _wide(query: Tensor) -> torch.dtype:
    """Of the hidden layer. On CPUs never half precision, in which tanh takes four times as long."""
    return torch.promote_types(query.dtype, torch.float32) if query.device.type == "cpu" else query.dtype


def _parts(query: Tensor, key: Tensor) -> tuple[Tensor, list[tuple[slice, slice]]]:
    """Room for the hidden layer of some pairs, (rows, queries, T_k, hidden_dim), and whose turn in it comes when."""
    (batch, queries), pairs = query.shape[:2], max(1, key[:1].numel())
    some = max(1, (CPU_CHUNK if query.device.type == "cpu" else CHUNK) // pairs)
    rows, columns = max(1, some // max(1, queries)), min(some, queries)
    turns = [
        (slice(row, min(row + rows, batch)), slice(column, min(column + columns, queries)))
        for row in range(0, batch, rows)
        for column in range(0, queries, max(1, columns))
    ]
    return query.new_empty(min(rows, batch), columns, *key.shape[1:], dtype=_wide(query)), turns


def _hidden(query: Tensor, key: Tensor, room: Tensor) -> Tensor:
    query, key = query.to(room.dtype), key.to(room.dtype)
    return torch.add(query.unsqueeze(2), key.unsqueeze(1), out=room[: query.size(0), : query.size(1)]).tanh_()


class _AdditiveScores(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, weight: Tensor, tape: SumTape | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(query, key, weight)
        ctx.tape = tape
        room, turns = _parts(query, key)
        vector = weight[0].to(room.dtype)
        scores = room.new_empty(*query.shape[:2], key.size(1))
        for rows, part in turns:
            scores[rows, part] = _hidden(query[rows, part], key[rows], room) @ vector
        return scores

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs = query, key, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants gradients of these
            wanted = [each for each, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
            scores = plain_scores(query, key, weight.to(query.dtype))
            found = iter(torch.autograd.grad(scores, wanted, upstream.to(scores.dtype), create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None
        room, turns = _parts(query, key)
        wide = torch.promote_types(query.dtype, torch.float32)
        of_query = torch.empty_like(query, dtype=wide)
        of_key = torch.zeros_like(key, dtype=wide) if ctx.tape is None else ctx.tape.sum(key)
        of_weight, vector = torch.zeros_like(weight, dtype=wide), weight.to(wide)
        for rows, part in turns:
            hidden, of_scores = _hidden(query[rows, part], key[rows], room), upstream[rows, part].to(room.dtype)
            of_weight += of_scores.reshape(1, -1) @ hidden.reshape(-1, hidden.size(-1))
            # In place: what each pair gets from above, times the slope of tanh there.
            above = of_scores.unsqueeze(-1).expand_as(hidden)
            torch.ops.aten.tanh_backward.grad_input(above, hidden, grad_input=hidden)
            torch.sum(hidden, dim=2, dtype=wide, out=of_query[rows, part])
            single = hidden.size(1) == 1 and hidden.dtype == wide
            of_key[rows].addcmul_(hidden.squeeze(1) if single else hidden.sum(dim=1, dtype=wide), vector)
        of_query *= vector
        return (
            of_query.to(query.dtype),
            of_key.to(key.dtype) if ctx.tape is None else None,
            of_weight.to(weight.dtype),
            None,
        )
