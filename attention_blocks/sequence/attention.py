"""Base class of sequence attention: project a sequence once, attend to it any number of times."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.sequence.masks import check_mask, check_polarity


class AttentionOutput(NamedTuple):
    """Result of attending to a sequence.

    Attributes:
        context: (B, T_q, context_dim), the weighted mean of the values; zero for a query that may attend to nothing.
        weights: attention map, (B, T_q, T_k), or (B, N, T_q, T_k) from a block with heads; ``None`` unless
            ``need_weights``. Before dropout, so that rows sum to 1 in training too.
    """

    context: Tensor
    weights: Tensor | None


class Memory(NamedTuple):
    """A projected sequence, ready to be attended to.

    The features are up to the block. For every block the batch is the first dimension (so that rows can be selected),
    and the positions are the second to last (so that memories of consecutive pieces can be concatenated).

    Attributes:
        key: (B, T_k, D_k), or (B, N, T_k, D_k) from a block with heads.
        value: (B, T_k, D_v), or (B, N, T_k, D_v) from a block with heads.
    """

    key: Tensor
    value: Tensor

    def append(self, later: Memory) -> Memory:
        """Concatenates the memory of later positions of the same sequence, as in decoding.

        Args:
            later: memory of the later positions.
        """
        return Memory(torch.cat([self.key, later.key], dim=-2), torch.cat([self.value, later.value], dim=-2))


class Past(NamedTuple):
    """The last positions of a projected sequence: a key-value cache for decoding.

    Attributes:
        key: (B, …, T, D_k).
        value: (B, …, T, D_v).
        position: number of positions of the sequence so far; T may be smaller, as with a sliding window.
    """

    key: Tensor
    value: Tensor
    position: int

    @property
    def memory(self) -> Memory:
        """Keys and values, to attend to."""
        return Memory(self.key, self.value)


class Attention(nn.Module):
    """Base class of sequence attention; subclass it to use your own block in any system here.

    ::

        key, value ──project──▶ Memory ──┐
                                         ├──attend──▶ AttentionOutput(context, weights)
        query, mask ─────────────────────┘

    A subclass defines :meth:`project` and :meth:`attend` and keeps no state between calls. It is built as
    ``Block(query_dim, key_dim, **own_arguments)``.

    A mask is boolean, and **True means "may attend"**, as in :func:`torch.nn.functional.scaled_dot_product_attention`
    and unlike :class:`torch.nn.MultiheadAttention`. It is broadcastable to (B, T_q, T_k). A query that may attend to
    nothing gets a zero context, zero weights and zero gradient.

    Args:
        query_dim: D_q, feature size of the queries.
        key_dim: D_k, feature size of the keys; defaults to ``query_dim``.
        context_dim: feature size of the context; defaults to ``key_dim``.

    Attributes:
        query_dim: D_q.
        key_dim: D_k.
        context_dim: feature size of the context.

    Raises:
        ValueError: a size is not positive.

    Example:
        Your own block, the mean of all positions that may be attended to:

        >>> import torch
        >>> from attention_blocks import Attention, AttentionOutput, Memory, masked_softmax
        >>> class MeanAttention(Attention):
        ...     def project(self, key, value=None, *, offset=0):
        ...         return Memory(key, key if value is None else value)
        ...     def attend(self, query, memory, mask=None, *, need_weights=False, offset=0):
        ...         scores = query.new_zeros(query.size(0), query.size(1), memory.key.size(-2))
        ...         weights = masked_softmax(scores, mask)
        ...         return AttentionOutput(weights.to(query.dtype) @ memory.value, weights if need_weights else None)
        >>> MeanAttention(4, 6)(torch.randn(2, 3, 4), torch.ones(2, 5, 6)).context.mean().item()
        1.0
    """

    def __init__(self, query_dim: int, key_dim: int | None = None, context_dim: int | None = None) -> None:
        super().__init__()
        key_dim = query_dim if key_dim is None else key_dim
        context_dim = key_dim if context_dim is None else context_dim
        for name, size in (("query_dim", query_dim), ("key_dim", key_dim), ("context_dim", context_dim)):
            if size < 1:
                raise ValueError(f"{name} must be a positive feature size, got {size}")
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.context_dim = context_dim

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        """Projects a sequence, once, to be attended to any number of times.

        Args:
            key: (B, T_k, D_k).
            value: (B, T_k, D_v); defaults to ``key``.
            offset: position of the first key in its sequence, for blocks that use positions.

        Raises:
            ValueError: a shape does not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} must define project(key, value=None, *, offset=0)")

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """Attends from each query to a projected sequence.

        Args:
            query: (B, T_q, D_q).
            memory: returned by :meth:`project`.
            mask: boolean, True = may attend, broadcastable to (B, T_q, T_k).
            need_weights: also return the attention map.
            offset: position of the first query in its sequence, for blocks that use positions.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: a shape does not fit.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define attend(query, memory, mask=None, *, need_weights=False, offset=0)"
        )

    @property
    def uses_positions(self) -> bool:
        """Whether the result depends on the position of the query; True unless a block overrides it.

        If False, :meth:`attend_beams` attends from all hypotheses in one call.
        """
        return True

    def attend_beams(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """Attends from K queries at the same position, such as the hypotheses of a beam, without copying the memory.

        Args:
            query: (B, K, D_q).
            memory: returned by :meth:`project`, with B rows.
            mask: boolean, True = may attend, broadcastable to (B, K, T_k).
            need_weights: also return the attention map.
            offset: position of all queries, for blocks that use positions.

        Returns:
            As :meth:`attend`, with K in place of T_q.
        """
        if query.size(1) == 1 or not self.uses_positions:
            return self(query, memory, mask=mask, need_weights=need_weights, offset=offset)
        mask = check_attend(query, memory, mask, self.query_dim, num_heads=getattr(self, "num_heads", None))
        masks = [mask] * query.size(1) if mask is None or mask.size(-2) == 1 else torch.split(mask, 1, dim=-2)
        outputs = [
            self(one, memory, mask=one_mask, need_weights=need_weights, offset=offset)
            for one, one_mask in zip(torch.split(query, 1, dim=1), masks, strict=True)
        ]
        weights = [output.weights for output in outputs if output.weights is not None]
        context = torch.cat([output.context for output in outputs], dim=1)
        return AttentionOutput(context, torch.cat(weights, dim=-2) if weights else None)

    def forward(
        self,
        query: Tensor,
        key: Tensor | Memory,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """``attend(query, project(key, value))``, in one call; or ``attend(query, memory)``.

        Args:
            query: (B, T_q, D_q).
            key: (B, T_k, D_k); or a sequence that is projected already, by :meth:`project`.
            value: (B, T_k, D_v); defaults to ``key``.
            mask: boolean, True = may attend, broadcastable to (B, T_q, T_k).
            need_weights: also return the attention map.
            offset: position of the first query in its sequence, for blocks that use positions; the first key is at
                position 0.

        Raises:
            TypeError: the mask is not boolean, or there is a value besides a projected sequence.
            ValueError: a shape does not fit.
        """
        num_heads = getattr(self, "num_heads", None)
        if isinstance(key, (Memory, Past)):
            if value is not None:
                raise TypeError("value must be omitted with a Memory as key, which holds the values")
            memory = key
            check_attend(query, memory, mask, self.query_dim, num_heads=num_heads)
        else:
            check_project(key, value, self.key_dim)
            memory = self.project(key, value)
            check_attend(query, memory, mask, self.query_dim, num_heads=num_heads)
            check_polarity(mask, query)
        return self.attend(query, memory, mask, need_weights=need_weights, offset=offset)


@leaf
def check_project(key: Tensor, value: Tensor | None, key_dim: int, value_dim: int | None = None) -> None:
    """Refuses keys and values that :meth:`Attention.project` cannot project.

    Args:
        key: the keys.
        value: the values.
        key_dim: D_k.
        value_dim: D_v; ``None`` for any.

    Raises:
        ValueError: they are not (B, T_k, D_k) and (B, T_k, D_v).
    """
    if key.ndim != 3 or key.size(2) != key_dim:
        raise ValueError(f"key must have shape (B, T_k, {key_dim}), got {tuple(key.shape)}")
    if value is not None and (value.ndim != 3 or value.shape[:2] != key.shape[:2]):
        raise ValueError(f"value must have shape (B, T_k, D_v) = {(*key.shape[:2], 'any')}, got {tuple(value.shape)}")
    given = key if value is None else value
    if value_dim is not None and given.size(2) != value_dim:
        raise ValueError(f"value must have shape (B, T_k, {value_dim}), got {tuple(given.shape)}")


@leaf
def check_attend(
    query: Tensor,
    memory: Memory | Past,
    mask: Tensor | None,
    query_dim: int,
    *,
    key_sizes: tuple[int, ...] | None = None,
    num_heads: int | None = None,
) -> Tensor | None:
    """Refuses queries, a memory and a mask that do not fit each other.

    Args:
        query: the queries.
        memory: the projected sequence.
        mask: the mask, or ``None``.
        query_dim: D_q.
        key_sizes: sizes of a projected key, without batch and positions, such as (N_kv, D_head); ``None`` for any.
        num_heads: N, for blocks that accept a mask for each head.

    Returns:
        The mask, see :func:`check_mask`.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: a shape does not fit.
    """
    key, value = memory.key, memory.value
    if query.ndim != 3 or query.size(2) != query_dim:
        raise ValueError(f"query must have shape (B, T_q, {query_dim}), got {tuple(query.shape)}")
    if key.size(0) != value.size(0) or key.size(-2) != value.size(-2):
        raise ValueError(
            f"memory holds keys of shape {tuple(key.shape)} and values of shape {tuple(value.shape)}, which must agree "
            "in batch size and number of positions"
        )
    if key_sizes is not None and (key.ndim != len(key_sizes) + 2 or (*key.shape[1:-2], key.size(-1)) != key_sizes):
        wanted = ", ".join(str(size) for size in ("B", *key_sizes[:-1], "T_k", key_sizes[-1]))
        raise ValueError(
            f"memory must hold keys of shape ({wanted}), with the heads and features of project(), got "
            f"{tuple(key.shape)}"
        )
    if key_sizes is not None and value.shape[1:-2] != key.shape[1:-2]:
        raise ValueError(f"memory must hold values with the heads of the keys, got {tuple(value.shape)}")
    if key.size(0) != query.size(0):
        raise ValueError(
            f"query and memory must have the same batch size, got {query.size(0)} and {key.size(0)}; K hypotheses per "
            "sequence attend by attend_beams, as (B, K, D_q)"
        )
    return check_mask(mask, query.size(0), query.size(1), key.size(-2), num_heads)
