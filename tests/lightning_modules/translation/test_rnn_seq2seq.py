"""Translation with an RNN: training with any attention, cell and decoder."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from lightning import Trainer, seed_everything
from torch import nn

from attention_blocks import Attention
from datamodules import DatasetPairs, HeldOut, ParallelTextDataModule, TokenizerTrainer, TorchtextWords, Word
from lightning_modules import BahdanauDecoder, LuongDecoder, RNNSeq2Seq, RNNSizes, RNNTranslator, WarmupCosine
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


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [Word(), TorchtextWords()], ids=["word", "torchtext"])
def test_it_learns_to_translate_sentences_it_never_saw(trainer: TokenizerTrainer, tmp_path: Path) -> None:
    """Number words in reverse order, so that it must attend to the right word."""
    if isinstance(trainer, TorchtextWords) and importlib.util.find_spec("torchtext") is None:
        pytest.skip("torchtext is not installed: make test-torchtext")
    words = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "sechs": "six"}
    sentences = [list(some) for length in (2, 3, 4) for some in itertools.product(words, repeat=length)]
    rows = [{"de": " ".join(some), "en": " ".join(words[word] for word in reversed(some))} for some in sentences]
    seed_everything(0)
    pairs, held_out = DatasetPairs(rows, "de", "en"), HeldOut(test=0.1)
    data = ParallelTextDataModule(pairs, trainer, trainer, held_out=held_out, max_tokens=400)
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
