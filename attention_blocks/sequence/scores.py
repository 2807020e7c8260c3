"""Masked softmax and dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks.kernels import autocast_dtype, is_traced, leaf, uses_fast_paths
from attention_blocks.kernels import dropout as dropped_out
from attention_blocks.sequence.attention import AttentionOutput, Memory
from attention_blocks.sequence.masks import broadcasts, causal_mask, check_boolean

# Whether the fused kernel is correct on CPUs in half precision and when traced: since torch 2.5, which sums products of
# half precision in float32, and in which this switch is new.
_SOUND_ON_CPU = hasattr(torch.backends.cuda, "allow_fp16_bf16_reduction_math_sdp")
# Number of queries per sequence, as in a decoding step with a beam, up to which the fused kernel is slower on CPUs.
_FEW = 8
# Length up to which the gradient of the fused kernel in bfloat16 is slower on CPUs than that of the explicit path,
# which uses the processor's matrix unit.
_SHORT = 200


def full_precision(x: Tensor) -> torch.autocast:
    """Context without autocast, so that scores are neither rounded nor overflow.

    Args:
        x: tensor on the device concerned.
    """
    # Autocast does not support the meta device, on which nothing is rounded.
    return torch.autocast(device_type="cpu" if x.is_meta else x.device.type, enabled=False)


def open_empty_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Opens the empty rows of a mask, and returns where they are.

    A softmax over no keys is 0/0. The caller fills the result of the opened rows with zeros, which sets their
    gradients to zero too.

    Args:
        mask: boolean, (..., T_k).

    Returns:
        The mask with its empty rows opened, (..., T_k); and whether each row was empty, (..., 1).

    Raises:
        TypeError: the mask is not boolean.
    """
    check_boolean(mask)
    empty = ~mask.any(dim=-1, keepdim=True)
    return mask | empty, empty


@leaf
def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the keys that a query may attend to; a query that may attend to nothing gets zero weights.

    Args:
        scores: (..., T_q, T_k).
        mask: boolean, True = may attend, broadcastable to the scores.

    Returns:
        Weights of the scores' shape, in float32 or wider.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask does not broadcast to the scores.

    Example:
        >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
        tensor([[1., 0.],
                [0., 0.]])
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        return scores.softmax(dim=-1)
    _check_broadcast("mask", mask, scores.shape)
    opened, empty = open_empty_rows(mask)
    return scores.masked_fill(~opened, -torch.inf).softmax(dim=-1).masked_fill(empty, 0.0)


@leaf
def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    score_bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    need_weights: bool = False,
) -> AttentionOutput:
    """softmax(scale · Q Kᵀ + bias) V for every head at once; N / N_kv query heads share a head of keys and values.

    Without weights, torch's fused kernel is used, which does not store the attention map; with weights, the map is
    computed explicitly, with scores in float32. Context and gradients are the same. (The explicit path is also used on
    CPUs where the fused kernel is slow: for few queries, as in a decoding step, with dropout, and in training on short
    sequences in bfloat16; with torch 2.3 and 2.4 in compiled code and in half precision; and inside
    ``fast_paths(False)``.)

    Args:
        query: (B, N, T_q, D_k).
        key: (B, N_kv, T_k, D_k).
        value: (B, N_kv, T_k, D_v).
        mask: boolean, True = may attend, broadcastable to (B, N, T_q, T_k).
        score_bias: added to the scores, broadcastable to (B, N, T_q, T_k).
        scale: factor of the scores; defaults to 1/sqrt(D_k).
        dropout: fraction of the weights that is dropped.
        causal: the t-th query may attend to the first t keys only, of those allowed by the mask.
        need_weights: also return the attention map, (B, N, T_q, T_k), before dropout.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: a shape does not fit.

    Example:
        >>> query, key = torch.randn(2, 8, 3, 16), torch.randn(2, 8, 5, 16)
        >>> dot_product_attention(query, key, key).context.shape
        torch.Size([2, 8, 3, 16])
    """
    _check_heads(query, key, value, mask, score_bias)
    if causal and (need_weights or score_bias is not None or mask is not None or not _is_fused(query, key, dropout)):
        band = causal_mask(query.size(-2), key.size(-2), device=query.device)
        mask, causal = band if mask is None else mask & band, False
    group = query.size(1) // max(key.size(1), 1)
    if group > 1 and query.size(2) == 1 and not causal:
        # In a decoding step the query heads of a group are treated as queries of one key head, which saves a copy.
        context, weights = dot_product_attention(
            query.reshape(query.size(0), -1, group, query.size(3)),  # (B, N_kv, N / N_kv, D_k)
            key,
            value,
            _grouped(mask, group),
            score_bias=_grouped(score_bias, group),
            scale=scale,
            dropout=dropout,
            need_weights=need_weights,
        )
        context = context.flatten(1, 2).unsqueeze(2)  # (B, N, 1, D_v)
        return AttentionOutput(context, None if weights is None else weights.flatten(1, 2).unsqueeze(2))
    if group > 1:
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    explicit = need_weights or not _is_fused(query, key, dropout) or _learns(score_bias)
    if explicit:
        scale = query.size(-1) ** -0.5 if scale is None else scale
        with full_precision(query):
            wide = torch.promote_types(query.dtype, torch.float32)
            scores = (query.to(wide) * scale) @ key.to(wide).transpose(-2, -1)  # (B, N, T_q, T_k)
            weights = masked_softmax(scores if score_bias is None else scores + score_bias, mask)
        context = dropped_out(weights, dropout).to(value.dtype) @ value  # (B, N, T_q, D_v)
        return AttentionOutput(context, weights if need_weights else None)
    empty = None
    if mask is not None:
        mask, empty = open_empty_rows(mask)
    if score_bias is not None:
        score_bias = score_bias.to(query.dtype)
        mask = score_bias if mask is None else score_bias.masked_fill(~mask, -torch.inf)
    context = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=causal, scale=scale)
    return AttentionOutput(context if empty is None else context.masked_fill(empty, 0.0), None)


