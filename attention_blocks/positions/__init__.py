"""Position encodings for sequences, feature maps, queries and keys, and attention scores."""

from attention_blocks.positions.alibi import ALiBi
from attention_blocks.positions.learned import LearnedPosition
from attention_blocks.positions.learned_2d import LearnedPosition2d
from attention_blocks.positions.none import NoPosition
from attention_blocks.positions.relative_bias import RelativePositionBias
from attention_blocks.positions.rotary import RotaryPosition
from attention_blocks.positions.sincos_2d import SinCosPosition2d
from attention_blocks.positions.sinusoidal import SinusoidalPosition

__all__ = [
    "ALiBi",
    "LearnedPosition",
    "LearnedPosition2d",
    "NoPosition",
    "RelativePositionBias",
    "RotaryPosition",
    "SinCosPosition2d",
    "SinusoidalPosition",
]
