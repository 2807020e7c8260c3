"""Sequence attention: the base class, masks and blocks."""

from attention_blocks.sequence.additive import AdditiveAttention
from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory, Past
from attention_blocks.sequence.cache import Cache
from attention_blocks.sequence.cross_attention import CrossAttention
from attention_blocks.sequence.dot_product import DotProductAttention
from attention_blocks.sequence.luong import LuongAttention
from attention_blocks.sequence.masked_self_attention import MaskedSelfAttention
from attention_blocks.sequence.masks import causal_mask, padding_mask, window_mask
from attention_blocks.sequence.multi_head import MultiHeadAttention
from attention_blocks.sequence.scores import dot_product_attention, masked_softmax
from attention_blocks.sequence.self_attention import SelfAttention

__all__ = [
    "AdditiveAttention",
    "Attention",
    "AttentionOutput",
    "Cache",
    "CrossAttention",
    "DotProductAttention",
    "LuongAttention",
    "MaskedSelfAttention",
    "Memory",
    "MultiHeadAttention",
    "Past",
    "SelfAttention",
    "causal_mask",
    "dot_product_attention",
    "masked_softmax",
    "padding_mask",
    "window_mask",
]
