"""The Transformer encoder-decoder of "Attention Is All You Need"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast, get_args

from torch import Tensor, nn

from attention_blocks import DecoderLayer, EncoderLayer, SinusoidalPosition, TransformerEncoder, padding_mask
from lightning_modules.text.text_decoder import Encoded, embedding
from lightning_modules.text.transformer_text_decoder import TransformerTextDecoder, embed
from lightning_modules.translation.seq2seq_network import Seq2SeqNetwork

if TYPE_CHECKING:
    pass

Tied = Literal["none", "target", "all"]


class TransformerTranslator(Seq2SeqNetwork):
    """A Transformer encoder and a Transformer decoder.

    ::

        source ─ embed + positions ─ encoder ──┐ keys, values of every cross-attention
        target ─ embed + positions ─ decoder ◀─┘ ─ output layer ─▶ logits

    Args:
        source_vocab_size: V of the source.
        target_vocab_size: V of the target.
        dim: D.
        depth: number of encoder layers.
        decoder_depth: number of decoder layers; defaults to ``depth``.
        encoder_layer: creates each encoder layer as ``encoder_layer(dim, drop_path=rate)``.
        decoder_layer: creates each decoder layer as ``decoder_layer(dim, memory_dim=dim, drop_path=rate)``.
        position: creates the positions of each side as ``position(dim)``; :class:`NoPosition` if the attention blocks
            have positions of their own.
        dropout: dropout rate of the embeddings with positions; the layers have their own.
        tie_embeddings: "target": the output layer shares the weights of the target embedding; "all": the source
            embedding shares them too, which needs one vocabulary for both sides; "none".
        output_bias: whether the output layer has a bias; the paper's has none.

    Raises:
        ValueError: an unknown ``tie_embeddings``, or "all" with vocabularies of two sizes.

    References:
        Vaswani et al. 2017, "Attention Is All You Need".

    Example:
        >>> import torch
        >>> network = TransformerTranslator(12, 10, dim=16, depth=2)
        >>> source, lengths = torch.tensor([[4, 5, 3], [6, 3, 0]]), torch.tensor([3, 2])
        >>> network(source, lengths, torch.tensor([[2, 4], [2, 7]])).shape
        torch.Size([2, 2, 10])
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        *,
        dim: int = 512,
        depth: int = 6,
        decoder_depth: int | None = None,
        encoder_layer: Callable[..., EncoderLayer] = EncoderLayer,
        decoder_layer: Callable[..., DecoderLayer] = DecoderLayer,
        position: Callable[[int], nn.Module] = SinusoidalPosition,
        dropout: float = 0.1,
        tie_embeddings: Tied = "target",
        output_bias: bool = False,
    ) -> None:
        super().__init__()
        if tie_embeddings not in get_args(Tied):
            raise ValueError(f"tie_embeddings must be one of {', '.join(get_args(Tied))}, got {tie_embeddings!r}")
        if tie_embeddings == "all" and source_vocab_size != target_vocab_size:
            raise ValueError(
                f"tie_embeddings='all' needs one vocabulary for both sides, got {source_vocab_size} and "
                f"{target_vocab_size} tokens; share the tokenizer, or tie 'target' only"
            )
        self.dropout = dropout
        self.decoder: TransformerTextDecoder = TransformerTextDecoder(
            target_vocab_size,
            dim=dim,
            depth=depth if decoder_depth is None else decoder_depth,
            layer=decoder_layer,
            position=position,
            dropout=dropout,
            tie_embeddings=tie_embeddings != "none",
            output_bias=output_bias,
        )
        self.embedding = self.decoder.embedding if tie_embeddings == "all" else embedding(source_vocab_size, dim)
        self.position = position(dim)
        self.encoder = TransformerEncoder(dim, depth, layer=encoder_layer, norm=None)
        self.norm = nn.LayerNorm(dim) if cast(EncoderLayer, self.encoder.layers[0]).norm_first else nn.Identity()

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """See :meth:`Seq2SeqNetwork.encode`."""
        x = embed(source, self.embedding, self.position, self.dropout if self.training else 0.0)
        mask = padding_mask(lengths, source.size(1))
        return Encoded(self.norm(self.encoder(x, mask).hidden), mask, None)
