"""Attention masks: boolean, **True = may attend**, broadcastable to (B, T_q, T_k), combined with ``&``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from attention_blocks.kernels import is_traced, leaf


@leaf
def padding_mask(lengths: Tensor, max_length: int | None = None) -> Tensor:
    """Mask that lets every query attend to the tokens of its sequence but not to the padding after them.

    Args:
        lengths: (B,), integers: number of tokens of each sequence.
        max_length: T_k, the padded length; defaults to the largest length.

    Returns:
        (B, 1, T_k), True at tokens, False at padding.

    Raises:
        TypeError: the lengths are not integers.
        ValueError: ``lengths`` is not one-dimensional.

    Example:
        >>> padding_mask(torch.tensor([1, 3])).int()
        tensor([[[1, 0, 0]],
        <BLANKLINE>
                [[1, 1, 1]]], dtype=torch.int32)
    """
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must hold integers, got {lengths.dtype}; pass the number of tokens of each sequence")
    if lengths.ndim != 1:
        raise ValueError(f"lengths must have shape (B,), got {tuple(lengths.shape)}; pass one length per sequence")
    longest = int(lengths.max()) if max_length is None else max_length
    positions = torch.arange(longest, device=lengths.device)
    return (positions < lengths[:, None])[:, None, :]  # (B, 1, T_k)


def window_mask(
    query_length: int,
    key_length: int | None = None,
    *,
    before: int | None = None,
    after: int | None = None,
    offset: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mask that lets the query at position t attend to the keys at positions ``t - before`` to ``t + after``.

    Args:
        query_length: T_q.
        key_length: T_k; defaults to ``offset + query_length``.
        before: number of earlier positions to attend to; defaults to all.
        after: number of later positions to attend to; defaults to all.
        offset: position of the first query; the first key is at position 0.
        device: device of the mask.

    Returns:
        (T_q, T_k), True within the window.

    Raises:
        ValueError: ``before`` or ``after`` is negative.

    Example:
        >>> window_mask(4, before=1, after=0).int()
        tensor([[1, 0, 0, 0],
                [1, 1, 0, 0],
                [0, 1, 1, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    for name, reach in (("before", before), ("after", after)):
        if reach is not None and reach < 0:
            raise ValueError(f"{name} counts positions and must be 0 or more, got {reach}; omit it for all")
    query = torch.arange(query_length, device=device)[:, None] + offset  # (T_q, 1)
    key = torch.arange(offset + query_length if key_length is None else key_length, device=device)  # (T_k,)
    mask = torch.ones(query.size(0), key.size(0), dtype=torch.bool, device=device)
    if before is not None:
        mask = mask & (key >= query - before)
    if after is not None:
        mask = mask & (key <= query + after)
    return mask


def causal_mask(
    query_length: int,
    key_length: int | None = None,
    *,
    offset: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mask that lets each query attend to its own position and to those before it.

    Args:
        query_length: T_q.
        key_length: T_k; defaults to ``offset + query_length``.
        offset: position of the first query; the first key is at position 0.
        device: device of the mask.

    Returns:
        (T_q, T_k), True on and below the diagonal.

    Example:
        >>> causal_mask(3).int()
        tensor([[1, 0, 0],
                [1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
        >>> causal_mask(1, offset=2).int()
        tensor([[1, 1, 1]], dtype=torch.int32)
    """
    return window_mask(query_length, key_length, after=0, offset=offset, device=device)


@leaf
def check_boolean(mask: Tensor) -> None:
    """Refuses a mask that is not boolean.

    Args:
        mask: any mask.

    Raises:
        TypeError: the mask is not boolean.
    """
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be boolean with True = may attend, got {mask.dtype}; "
            "convert an additive float mask by `mask == 0`, a mask of 0 and 1 by `mask.bool()`"
        )


