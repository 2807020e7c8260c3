"""Transformer encoder: the layer and the stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.sequence.attention import Attention
from attention_blocks.sequence.multi_head import MultiHeadAttention
from attention_blocks.transformer.feed_forward import FeedForward
from attention_blocks.transformer.residual import Residual
from attention_blocks.weights import Layout


class LayerOutput(NamedTuple):
    """Output of an encoder layer.

    Attributes:
        hidden: (B, T, D).
        weights: attention map, (B, N, T, T_k), or (B, T, T_k) from a block without heads; ``None`` unless
            ``need_weights``.
    """

    hidden: Tensor
    weights: Tensor | None


class EncoderOutput(NamedTuple):
    """Output of an encoder.

    Attributes:
        hidden: (B, T, D).
        weights: attention map of each layer, in order; ``None`` unless ``need_weights``.
    """

    hidden: Tensor
    weights: tuple[Tensor, ...] | None


def check_context_dim(name: str, attention: Attention, dim: int) -> None:
    """Refuses an attention whose context cannot be added to the residual stream.

    Args:
        name: the argument that created the attention.
        attention: the attention.
        dim: D, the features of the residual stream.

    Raises:
        ValueError: the context has another feature size than D.
    """
    if attention.context_dim != dim:
        raise ValueError(
            f"{name} is a {type(attention).__name__} whose context has {attention.context_dim} features, but it is "
            f"added to a sequence of dim={dim}; choose a block with context_dim={dim}, such as MultiHeadAttention"
        )


@leaf
def check_features(name: str, sequence: Tensor, dim: int) -> None:
    """Refuses a tensor that is not a sequence of the feature size that a layer was built for.

    Args:
        name: the argument.
        sequence: its value.
        dim: D.

    Raises:
        ValueError: the shape is not (B, T, dim).
    """
    if sequence.ndim != 3 or sequence.size(-1) != dim:
        raise ValueError(
            f"{name} must have shape (B, T, {dim}), got {tuple(sequence.shape)}; put the batch first, and build the "
            "layer for the feature size"
        )


@leaf
def check_same_batch(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuses two arguments of different batch sizes.

    Args:
        name: name of one argument.
        x: its value, (B, …).
        other_name: name of the other argument.
        other: its value, (B, …).

    Raises:
        ValueError: the batch sizes differ.
    """
    if x.size(0) != other.size(0):
        raise ValueError(
            f"{name} and {other_name} must have the same batch size, got {x.size(0)} for {name} and {other.size(0)} "
            f"for {other_name}; K hypotheses per sequence are decoded by step_beams, as (B, K, D)"
        )


