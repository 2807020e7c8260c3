"""Translation with a Transformer: training, checkpoints, and recipes that name its parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch

from attention_blocks import (
    DecoderLayer,
    EncoderLayer,
    LearnedPosition,
    MaskedSelfAttention,
    MultiHeadAttention,
    NoPosition,
    RotaryPosition,
    SelfAttention,
)
from lightning_modules import System, TransformerSeq2Seq, TransformerTranslator
from lightning_modules.translation.transformer_translator import Tied

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import (
        MakeTextBatch,
        MakeTextLoader,
        MakeTrainer,
        MakeTranslator,
        RunCommand,
        TextTokenizers,
    )

D, HEADS = 16, 2
MASKED, FREE = partial(MaskedSelfAttention, num_heads=HEADS), partial(MultiHeadAttention, num_heads=HEADS)
ROTARY_ENCODER = partial(EncoderLayer, attention=partial(SelfAttention, num_heads=HEADS, rotary=RotaryPosition))
ROTARY_DECODER = partial(DecoderLayer, self_attention=partial(MASKED, rotary=RotaryPosition), cross_attention=FREE)


@pytest.mark.parametrize("tied", ["none", "target", "all"])
def test_tying_survives_training_and_loading(
    tied: Tied,
    tmp_path: Path,
    make_trainer: MakeTrainer,
    make_text_batch: MakeTextBatch,
    make_text_loader: MakeTextLoader,
    tokenizers: TextTokenizers,
) -> None:
    network = partial(TransformerTranslator, dim=D, depth=1, tie_embeddings=tied)
    system = TransformerSeq2Seq(tokenizers.target, tokenizers.target, network)
    trainer = make_trainer(max_steps=2)
    sentence = ["the dog sees"]
    dataset_batch = make_text_batch()._replace(
        source=torch.tensor([[4, 5, 3]] * 3), source_lengths=torch.tensor([3] * 3)
    )
    trainer.fit(system, make_text_loader(dataset_batch, dataset_batch))
    [optimizer] = trainer.optimizers
    parameters = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(set(parameters)) == len(parameters)
    tables = {"none": 3, "target": 2, "all": 1}[tied]
    inner = system.network
    shared = {id(one) for one in (inner.embedding.weight, inner.decoder.embedding.weight, inner.decoder.output.weight)}
    assert len(shared) == tables
    assert shared <= set(parameters)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    loaded = System.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert isinstance(loaded, TransformerSeq2Seq)
    again = loaded.network
    assert (
        len({one.weight.data_ptr() for one in (again.embedding, again.decoder.embedding, again.decoder.output)})
        == tables
    )
    assert loaded.translate(sentence) == system.translate(sentence)


@pytest.mark.parametrize(
    "positions",
    [
        {"position": partial(LearnedPosition, max_length=80)},
        {"position": NoPosition, "encoder_layer": ROTARY_ENCODER, "decoder_layer": ROTARY_DECODER},
    ],
    ids=["learned", "rotary"],
)
def test_other_positions_encode_the_order_and_load_from_a_checkpoint(
    positions: dict[str, object], tmp_path: Path, make_trainer: MakeTrainer, make_translator: MakeTranslator
) -> None:
    network = partial(TransformerTranslator, dim=D, depth=1, dropout=0.0, **positions)  # type: ignore[arg-type]
    system = make_translator("transformer", network=network).eval()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.normal_(std=0.5)
    source, lengths, target = torch.tensor([[4, 5, 6, 3]]), torch.tensor([4]), torch.tensor([[2, 4, 5]])
    other = torch.tensor([[5, 4, 6, 3]])
    assert not torch.allclose(system(source, lengths, target), system(other, lengths, target), atol=1e-4)
    trainer = make_trainer()
    trainer.strategy.connect(system)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    loaded = TransformerSeq2Seq.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True).eval()
    assert torch.equal(loaded(source, lengths, target), system(source, lengths, target))


ROTARY_RECIPE = """
model:
  class_path: TransformerSeq2Seq
  init_args:
    network:
      class_path: lightning_modules.TransformerTranslator
      init_args:
        dim: 16
        depth: 1
        position: attention_blocks.NoPosition
        encoder_layer:
          class_path: attention_blocks.EncoderLayer
          init_args:
            attention:
              class_path: attention_blocks.SelfAttention
              init_args: {num_heads: 2, rotary: attention_blocks.RotaryPosition}
        decoder_layer:
          class_path: attention_blocks.DecoderLayer
          init_args:
            self_attention:
              class_path: attention_blocks.MaskedSelfAttention
              init_args: {num_heads: 2, rotary: attention_blocks.RotaryPosition}
            cross_attention:
              class_path: attention_blocks.CrossAttention
              init_args: {num_heads: 2}
data:
  class_path: NumberBasesDataModule
  init_args: {limit: 200, train_size: 40, val_size: 4, test_size: 4}
trainer: {accelerator: cpu, fast_dev_run: true, enable_progress_bar: false, enable_model_summary: false, logger: false}
"""


@pytest.mark.slow
def test_rotary_positions_can_be_asked_for_in_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: RunCommand
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rotary.yaml").write_text(ROTARY_RECIPE)
    ran = run_command("fit", "--config", "rotary.yaml")
    assert ran.cli is not None, ran.err
    network = cast(TransformerTranslator, ran.cli.model.network)
    assert isinstance(network.position, NoPosition)
    assert isinstance(network.decoder.position, NoPosition)
    encoder, decoder = network.encoder.layers[0], network.decoder.layers.layers[0]
    assert isinstance(encoder, EncoderLayer)
    assert isinstance(decoder, DecoderLayer)
    for block in (encoder.attention, decoder.self_attention):
        assert isinstance(block, MultiHeadAttention)
        assert isinstance(block.rotary, RotaryPosition)
