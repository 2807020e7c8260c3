"""RNN encoder-decoder networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attention_blocks import padding_mask
from attention_blocks.kernels import dropout
from lightning_modules.text.rnn_text_decoder import BahdanauDecoder, RNNSizes, RNNTextDecoder
from lightning_modules.text.text_decoder import Encoded, embedding
from lightning_modules.translation.seq2seq_network import Seq2SeqNetwork


class RNNEncoder(nn.Module):
    """RNN over a sentence, in one direction or in both.

    Args:
        vocab_size: V.
        sizes: of the RNN.
        bidirectional: run in both directions, each with half of the features.

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
        """Encodes each token in its context, and the sentence in one vector.

        Args:
            source: (B, T) int64, padded.
            lengths: (B,) int64, tokens of each row without padding.
        """
        x = dropout(self.embedding(source) * self.embedding.embedding_dim**0.5, self.dropout, self.training)
        # torch wants the lengths on the host, wherever the batch is.
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed)
        sequence, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.size(1))  # (B, T, H)
        parts = last if isinstance(last, tuple) else (last,)  # (layers · directions, B, H / directions) each
        summary = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], dim=-1)  # (B, F)
        return Encoded(sequence, padding_mask(lengths, source.size(1)), summary)


def bahdanau_decoder(vocab_size: int, memory_dim: int, summary_dim: int, sizes: RNNSizes) -> RNNTextDecoder:
    """The default decoder of :class:`RNNTranslator`: a :class:`BahdanauDecoder`.

    A function, since jsonargparse would mix the arguments of a default class, its attention among them, into whatever
    class replaces it.

    Args:
        vocab_size: V of the target.
        memory_dim: D_k, features of each source token.
        summary_dim: F, features of the source's summary.
        sizes: of the RNN.
    """
    return BahdanauDecoder(vocab_size, memory_dim, summary_dim, sizes)


DEFAULT_SIZES = RNNSizes()


class RNNTranslator(Seq2SeqNetwork):
    """An RNN encoder and a recurrent text decoder.

    ::

        source ─ RNNEncoder ─┬─ every token ──────────────▶ attention
                             └─ last states ─ bridge ─▶ first state of the decoder ─▶ tokens

    Args:
        source_vocab_size: V of the source.
        target_vocab_size: V of the target.
        sizes: of the RNNs on both sides.
        bidirectional: whether the encoder runs in both directions.
        decoder: creates the decoder as ``decoder(target_vocab_size, memory_dim, summary_dim, sizes)``:
            :class:`FixedVectorDecoder`, :class:`BahdanauDecoder` or :class:`LuongDecoder` with any attention.

    References:
        Sutskever et al. 2014; Bahdanau et al. 2015; Luong et al. 2015: see the decoders.

    Example:
        >>> from functools import partial
        >>> from attention_blocks import DotProductAttention
        >>> from lightning_modules import LuongDecoder
        >>> network = RNNTranslator(12, 10, sizes=RNNSizes(embedding_dim=8, hidden_dim=16),
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
        sizes: RNNSizes = DEFAULT_SIZES,
        bidirectional: bool = True,
        decoder: Callable[[int, int, int, RNNSizes], RNNTextDecoder] = bahdanau_decoder,
    ) -> None:
        super().__init__()
        self.encoder = RNNEncoder(source_vocab_size, sizes, bidirectional=bidirectional)
        self.decoder = decoder(target_vocab_size, sizes.hidden_dim, self.encoder.summary_dim, sizes)

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """See :meth:`Seq2SeqNetwork.encode`."""
        return self.encoder(source, lengths)