def drop_path_rates(depth: int, highest: float) -> list[float]:
    """Drop-path rates that rise linearly from 0 in the first layer, as in stochastic depth.

    Args:
        depth: number of layers.
        highest: rate of the last layer.

    Raises:
        ValueError: ``depth`` is not positive, ``highest`` lies outside [0, 1).

    Example:
        >>> drop_path_rates(3, 0.5)
        [0.0, 0.25, 0.5]
    """
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, got {depth}")
    if not 0.0 <= highest < 1.0:
        raise ValueError(f"drop_path must lie in [0, 1), got {highest}")
    return [highest * index / max(depth - 1, 1) for index in range(depth)]


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with a norm and a residual connection.

    ::

        norm_first=True    x = x + attention(norm(x))      norm_first=False    x = norm(x + attention(x))
        (pre-norm)         x = x + feed_forward(norm(x))   (post-norm)         x = norm(x + feed_forward(x))

    With ``attention=MaskedSelfAttention`` it is the layer of a decoder-only language model.

    Args:
        dim: D.
        attention: creates the attention, called as ``attention(dim, dim)``; any block whose context has D features.
        feed_forward: creates the feed-forward network, called as ``feed_forward(dim)``.
        norm: creates each of the two norms, called as ``norm(dim)``.
        norm_first: the norm comes first in each branch (pre-norm) or after each sum (post-norm).
        dropout: fraction of each branch's features dropped in training.
        drop_path: fraction of the rows of the batch that skip a branch in training.
        layer_scale: initial value of a learned factor for each feature of each branch; no factor if omitted.

    Raises:
        ValueError: the attention's context has another size, or a rate lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need" (post-norm);
        Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture" (pre-norm).

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from attention_blocks import MultiHeadAttention, RMSNorm, SwiGLU
        >>> attention = partial(MultiHeadAttention, num_heads=4)
        >>> layer = EncoderLayer(64, attention=attention, feed_forward=SwiGLU, norm=RMSNorm)
        >>> hidden, weights = layer(torch.randn(2, 5, 64), need_weights=True)
        >>> hidden.shape, weights.shape
        (torch.Size([2, 5, 64]), torch.Size([2, 4, 5, 5]))
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        "torch": {
            "attention": "self_attn",
            "attention_norm": "norm1",
            "feed_forward.up_proj": "linear1",
            "feed_forward.down_proj": "linear2",
            "feed_forward_norm": "norm2",
        }
    }

    def __init__(
        self,
        dim: int,
        *,
        attention: Callable[[int, int], Attention] = MultiHeadAttention,
        feed_forward: Callable[[int], nn.Module] = FeedForward,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        norm_first: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention_norm = norm(dim)
        self.attention = attention(dim, dim)
        self.attention_residual = Residual(dim, dropout=dropout, drop_path=drop_path, layer_scale=layer_scale)
        self.feed_forward_norm = norm(dim)
        self.feed_forward = feed_forward(dim)
        self.feed_forward_residual = Residual(dim, dropout=dropout, drop_path=drop_path, layer_scale=layer_scale)
        check_context_dim("attention", self.attention, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, need_weights: bool = False) -> LayerOutput:
        """Applies self-attention, then the feed-forward network.

        Args:
            x: (B, T, D).
            mask: boolean, True = may attend, broadcastable to (B, T, T).
            need_weights: also return the attention map.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: a shape does not fit.
        """
        check_features("x", x, self.attention.query_dim)
        query = self.attention_norm(x) if self.norm_first else x
        context, weights = self.attention(query, query, mask=mask, need_weights=need_weights)
        x = self.attention_residual(x, context)
        if self.norm_first:
            x = self.feed_forward_residual(x, self.feed_forward(self.feed_forward_norm(x)))
        else:
            x = self.attention_norm(x)
            x = self.feed_forward_norm(self.feed_forward_residual(x, self.feed_forward(x)))
        return LayerOutput(x, weights)

    def extra_repr(self) -> str:
        """Shows norm_first in the printed module."""
        return f"norm_first={self.norm_first}"


class TransformerEncoder(nn.Module):
    """Stack of encoder layers with a final norm.

    Args:
        dim: D.
        depth: number of layers.
        layer: creates each layer, called as ``layer(dim, drop_path=rate)``; :class:`EncoderLayer`, or a
            ``functools.partial`` of it.
        drop_path: rate of the last layer; the rates rise linearly from 0 in the first layer.
        norm: creates the final norm; ``None`` for a stack of post-norm layers, which needs none.

    Raises:
        ValueError: ``depth`` is not positive, ``drop_path`` lies outside [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need"; Huang et al. 2016, "Deep Networks with Stochastic Depth".

    Example:
        >>> import torch
        >>> from attention_blocks import padding_mask
        >>> encoder = TransformerEncoder(64, depth=2)
        >>> encoder(torch.randn(2, 5, 64), padding_mask(torch.tensor([5, 3]))).hidden.shape
        torch.Size([2, 5, 64])
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        layer: Callable[..., EncoderLayer] = EncoderLayer,
        drop_path: float = 0.0,
        norm: Callable[[int], nn.Module] | None = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(dim, drop_path=rate) for rate in drop_path_rates(depth, drop_path))
        self.norm = None if norm is None else norm(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, need_weights: bool = False) -> EncoderOutput:
        """Applies the layers.

        Args:
            x: (B, T, D).
            mask: boolean, True = may attend, broadcastable to (B, T, T).
            need_weights: also return the attention map of each layer.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: a shape does not fit.
        """
        maps = []
        for layer in self.layers:
            x, weights = layer(x, mask, need_weights=need_weights)
            maps.append(weights)
        return EncoderOutput(x if self.norm is None else self.norm(x), tuple(maps) if need_weights else None)
