"""Transformer layers and stacks, and their parts."""

from attention_blocks.transformer.batch_norm import SequenceBatchNorm
from attention_blocks.transformer.decoder import (
    DecoderLayer,
    DecoderLayerOutput,
    DecoderLayerState,
    DecoderOutput,
    TransformerDecoder,
)
from attention_blocks.transformer.drop_path import DropPath
from attention_blocks.transformer.encoder import EncoderLayer, EncoderOutput, LayerOutput, TransformerEncoder
from attention_blocks.transformer.feed_forward import FeedForward
from attention_blocks.transformer.layer_scale import LayerScale
from attention_blocks.transformer.residual import Residual
from attention_blocks.transformer.rms_norm import RMSNorm
from attention_blocks.transformer.swiglu import SwiGLU

__all__ = [
    "DecoderLayer",
    "DecoderLayerOutput",
    "DecoderLayerState",
    "DecoderOutput",
    "DropPath",
    "EncoderLayer",
    "EncoderOutput",
    "FeedForward",
    "LayerOutput",
    "LayerScale",
    "RMSNorm",
    "Residual",
    "SequenceBatchNorm",
    "SwiGLU",
    "TransformerDecoder",
    "TransformerEncoder",
]
