"""What every translation system does with raw text: order, blanks, batches, plots, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_modules import BeamSearch, Sampling, Seq2Seq, System

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeTextBatch, MakeTrainer, MakeTranslator

KINDS = ("transformer", "bahdanau", "luong", "fixed")
every_kind = pytest.mark.parametrize("kind", KINDS)


# Translating.


@every_kind
def test_each_sentence_is_translated_as_if_alone_and_in_order(
    kind: str, sentences: list[str], make_writer: MakeTranslator
) -> None:
    system = make_writer(kind)
    alone = [system.translate([sentence])[0] for sentence in sentences]
    assert len(set(alone)) > 3
    for size in (1, 4, 64):
        assert system.translate(sentences, batch_size=size) == alone
    assert system.translate(sentences[::-1]) == alone[::-1]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from(["", " ", "\t ", "ein Vogel", "der Mann isst .", "zwölf"]), max_size=7),
    size=st.integers(1, 4),
)
def test_blank_lines_stay_empty_and_the_order_is_kept(lines: list[str], size: int, make_writer: MakeTranslator) -> None:
    system = make_writer("luong")
    found = system.translate(lines, batch_size=size)
    assert found == [system.translate([line])[0] if line.strip() else "" for line in lines]


def test_the_strategy_is_the_systems_own_unless_another_is_given(
    sentences: list[str], make_writer: MakeTranslator
) -> None:
    greedy, beam = make_writer(strategy=BeamSearch(size=1)), make_writer(strategy=BeamSearch(size=4))
    assert greedy.translate(sentences) != beam.translate(sentences)
    assert greedy.translate(sentences, BeamSearch(size=4)) == beam.translate(sentences)
    torch.manual_seed(0)
    drawn = greedy.translate(sentences, Sampling())
    assert drawn != greedy.translate(sentences)


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_restored_and_dropout_is_off_meanwhile(
    training: bool, sentences: list[str], make_writer: MakeTranslator
) -> None:
    system = make_writer()
    system.train(training)
    system.network.decoder.dropout = 0.9  # type: ignore[assignment]
    cast(nn.Module, system.network.encoder).eval()  # frozen, as fine-tuning has it
    modes = [module.training for module in system.modules()]
    assert system.translate(sentences) == system.translate(sentences)
    system.plot(sentences[:1])
    assert [module.training for module in system.modules()] == modes
    with pytest.raises(ValueError, match="n_best"):
        system.write(system.prepare(sentences), BeamSearch(size=1), n_best=2)
    assert [module.training for module in system.modules()] == modes


def test_wrong_arguments_are_named(make_writer: MakeTranslator) -> None:
    system = make_writer("luong")
    with pytest.raises(TypeError, match=r"texts .*got one str"):
        system.translate("ein Vogel")
    with pytest.raises(ValueError, match=r"batch_size .*got 0"):
        system.translate(["ein Vogel"], batch_size=0)
    assert system.translate([]) == []


def test_raw_text_is_prepared_as_the_data_prepares_it(
    sentences: list[str], make_writer: MakeTranslator, make_text_batch: MakeTextBatch
) -> None:
    system = make_writer("luong")
    prepared, batch = system.prepare(sentences), make_text_batch(sentences, [""] * len(sentences))
    assert torch.equal(prepared.source, batch.source)
    assert torch.equal(prepared.source_lengths, batch.source_lengths)
    assert prepared.source_texts == sentences
    assert prepared.target.shape == (len(sentences), 0)
    assert not prepared.target_lengths.any()


def test_endless_generation_stops_at_the_length_limit(make_writer: MakeTranslator) -> None:
    system = make_writer(strategy=BeamSearch(size=1))
    with torch.no_grad():
        system.decoder.output.bias[system.target_tokenizer.eos_id] = -1e4
    batch = system.prepare(["ein Vogel", "der Mann isst nicht ."])
    lengths = [len(hypotheses[0].tokens) for hypotheses in system.write(batch)]
    assert lengths == [4 * 3 + 16, 4 * 6 + 16]


# Plots.


@pytest.mark.parametrize("kind", ["transformer", "bahdanau", "luong"])
def test_a_plot_has_a_row_per_generated_token_and_a_column_per_source_token(
    kind: str, sentences: list[str], make_writer: MakeTranslator
) -> None:
    system = make_writer(kind)
    figure = system.plot(sentences[:3])
    best = [hypotheses[0] for hypotheses in system.write(system.prepare(sentences[:3]))]
    assert len(figure.axes) == 3
    for axis, sentence, hypothesis in zip(figure.axes, sentences, best, strict=False):
        [image] = axis.images
        heat = torch.as_tensor(image.get_array())
        [source] = system.source_tokenizer.encode([sentence])
        assert heat.shape == (len(hypothesis.tokens), len(source) + 1)
        torch.testing.assert_close(heat.sum(1), torch.ones(len(heat)), atol=1e-4, rtol=1e-4)
        columns = [label.get_text() for label in axis.get_xticklabels()]
        rows = [label.get_text() for label in axis.get_yticklabels()]
        assert columns == [*system.source_tokenizer.tokens(source), "<eos>"]
        assert rows == system.target_tokenizer.tokens(hypothesis.tokens)


def test_a_plot_without_attention_or_without_text_is_refused(make_writer: MakeTranslator) -> None:
    with pytest.raises(ValueError, match="FixedVectorDecoder"):
        make_writer("fixed").plot(["ein Vogel"])
    nothing: list[str] = []
    for texts in (nothing, "ein Vogel"):
        with pytest.raises(ValueError, match=r"texts .*got"):
            make_writer().plot(texts)


# Checkpoints.


@every_kind
def test_a_checkpoint_alone_gives_the_same_translations(
    kind: str, sentences: list[str], tmp_path: Path, make_writer: MakeTranslator, make_trainer: MakeTrainer
) -> None:
    system, trainer = make_writer(kind, strategy=BeamSearch(size=3, no_repeat_ngram=2)), make_trainer()
    trainer.strategy.connect(system)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    for through in (System, Seq2Seq, type(system)):
        loaded = through.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
        assert isinstance(loaded, Seq2Seq)
        assert type(loaded) is type(system)
        assert loaded.strategy == system.strategy
        assert loaded.source_tokenizer == system.source_tokenizer
        assert loaded.target_tokenizer == system.target_tokenizer
        assert loaded.translate(sentences) == system.translate(sentences)