def broadcasts(tensor: Tensor, shape: Sequence[int]) -> bool:
    """Whether a tensor broadcasts to a shape, without changing that shape.

    Args:
        tensor: any tensor.
        shape: the shape.
    """
    return tensor.ndim <= len(shape) and all(
        size in (1, full) for size, full in zip(tensor.shape, shape[len(shape) - tensor.ndim :], strict=True)
    )


@leaf
def check_mask(
    mask: Tensor | None, batch: int, query_length: int, key_length: int, num_heads: int | None = None
) -> Tensor | None:
    """Refuses a mask that is not boolean or does not broadcast to (B, T_q, T_k); expands any other to three dimensions.

    Args:
        mask: the mask, or ``None``, which allows everything.
        batch: B.
        query_length: T_q.
        key_length: T_k.
        num_heads: N; if given, a mask for each head, broadcastable to (B, N, T_q, T_k), is accepted too.

    Returns:
        ``None``, or the same mask as (B or 1, T_q or 1, T_k), without a copy; a mask for each head as
        (B or 1, N or 1, T_q or 1, T_k).

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the shape does not broadcast to (B, T_q, T_k).
    """
    if mask is None:
        return None
    check_boolean(mask)
    wanted: tuple[int, ...] = (batch, query_length, key_length)
    if mask.ndim == 4 and num_heads is not None:
        wanted = (batch, num_heads, query_length, key_length)
    if not broadcasts(mask, wanted):
        hint = ""
        if mask.ndim == 2 and tuple(mask.shape) == (batch, key_length):
            hint = "; a (B, T_k) mask lacks the dimension of the queries: pass mask[:, None, :]"
        letters = "(B, N, T_q, T_k)" if len(wanted) == 4 else "(B, T_q, T_k)"
        raise ValueError(f"mask has shape {tuple(mask.shape)}, which does not broadcast to {letters} = {wanted}{hint}")
    return mask[(None,) * (3 - mask.ndim)].expand(*[-1] * (max(mask.ndim, 3) - 1), key_length)


@leaf
def check_polarity(mask: Tensor | None, query: Tensor) -> None:
    """Warns of a mask that looks as if True meant "ignore", as it does in :class:`torch.nn.MultiheadAttention`.

    Two forms are recognised, neither of which is often useful as a mask: the inverted causal mask (each of three or
    more queries attends to all later positions, but neither to its own nor to earlier ones), and the inverted padding
    mask (one sequence has no tokens, and every other starts with masked positions and ends with open ones). For a
    single query the latter is not checked: a window that ends with the longest sequence looks the same.

    The check reads the mask. It is skipped for masks on an accelerator (where the host would have to wait), for
    subclasses of tensors (fake and distributed ones), and where a transform or a tracer does not know the values.

    Args:
        mask: any mask, or ``None``.
        query: the queries, (B, T_q, D_q).
    """
    if mask is None or mask.dtype != torch.bool or mask.device.type != "cpu" or type(mask) is not Tensor:
        return
    if is_traced():
        return
    try:
        inverted = _is_inverted(mask, query.size(1))
    except RuntimeError:  # torch.vmap and make_fx do not know the values
        return
    if inverted:
        warnings.warn(
            f"mask of shape {tuple(mask.shape)} looks inverted: here True means may attend, "
            "in nn.MultiheadAttention it means ignore; pass ~mask unless it is meant",
            stacklevel=2,
        )


def _is_inverted(mask: Tensor, query_length: int) -> bool:
    if mask.ndim >= 2 and mask.size(-1) == mask.size(-2) >= 3 and mask.size(0):
        future = torch.ones(mask.shape[-2:], dtype=torch.bool).triu(1)
        return bool((mask == future).all())
    if mask.ndim == 3 and mask.size(1) == 1 and mask.size(0) > 1 and mask.size(2) > 1 and query_length != 1:
        row = mask[:, 0]
        empty = ~row.any(-1)
        opens_late = ~row[:, 0] & row[:, -1] & (row[:, 1:] >= row[:, :-1]).all(-1)
        return bool(empty.any() & opens_late.any() & (empty | opens_late).all())
    return False
