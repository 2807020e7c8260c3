"""Base of the networks that translate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules import BahdanauDecoder, RNNSizes, Seq2SeqNetwork
from lightning_modules.text.text_decoder import Encoded


class Reading(Seq2SeqNetwork):
    """Encodes each token as its one-hot vector."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = BahdanauDecoder(9, 7, 7, RNNSizes(4, 8))

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        vectors = torch.eye(7)[source]
        return Encoded(vectors, None, vectors.mean(dim=1))


def test_the_logits_are_those_of_the_decoder_given_the_encoded_source() -> None:
    network, source, target = Reading(), torch.tensor([[4, 5], [6, 1]]), torch.tensor([[2, 4, 5], [2, 8, 3]])
    lengths = torch.tensor([2, 2])
    logits = network(source, lengths, target)
    assert logits.shape == (2, 3, 9)
    torch.testing.assert_close(logits, network.decoder.output(network.decoder(target, network.encode(source, lengths))))


def test_a_subclass_must_define_encode() -> None:
    with pytest.raises(NotImplementedError, match=r"Seq2SeqNetwork.*encode\(source, lengths\)"):
        Seq2SeqNetwork().encode(torch.zeros(1, 1, dtype=torch.long), torch.ones(1))
