"""The translating RNN: the encoder against torch's networks on each sentence alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lightning_modules import BahdanauDecoder, FixedVectorDecoder, LuongDecoder, RNNEncoder, RNNSizes, RNNTranslator
from lightning_modules.text.rnn_text_decoder import Cell, RNNTextDecoder

V, D, H = 13, 6, 8
CELLS: dict[Cell, type[nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
both_directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both ways"])


def padded(lengths: list[int], *, padding: int = 0) -> Tensor:
    rows = torch.full((len(lengths), max(lengths)), padding)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(4, V, (length,))
    return rows


@pytest.mark.parametrize("depth", [1, 2])
@both_directions
@pytest.mark.parametrize("cell", CELLS)
def test_the_encoder_is_torchs_network_on_each_sentence_alone(cell: Cell, bidirectional: bool, depth: int) -> None:
    encoder = RNNEncoder(V, RNNSizes(D, H, cell, depth), bidirectional=bidirectional).double().eval()
    make: Callable[..., nn.RNNBase] = CELLS[cell]
    alone = make(
        D, H // 2 if bidirectional else H, depth, batch_first=True, bidirectional=bidirectional, dtype=torch.float64
    )
    alone.load_state_dict(encoder.rnn.state_dict())
    lengths = [3, 6, 1, 4]
    source = padded(lengths)
    sequence, mask, summary = encoder(source, torch.tensor(lengths))
    assert sequence.shape == (4, 6, H)
    assert mask.tolist() == [[[position < length for position in range(6)]] for length in lengths]
    assert summary.shape == (4, encoder.summary_dim)
    for i, length in enumerate(lengths):
        x = encoder.embedding.weight[source[i, :length]] * D**0.5
        outputs, last = alone(x[None])
        torch.testing.assert_close(sequence[i, :length], outputs[0])
        # Layer by layer, the direction to the right first; of an LSTM all h, then all c.
        parts = last if isinstance(last, tuple) else (last,)
        torch.testing.assert_close(summary[i], torch.cat([part.flatten() for part in parts]))


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), padding=st.integers(0, V - 1))
def test_padding_after_a_sentence_is_not_read(lengths: list[int], padding: int) -> None:
    encoder = RNNEncoder(V, RNNSizes(D, H)).eval()
    source = padded(lengths)
    other = torch.cat([source.where(source > 0, torch.tensor(padding)), torch.full((len(lengths), 2), padding)], dim=1)
    one, two = encoder(source, torch.tensor(lengths)), encoder(other, torch.tensor(lengths))
    torch.testing.assert_close(one.summary, two.summary)
    torch.testing.assert_close(one.sequence, two.sequence[:, : source.size(1)])
    assert not two.sequence[:, source.size(1) :].any()
    assert not two.mask[..., source.size(1) :].any()


def test_two_directions_need_an_even_size() -> None:
    with pytest.raises(ValueError, match=r"hidden_dim .*got 7"):
        RNNEncoder(V, RNNSizes(D, 7))
    RNNEncoder(V, RNNSizes(D, 7), bidirectional=False)


def test_dropout_of_the_encoder_is_for_training_only() -> None:
    encoder = RNNEncoder(V, RNNSizes(D, H, dropout=0.5)).eval()
    source, lengths = padded([5, 3]), torch.tensor([5, 3])
    assert torch.equal(encoder(source, lengths).sequence, encoder(source, lengths).sequence)
    assert not torch.equal(encoder.train()(source, lengths).sequence, encoder(source, lengths).sequence)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_lengths_may_be_on_the_accelerator() -> None:
    encoder = RNNEncoder(V, RNNSizes(D, H)).eval()
    source, lengths = padded([5, 3]), torch.tensor([5, 3])
    here = encoder(source, lengths)
    there = encoder.cuda()(source.cuda(), lengths.cuda())
    torch.testing.assert_close(there.summary.cpu(), here.summary, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(there.sequence.cpu(), here.sequence, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decoder", [FixedVectorDecoder, BahdanauDecoder, LuongDecoder])
@both_directions
def test_the_network_fits_encoder_and_decoder_together(
    decoder: Callable[..., RNNTextDecoder], bidirectional: bool
) -> None:
    network = RNNTranslator(V, 9, sizes=RNNSizes(D, H, "lstm", 2), bidirectional=bidirectional, decoder=decoder).eval()
    source, lengths, target = padded([4, 2]), torch.tensor([4, 2]), torch.tensor([[2, 5, 6], [2, 7, 1]])
    logits = network(source, lengths, target)
    assert logits.shape == (2, 3, 9)
    assert network.decoder.sizes == RNNSizes(D, H, "lstm", 2)
    by_parts = network.decoder.output(network.decoder(target, network.encode(source, lengths)))
    torch.testing.assert_close(logits, by_parts)


@pytest.mark.parametrize("decoder", [LuongDecoder, FixedVectorDecoder])
def test_a_decoder_in_a_recipe_keeps_its_own_defaults(decoder: type[RNNTextDecoder]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable[[int, int], RNNTranslator], default=RNNTranslator)
    arguments = {"decoder": f"lightning_modules.{decoder.__name__}", "sizes": {"hidden_dim": 8}}
    given = {"class_path": "lightning_modules.RNNTranslator", "init_args": arguments}
    found = parser.instantiate(parser.parse_object({"network": given})).network(V, V)
    assert repr(found) == repr(RNNTranslator(V, V, sizes=RNNSizes(hidden_dim=8), decoder=decoder))
