"""The gate; formula, steps and beams are tested with those of the other RNN decoders, in test_rnn_text_decoder.py."""

from __future__ import annotations

import torch

from lightning_modules import BahdanauDecoder, Encoded, GatedDecoder, RNNSizes

SIZES = RNNSizes(8, 16, "lstm")


def test_an_open_gate_is_a_bahdanau_decoder_and_a_closed_one_ignores_the_source() -> None:
    plain, gated = BahdanauDecoder(11, 4, 6, SIZES), GatedDecoder(11, 4, 6, SIZES)
    missing = gated.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["gate.weight", "gate.bias"]
    tokens = torch.tensor([[2, 4, 5, 9]])
    one, other = (Encoded(torch.randn(1, 5, 4), None, torch.ones(1, 6)) for _ in range(2))
    with torch.no_grad():
        gated.gate.weight.zero_()
        gated.gate.bias.fill_(100.0)
        torch.testing.assert_close(gated(tokens, one), plain(tokens, one))
        assert not torch.allclose(gated(tokens, one), gated(tokens, other))
        gated.gate.bias.fill_(-1000.0)
        torch.testing.assert_close(gated(tokens, one), gated(tokens, other))


def test_the_weights_are_those_of_the_attention_whatever_the_gate() -> None:
    decoder, memory = GatedDecoder(11, 4, 6, SIZES), Encoded(torch.randn(2, 5, 4), None, torch.randn(2, 6))
    with torch.no_grad():
        decoder.gate.bias.fill_(-1000.0)
    weights = decoder.step(torch.tensor([[2], [2]]), decoder.start(memory), need_weights=True).weights
    assert weights is not None
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1))
