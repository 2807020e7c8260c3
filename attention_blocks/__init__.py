"""Attention blocks for PyTorch, which depend on torch alone.

Sequence attention (:mod:`attention_blocks.sequence`), attention on feature maps (:mod:`attention_blocks.feature_maps`),
positions (:mod:`attention_blocks.positions`) and Transformer layers (:mod:`attention_blocks.transformer`); every public
name is importable from here.
"""

from attention_blocks import feature_maps, positions, sequence, transformer
from attention_blocks.feature_maps import *  # noqa: F403
from attention_blocks.kernels import fast_paths as fast_paths
from attention_blocks.positions import *  # noqa: F403
from attention_blocks.sequence import *  # noqa: F403
from attention_blocks.transformer import *  # noqa: F403
from attention_blocks.weights import load_weights as load_weights

__all__ = sorted(
    ["fast_paths", "load_weights", *feature_maps.__all__, *positions.__all__, *sequence.__all__, *transformer.__all__]
)
