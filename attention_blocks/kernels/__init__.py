"""CPU fast paths; results are unchanged."""

from attention_blocks.kernels.additive_scores import additive_scores, plain_scores
from attention_blocks.kernels.attention_pool import attention_pool
from attention_blocks.kernels.autocast import autocast_dtype
from attention_blocks.kernels.dropout import dropout
from attention_blocks.kernels.eager import is_eager, is_transformed
from attention_blocks.kernels.linear import Linear, linear, packed
from attention_blocks.kernels.unrolled import is_shared, product, unrolled

__all__ = [
    "Linear",
    "additive_scores",
    "attention_pool",
    "autocast_dtype",
    "dropout",
    "is_eager",
    "is_shared",
    "is_transformed",
    "linear",
    "packed",
    "plain_scores",
    "product",
    "unrolled",
]
