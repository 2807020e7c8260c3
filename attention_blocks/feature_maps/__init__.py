"""Attention on feature maps: the contract, and blocks that reweight the channels and locations of a feature map."""

from attention_blocks.feature_maps.attention_gate import AttentionGate
from attention_blocks.feature_maps.bam import BAM
from attention_blocks.feature_maps.cbam import CBAM
from attention_blocks.feature_maps.channel_attention import ChannelAttention
from attention_blocks.feature_maps.coordinate_attention import CoordinateAttention
from attention_blocks.feature_maps.ease_in import EaseIn
from attention_blocks.feature_maps.efficient_channel_attention import EfficientChannelAttention
from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention
from attention_blocks.feature_maps.global_context import GlobalContext
from attention_blocks.feature_maps.insert import Insertion, insert_attention, inserted, remove_attention
from attention_blocks.feature_maps.selective_kernel import SelectiveKernel
from attention_blocks.feature_maps.self_attention_2d import SelfAttention2d
from attention_blocks.feature_maps.simam import SimAM
from attention_blocks.feature_maps.spatial_attention import SpatialAttention
from attention_blocks.feature_maps.squeeze_excite import SqueezeExcite

__all__ = [
    "BAM",
    "CBAM",
    "AttentionGate",
    "ChannelAttention",
    "CoordinateAttention",
    "EaseIn",
    "EfficientChannelAttention",
    "FeatureMapAttention",
    "GlobalContext",
    "Insertion",
    "SelectiveKernel",
    "SelfAttention2d",
    "SimAM",
    "SpatialAttention",
    "SqueezeExcite",
    "insert_attention",
    "inserted",
    "remove_attention",
]
