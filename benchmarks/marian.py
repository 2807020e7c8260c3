"""A random Marian model of Hugging Face's, the peer that ours is given the weights of."""

from __future__ import annotations

from typing import Any


def random_marian(dim: int, depth: int, heads: int, inner: int, vocabulary: int, **config: Any) -> Any:  # noqa: ANN401
    """The paper's Transformer as Marian has it.

    Args:
        dim: D.
        depth: layers of each side.
        heads: of each attention.
        inner: width inside the feed-forward networks.
        vocabulary: V of both sides.
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
