"""Hugging Face Marian model with random weights, which are copied to this library's network for comparison."""

from __future__ import annotations

from typing import Any


def random_marian(dim: int, depth: int, heads: int, inner: int, vocabulary: int, **config: Any) -> Any:  # noqa: ANN401
    """Marian model with ReLU, as in Vaswani et al. 2017.

    Args:
        dim: D, features of a token.
        depth: number of layers of the encoder and of the decoder.
        heads: number of heads of each attention.
        inner: hidden features of the feed-forward networks.
        vocabulary: V, for source and target.
        **config: further arguments of ``MarianConfig``.
    """
    from transformers import MarianConfig, MarianMTModel

    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"layers": depth, "attention_heads": heads, "ffn_dim": inner}.items()
    }
    settings = {"activation_function": "relu", "scale_embedding": True, **sides, **config}
    return MarianMTModel(MarianConfig(vocab_size=vocabulary, d_model=dim, **settings))
