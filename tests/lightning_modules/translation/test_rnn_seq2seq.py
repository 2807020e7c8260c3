"""RNN encoder-decoders: the encoder against torch's networks on each sentence alone; training with any attention."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning import Trainer, seed_everything
from torch import Tensor, nn

from attention_blocks import Attention
from datamodules import DatasetPairs, ParallelTextDataModule, TokenizerTrainer, TorchtextWords, Word
from lightning_modules import (
    BahdanauDecoder,
    FixedVectorDecoder,
    LuongDecoder,
    RNNEncoder,
    RNNSeq2Seq,
    RNNSizes,
    RNNTranslator,
    WarmupCosine,
)
from lightning_modules.text.rnn_text_decoder import Cell, RNNTextDecoder

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeTextBatch, MakeTextLoader, MakeTrainer, MakeTranslator

V, D, H = 13, 6, 8
CELLS: dict[Cell, type[nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
STYLES: dict[str, Callable[..., RNNTextDecoder]] = {
    "bahdanau": BahdanauDecoder,
    "luong": partial(LuongDecoder, input_feeding=False),
    "luong-feeding": LuongDecoder,
}
both_directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both ways"])


def padded(lengths: list[int], *, padding: int = 0) -> Tensor:
    rows = torch.full((len(lengths), max(lengths)), padding)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(4, V, (length,))
    return rows


# The encoder.


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
    assert mask.tolist() == [[[place < length for place in range(6)]] for length in lengths]
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
def test_what_stands_behind_a_sentence_is_not_read(lengths: list[int], padding: int) -> None:
    encoder = RNNEncoder(V, RNNSizes(D, H)).eval()
    source = padded(lengths)
    other = torch.cat([source.where(source > 0, torch.tensor(padding)), torch.full((len(lengths), 2), padding)], dim=1)
    one, two = encoder(source, torch.tensor(lengths)), encoder(other, torch.tensor(lengths))
    torch.testing.assert_close(one.summary, two.summary)
    torch.testing.assert_close(one.sequence, two.sequence[:, : source.size(1)])
    assert not two.sequence[:, source.size(1) :].any()
    assert not two.mask[..., source.size(1) :].any()


def test_two_directions_need_an_even_size() -> None:
    with pytest.raises(ValueError, match="hidden_dim must be even for an encoder of two directions, got 7"):
        RNNEncoder(V, RNNSizes(D, 7))
    RNNEncoder(V, RNNSizes(D, 7), bidirectional=False)


def test_dropout_of_the_encoder_is_for_training_only() -> None:
    encoder = RNNEncoder(V, RNNSizes(D, H, dropout=0.5)).eval()
    source, lengths = padded([5, 3]), torch.tensor([5, 3])
    assert torch.equal(encoder(source, lengths).sequence, encoder(source, lengths).sequence)
    assert not torch.equal(encoder.train()(source, lengths).sequence, encoder(source, lengths).sequence)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_on_an_accelerator_the_lengths_may_stand_there_too() -> None:
    encoder = RNNEncoder(V, RNNSizes(D, H)).eval()
    source, lengths = padded([5, 3]), torch.tensor([5, 3])
    here = encoder(source, lengths)
    there = encoder.cuda()(source.cuda(), lengths.cuda())
    torch.testing.assert_close(there.summary.cpu(), here.summary, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(there.sequence.cpu(), here.sequence, atol=1e-4, rtol=1e-4)


# The network.


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


# Training.


@pytest.mark.filterwarnings("ignore:You are trying to .self.log")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_attention_trains_with_every_cell_in_every_style(
    attention: Callable[[int, int], Attention],
    cell: Cell,
    style: str,
    make_translator: MakeTranslator,
    make_text_batch: MakeTextBatch,
) -> None:
    decoder = partial(STYLES[style], attention=attention)
    network = partial(RNNTranslator, sizes=RNNSizes(8, 16, cell), decoder=decoder)
    system, batch = make_translator("bahdanau", network=network).train(), make_text_batch()
    optimizer = torch.optim.SGD(system.parameters(), lr=0.3)
    losses = []
    for _ in range(4):
        loss = system.training_step(batch, 0)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for name, parameter in system.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_are_one_parameter_to_the_optimiser(
    tied: bool, make_translator: MakeTranslator, make_trainer: MakeTrainer, make_text_loader: MakeTextLoader
) -> None:
    decoder = partial(BahdanauDecoder, tie_embeddings=tied)
    network = partial(RNNTranslator, sizes=RNNSizes(8, 16), decoder=decoder)
    system = make_translator("bahdanau", network=network)
    make_trainer().fit(system, make_text_loader())
    inner = system.network.decoder
    assert isinstance(inner, RNNTextDecoder)
    assert (inner.output.weight is inner.embedding.weight) is tied
    [optimizer] = system.trainer.optimizers
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in parameters}) == len(parameters) == len(list(system.parameters()))


def test_the_default_network_is_bahdanaus(make_translator: MakeTranslator) -> None:
    tokenizers = make_translator("bahdanau")
    system = RNNSeq2Seq(tokenizers.source_tokenizer, tokenizers.target_tokenizer)
    assert isinstance(system.network.decoder, BahdanauDecoder)
    assert system.network.encoder.embedding.num_embeddings == len(system.source_tokenizer)
    assert system.network.decoder.embedding.num_embeddings == len(system.target_tokenizer)


@pytest.mark.parametrize("decoder", [LuongDecoder, FixedVectorDecoder])
def test_a_decoder_in_a_recipe_keeps_its_own_defaults(decoder: type[RNNTextDecoder]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable[[int, int], RNNTranslator], default=RNNTranslator)
    arguments = {"decoder": f"lightning_modules.{decoder.__name__}", "sizes": {"hidden_dim": 8}}
    given = {"class_path": "lightning_modules.RNNTranslator", "init_args": arguments}
    found = parser.instantiate(parser.parse_object({"network": given})).network(V, V)
    assert repr(found) == repr(RNNTranslator(V, V, sizes=RNNSizes(hidden_dim=8), decoder=decoder))


# From words to words.


@pytest.mark.parametrize("trainer", [Word(), TorchtextWords()], ids=["word", "torchtext"])
def test_it_learns_to_translate_sentences_it_never_saw(trainer: TokenizerTrainer, tmp_path: Path) -> None:
    """Counting in another language, backwards, so that it must look at the right word."""
    if isinstance(trainer, TorchtextWords) and importlib.util.find_spec("torchtext") is None:
        pytest.skip("torchtext is not installed: make test-torchtext")
    words = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "sechs": "six"}
    sentences = [list(some) for length in (2, 3, 4) for some in itertools.product(words, repeat=length)]
    rows = [{"de": " ".join(some), "en": " ".join(words[word] for word in reversed(some))} for some in sentences]
    seed_everything(0)
    data = ParallelTextDataModule(DatasetPairs(rows, "de", "en"), trainer, trainer, val=0.0, test=0.1, max_tokens=400)
    data.setup()
    network = partial(RNNTranslator, sizes=RNNSizes(32, 64), decoder=LuongDecoder)
    system = RNNSeq2Seq(
        data.source_tokenizer,
        data.target_tokenizer,
        network,
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
        lr_scheduler=partial(WarmupCosine, warmup=0.1),
    )
    fit = Trainer(
        max_epochs=20,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    fit.fit(system, data)
    [found] = fit.test(system, data, verbose=False)
    assert found["test/exact"] > 0.9
    assert system.translate(["drei eins vier"]) == ["four one three"]
