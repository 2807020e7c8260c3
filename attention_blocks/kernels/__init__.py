"""Fast paths inside functions, with one switch; results are unchanged."""

from attention_blocks.kernels.additive_scores import additive_scores
from attention_blocks.kernels.attention_pool import attention_pool
from attention_blocks.kernels.autocast import autocast_dtype
from attention_blocks.kernels.dropout import dropout
from attention_blocks.kernels.fast_paths import fast_paths, is_traced, uses_fast_paths
from attention_blocks.kernels.leaf import leaf

__all__ = [
    "additive_scores",
    "attention_pool",
    "autocast_dtype",
    "dropout",
    "fast_paths",
    "is_traced",
    "leaf",
    "uses_fast_paths",
]
