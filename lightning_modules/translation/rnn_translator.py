"""RNN encoder-decoder networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attention_blocks import padding_mask
from attention_blocks.kernels import dropout
from lightning_modules.text.rnn_text_decoder import BahdanauDecoder, Cell, RNNSizes, RNNTextDecoder
from lightning_modules.text.text_decoder import Encoded, embedding
from lightning_modules.translation.seq2seq_network import Seq2SeqNetwork


class RNNEncoder(nn.Module):
    """Reads a sentence, in one direction or in both.

    Args:
        vocab_size: V.
        sizes: of the recurrent network.
        bidirectional: read from both ends, half of the features each.

    Attributes:
        summary_dim: F, features of the summary: the last states of all layers, directions and components.

    Raises:
        ValueError: an odd ``hidden_dim`` for two directions.

    References:
        Schuster and Paliwal 1997, "Bidirectional Recurrent Neural Networks".

    Example:
        >>> encoder = RNNEncoder(10, RNNSizes(embedding_dim=4, hidden_dim=8))
        >>> encoded = encoder(torch.tensor([[4, 5, 3], [6, 3, 0]]), torch.tensor([3, 2]))
        >>> encoded.sequence.shape, encoded.summary.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, vocab_size: int, sizes: RNNSizes, *, bidirectional: bool = True) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        if sizes.hidden_dim % directions:
            raise ValueError(f"hidden_dim must be even for an encoder of two directions, got {sizes.hidden_dim}")
        self.dropout = sizes.dropout
        self.embedding = embedding(vocab_size, sizes.embedding_dim)
        self.rnn = sizes.rnn(sizes.embedding_dim, sizes.hidden_dim // directions, bidirectional=bidirectional)
        self.summary_dim = sizes.components * sizes.depth * sizes.hidden_dim

    def forward(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Every place in its surroundings, and the whole in one vector.

        Args:
            source: (B, T) int64.
            lengths: (B,), how many places of each row are real; what stands behind them is not read.
        """
        x = dropout(self.embedding(source) * self.embedding.embedding_dim**0.5, self.dropout, self.training)
        # torch wants the lengths on the host, wherever the batch is.
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed)
        sequence, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.size(1))
        parts = last if isinstance(last, tuple) else (last,)
        summary = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], dim=-1)
        return Encoded(sequence, padding_mask(lengths, source.size(1)), summary)


def bahdanau_decoder(vocab_size: int, memory_dim: int, summary_dim: int, sizes: RNNSizes) -> RNNTextDecoder:
    """The decoder of a network that is given none.

    A function, since jsonargparse would give the arguments of a default class, its attention among them, to whatever
    class replaces it.

    Args:
        vocab_size: V of the target.
        memory_dim: D_k, features of each place of the source.
        summary_dim: F, features of the source's summary.
        sizes: of the recurrent network.
    """
    return BahdanauDecoder(vocab_size, memory_dim, summary_dim, sizes)


class RNNTranslator(Seq2SeqNetwork):
    """An RNN encoder and a text decoder of one's choice.

    ::

        source ─ RNNEncoder ─┬─ every place ──────────────▶ attention
                             └─ last states ─ bridge ─▶ first state of the decoder ─▶ tokens

    Args:
        source_vocab_size: V of the source.
        target_vocab_size: V of the target.
        embedding_dim: features of a token's vector, on both sides.
        hidden_dim: H, features of the decoder's state and of each place of the source.
        cell: "rnn" (tanh), "gru" or "lstm", on both sides.
        depth: layers, on both sides.
        bidirectional: whether the encoder reads from both ends.
        dropout: share dropped of embeddings, between layers, and of the readout.
        decoder: makes the decoder as ``decoder(target_vocab_size, memory_dim, summary_dim, sizes)``:
            :class:`FixedVectorDecoder`, :class:`BahdanauDecoder` or :class:`LuongDecoder` with any attention.

    References:
        Sutskever et al. 2014; Bahdanau et al. 2015; Luong et al. 2015: see the decoders.

    Example:
        >>> from functools import partial
        >>> from attention_blocks import DotProductAttention
        >>> from lightning_modules import LuongDecoder
        >>> network = RNNTranslator(12, 10, embedding_dim=8, hidden_dim=16,
        ...                         decoder=partial(LuongDecoder, attention=DotProductAttention))
        >>> source, lengths = torch.tensor([[4, 5, 3], [6, 3, 0]]), torch.tensor([3, 2])
        >>> network(source, lengths, torch.tensor([[2, 4], [2, 7]])).shape
        torch.Size([2, 2, 10])
    """

    decoder: RNNTextDecoder

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        *,
        embedding_dim: int = 256,
        hidden_dim: int = 512,
        cell: Cell = "gru",
        depth: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        decoder: Callable[[int, int, int, RNNSizes], RNNTextDecoder] = bahdanau_decoder,
    ) -> None:
        super().__init__()
        sizes = RNNSizes(embedding_dim, hidden_dim, cell, depth, dropout)
        self.encoder = RNNEncoder(source_vocab_size, sizes, bidirectional=bidirectional)
        self.decoder = decoder(target_vocab_size, hidden_dim, self.encoder.summary_dim, sizes)

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """See :meth:`Seq2SeqNetwork.encode`."""
        return self.encoder(source, lengths)
