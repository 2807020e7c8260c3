"""Decoder of Show, Attend and Tell: the context is gated by the state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attention_blocks import AdditiveAttention, Attention
from lightning_modules.text.rnn_text_decoder import BahdanauDecoder, RNNMemory, RNNSizes


class GatedDecoder(BahdanauDecoder):
    """:class:`BahdanauDecoder` whose context is multiplied by a gate, as words such as "of" need no image.

    ::

        c_t = σ(w · s_{t-1} + b) · attention(s_{t-1}, source)
        s_t = rnn([y_{t-1}; c_t], s_{t-1})
        readout_t = tanh(W [s_t; c_t; y_{t-1}])

    Args:
        vocab_size: V.
        memory_dim: D_k, features of each source position.
        summary_dim: F, features of the source's summary.
        sizes: of the RNN.
        attention: creates the attention as ``attention(H, D_k)``.
        tie_embeddings: the output layer uses the embedding's weights.

    References:
        Xu et al. 2015, "Show, Attend and Tell", section 4.2.1 (the gating scalar).

    Example:
        >>> from lightning_modules import Encoded
        >>> decoder = GatedDecoder(10, memory_dim=4, summary_dim=6, sizes=RNNSizes(8, 16))
        >>> memory = Encoded(torch.randn(2, 5, 4), None, torch.randn(2, 6))
        >>> decoder(torch.tensor([[2, 4, 5], [2, 7, 1]]), memory).shape
        torch.Size([2, 3, 16])
    """

    def __init__(
        self,
        vocab_size: int,
        memory_dim: int,
        summary_dim: int,
        sizes: RNNSizes,
        *,
        attention: Callable[[int, int], Attention] = AdditiveAttention,
        tie_embeddings: bool = False,
    ) -> None:
        super().__init__(vocab_size, memory_dim, summary_dim, sizes, attention=attention, tie_embeddings=tie_embeddings)
        self.gate = nn.Linear(sizes.hidden_dim, 1)

    def attend(
        self, query: Tensor, memory: RNNMemory, position: Tensor, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gated context of each hypothesis, (B, K, D_v), and its attention weights before the gate."""
        context, weights = super().attend(query, memory, position, need_weights=need_weights)
        return torch.sigmoid(self.gate(query)) * context, weights
