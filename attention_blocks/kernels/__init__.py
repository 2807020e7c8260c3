"""What is computed otherwise where the hardware is better served that way; nothing here changes a result."""

from attention_blocks.kernels.additive_scores import additive_scores, plain_scores
from attention_blocks.kernels.attention_pool import attention_pool
from attention_blocks.kernels.autocast import autocast_dtype
from attention_blocks.kernels.dropout import dropout
from attention_blocks.kernels.eager import is_watched, runs_as_it_stands
from attention_blocks.kernels.linear import Linear, linear, packed
from attention_blocks.kernels.unrolled import is_shared, product, unrolled

__all__ = [
    "Linear",
    "additive_scores",
    "attention_pool",
    "autocast_dtype",
    "dropout",
    "is_shared",
    "is_watched",
    "linear",
    "packed",
    "plain_scores",
    "product",
    "runs_as_it_stands",
    "unrolled",
]
