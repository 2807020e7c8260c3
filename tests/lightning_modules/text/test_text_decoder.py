from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_modules.generation.decoder import DecodingState
from lightning_modules.text.text_decoder import Encoded, TextDecoder, embedding, output_layer, sampled


def test_a_decoder_names_the_methods_that_it_must_define() -> None:
    decoder, memory = TextDecoder(), Encoded(torch.zeros(1, 2, 3), None, None)
    tokens = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(NotImplementedError, match=r"TextDecoder.*forward\(tokens, memory\)"):
        decoder(tokens, memory)
    with pytest.raises(NotImplementedError, match=r"TextDecoder.*start\(memory\)"):
        decoder.start(memory)
    with pytest.raises(NotImplementedError, match=r"TextDecoder.*step\(tokens, state"):
        decoder.step(tokens, DecodingState(None, None))


def test_a_vector_times_the_root_of_its_size_has_a_variance_of_one() -> None:
    table = embedding(500, 64)
    assert table.weight.shape == (500, 64)
    assert (table.weight * 64**0.5).var().item() == pytest.approx(1.0, abs=0.05)
    assert table.weight.mean().abs() < 0.01
    with pytest.raises(ValueError, match=r"vocab_size .*got 1"):
        embedding(1, 4)


def test_a_tied_output_layer_shares_the_weights_of_the_embedding() -> None:
    table = embedding(7, 4)
    tied = output_layer(4, table, tied=True)
    assert tied.weight is table.weight
    assert not tied.bias.any()
    x = torch.randn(2, 4)
    torch.testing.assert_close(tied(x), x @ table.weight.T)
    with pytest.raises(ValueError, match=r"tied=True: .* 4 features, .* 5; make the sizes equal"):
        output_layer(5, table, tied=True)


def test_an_untied_output_layer_has_its_own_weights() -> None:
    table = nn.Embedding(7, 4)
    untied = output_layer(5, table, tied=False)
    assert untied.weight.shape == (7, 5)
    assert untied.weight.data_ptr() != table.weight.data_ptr()
    assert not untied.bias.any()
    # Xavier's uniform distribution.
    bound = (6 / (7 + 5)) ** 0.5
    assert 0.5 * bound < untied.weight.abs().max() <= bound


@given(seed=st.integers(0, 10**6))
def test_sampling_takes_all_or_nothing_at_its_ends(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 5, (6, 1), generator=generator)
    logits = torch.randn(6, 1, 5, generator=generator)
    assert torch.equal(sampled(tokens, logits, 0.0), tokens)
    assert torch.equal(sampled(tokens, logits, 1.0), logits.argmax(dim=-1))


def test_sampling_replaces_that_fraction_of_the_tokens() -> None:
    tokens = torch.zeros(20_000, 1, dtype=torch.long)
    logits = torch.tensor([0.0, 3.0, 1.0]).expand(20_000, 1, 3)
    assert sampled(tokens, logits, 0.3).float().mean().item() == pytest.approx(0.3, abs=0.02)
