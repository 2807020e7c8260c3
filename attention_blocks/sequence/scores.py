"""From scores to context: the masked softmax, and dot-product attention by two paths with one answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks.kernels import autocast_dtype
from attention_blocks.kernels import dropout as dropped_out
from attention_blocks.sequence.attention import AttentionOutput, Memory
from attention_blocks.sequence.masks import causal_mask, check_boolean

# Whether the fused kernel can be relied on for CPUs in half precision and when traced. Torch 2.5 brought this switch
# together with products of halves that are summed in float32.
_SOUND_ON_CPU = hasattr(torch.backends.cuda, "allow_fp16_bf16_reduction_math_sdp")
# So few queries of each sequence, as there are hypotheses in a beam: below, the fused kernel of CPUs is the slower one.
_FEW = 8
# So short a sequence: below, the gradient of the fused kernel of CPUs in bfloat16 is slower than the map's, which has
# the processor's matrix unit; 5 to 7 times for 24 to 49 places, as fast for 200, slower for more.
_SHORT = 200


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast leaves the operands as they are, so that scores are not rounded or overflown."""
    # Autocast does not know the meta device, on which nothing is rounded.
    return torch.autocast(device_type="cpu" if x.is_meta else x.device.type, enabled=False)


def open_empty_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Splits a mask into one that a softmax can bear and the rows to blank afterwards.

    Softmax over nothing is 0/0. A row without a single open place is therefore opened wholly, and what comes of it
    is blanked: zero in value, and since blanking cuts the graph, zero in gradient.

    Args:
        mask: boolean, (..., T_k).

    Returns:
        The mask with its empty rows opened, (..., T_k); and where the rows were empty, (..., 1).

    Raises:
        TypeError: the mask is not boolean.
    """
    check_boolean(mask)
    empty = ~mask.any(dim=-1, keepdim=True)
    return mask | empty, empty


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the keys that a query may attend to; a query that may attend to nothing gets zero weights.

    Args:
        scores: (..., T_q, T_k).
        mask: boolean, True = may attend, broadcastable to the scores.

    Returns:
        Weights of the scores' shape, in float32 or wider.

    Example:
        >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
        tensor([[1., 0.],
                [0., 0.]])
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        return scores.softmax(dim=-1)
    opened, empty = open_empty_rows(mask)
    return scores.masked_fill(~opened, -torch.inf).softmax(dim=-1).masked_fill(empty, 0.0)


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
    """softmax(scale · Q Kᵀ + bias) V for every head at once.

    Without weights the fused kernel of torch does the work and no map is ever held in memory; with weights the map
    is computed explicitly, its scores in float32. Both give the same context and gradients. (On CPUs under torch 2.3
    and 2.4, compiled code and half precision take the explicit path too; and on all CPUs what the fused kernel was not
    made for: a step of decoding, with its few queries, dropout, and the training of short sequences in bfloat16.)

    Args:
        query: (B, N, T_q, D_k).
        key: (B, N, T_k, D_k).
        value: (B, N, T_k, D_v).
        mask: boolean, True = may attend, broadcastable to (B, N, T_q, T_k).
        score_bias: added to the scores, broadcastable to (B, N, T_q, T_k).
        scale: what scores are multiplied by; 1/sqrt(D_k) when left out.
        dropout: share of the weights that is dropped.
        causal: the t-th query may attend to the first t keys only, of those that the mask allows.
        need_weights: take the explicit path and return the map, (B, N, T_q, T_k), as it was before dropout.

    Example:
        >>> query, key = torch.randn(2, 8, 3, 16), torch.randn(2, 8, 5, 16)
        >>> dot_product_attention(query, key, key).context.shape
        torch.Size([2, 8, 3, 16])
    """
    explicit = need_weights or _fused_errs(query) or _fused_is_slow(query, key, dropout)
    if causal and (explicit or score_bias is not None or mask is not None):
        band = causal_mask(query.size(-2), key.size(-2), device=query.device)
        mask, causal = band if mask is None else mask & band, False
    if explicit:
        scale = query.size(-1) ** -0.5 if scale is None else scale
        with full_precision(query):
            wide = torch.promote_types(query.dtype, torch.float32)
            scores = (query.to(wide) * scale) @ key.to(wide).transpose(-2, -1)
            weights = masked_softmax(scores if score_bias is None else scores + score_bias, mask)
        context = dropped_out(weights, dropout).to(value.dtype) @ value
        return AttentionOutput(context, weights if need_weights else None)
    empty = None
    if mask is not None:
        mask, empty = open_empty_rows(mask)
    if score_bias is not None:
        score_bias = score_bias.to(query.dtype)
        mask = score_bias if mask is None else score_bias.masked_fill(~mask, -torch.inf)
    context = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=causal, scale=scale)
    return AttentionOutput(context if empty is None else context.masked_fill(empty, 0.0), None)


def _fused_errs(query: Tensor) -> bool:
    if _SOUND_ON_CPU or query.device.type != "cpu":
        return False
    # Torch 2.3 compiles it, behind a convolution, with axes in an order that the kernel misreads, and cannot export it
    # with a learned bias.
    if torch.compiler.is_compiling():
        return True
    # Its products of halves are halves, which overflow; autocast makes halves of wider operands.
    return torch.float16 in (query.dtype, autocast_dtype("cpu"))


def _fused_is_slow(query: Tensor, key: Tensor, dropout: float) -> bool:
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if dropout:  # which the kernel has not on CPUs: it would hold the map too, and draw its mask slowly
        return True
    dtype = autocast_dtype("cpu") or query.dtype
    if torch.is_grad_enabled():
        return dtype == torch.bfloat16 and max(query.size(-2), key.size(-2)) <= _SHORT
    return dtype == torch.float32 and query.size(-2) <= _FEW


def single_head_attention(
    query: Tensor, memory: Memory, mask: Tensor | None, *, scale: float, need_weights: bool
) -> AttentionOutput:
    """:func:`dot_product_attention` of a block without heads.

    Args:
        query: (B, T_q, D_k).
        memory: keys and values, (B, T_k, D_k) and (B, T_k, D_v).
        mask: boolean, True = may attend, (T_q, T_k) or broadcastable to (B, T_q, T_k) with all its axes.
        scale: what scores are multiplied by.
        need_weights: take the explicit path and return the map, (B, T_q, T_k).
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