def _check_broadcast(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if not broadcasts(tensor, shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, which does not broadcast to {tuple(shape)}")


def _check_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, score_bias: Tensor | None) -> None:
    if not query.ndim == key.ndim == value.ndim == 4:
        shapes = [tuple(x.shape) for x in (query, key, value)]
        raise ValueError(f"query, key and value must have shape (B, N, T, D), got {', '.join(map(str, shapes))}")
    if key.shape[:3] != value.shape[:3] or key.size(0) != query.size(0) or key.size(3) != query.size(3):
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)} and value {tuple(value.shape)} must agree: in B, key "
            "and value in heads and length, query and key in features"
        )
    if key.size(1) != query.size(1) and (key.size(1) == 0 or query.size(1) % key.size(1)):
        raise ValueError(f"the {key.size(1)} heads of the keys must divide the {query.size(1)} heads of the queries")
    shape = (*query.shape[:3], key.size(2))
    for name, tensor in (("mask", mask), ("score_bias", score_bias)):
        if tensor is not None:
            _check_broadcast(name, tensor, shape)


def _grouped(x: Tensor | None, group: int) -> Tensor | None:
    """A mask or bias for one query of each head, (…, N or 1, 1, T_k), by key head: (…, N_kv or 1, N / N_kv, T_k)."""
    if x is None or x.ndim < 3 or x.size(-3) == 1:
        return x
    return x.reshape(*x.shape[:-3], -1, group, x.size(-1))


def _learns(score_bias: Tensor | None) -> bool:
    """Whether the bias needs a gradient, for which torch has no fused kernel on CPUs, and looks in vain under vmap."""
    if score_bias is None or score_bias.device.type != "cpu" or is_traced():
        return False
    return score_bias.requires_grad and torch.is_grad_enabled()


def _is_fused(query: Tensor, key: Tensor, dropout: float) -> bool:
    return uses_fast_paths() and not _fused_is_wrong(query) and not _fused_is_slow(query, key, dropout)


def _fused_is_wrong(query: Tensor) -> bool:
    if _SOUND_ON_CPU or query.device.type != "cpu":
        return False
    # Torch 2.3, after a convolution, compiles it with strides that the kernel misreads, and cannot export it with a
    # learned bias.
    if torch.compiler.is_compiling():
        return True
    # Its products of float16 are float16, which overflow; autocast casts wider operands.
    return torch.float16 in (query.dtype, autocast_dtype("cpu"))


def _fused_is_slow(query: Tensor, key: Tensor, dropout: float) -> bool:
    if query.device.type != "cpu" or is_traced():
        return False
    if dropout:  # not fused on CPUs: the map would be stored, and the mask drawn slowly
        return True
    dtype = autocast_dtype("cpu") or query.dtype
    if torch.is_grad_enabled():
        return dtype == torch.bfloat16 and max(query.size(-2), key.size(-2)) <= _SHORT
    return dtype == torch.float32 and query.size(-2) <= _FEW


@leaf
def single_head_attention(
    query: Tensor, memory: Memory, mask: Tensor | None, *, scale: float, need_weights: bool
) -> AttentionOutput:
    """:func:`dot_product_attention` of a block without heads.

    Args:
        query: (B, T_q, D_k).
        memory: keys and values, (B, T_k, D_k) and (B, T_k, D_v).
        mask: boolean, True = may attend, (T_q, T_k) or broadcastable to (B, T_q, T_k) with three dimensions.
        scale: factor of the scores.
        need_weights: also return the attention map, (B, T_q, T_k).
    """
    context, weights = dot_product_attention(
        query.unsqueeze(1),
        memory.key.unsqueeze(1),
        memory.value.unsqueeze(1),
        None if mask is None else mask.unsqueeze(-3),
        scale=scale,
        need_weights=need_weights,
    )
    return AttentionOutput(context.squeeze(1), None if weights is None else weights.squeeze(1))
