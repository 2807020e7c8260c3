"""Loss and metrics of text against formulas and sacreBLEU, whatever the padding, the batches and the processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sacrebleu
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules import TextBatch
from lightning_modules import BeamSearch, Likelihood, Seq2Seq, TextGenerator, TransformerSeq2Seq

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import (
        MakeTextBatch,
        MakeTextLoader,
        MakeTrainer,
        MakeTranslator,
        TextTokenizers,
    )

NAMES = ("loss", "perplexity", "token_accuracy", "exact", "bleu", "bleu_lower", "chrf")
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to .self.log")


def log_probabilities(system: Seq2Seq, batch: TextBatch) -> list[Tensor]:
    """For each sentence by itself, without padding, log p of every token at every position, (T, V), in float64."""
    system = system.double()
    found = []
    for i, (n, m) in enumerate(zip(batch.source_lengths.tolist(), batch.target_lengths.tolist(), strict=True)):
        logits = system(batch.source[i : i + 1, :n], batch.source_lengths[i : i + 1], batch.target[i : i + 1, : m - 1])
        found.append(logits[0] - logits[0].exp().sum(-1, keepdim=True).log())
    return found


def widened(batch: TextBatch, positions: int) -> TextBatch:
    """The same batch with more padding on both sides."""
    return batch._replace(source=F.pad(batch.source, (0, positions)), target=F.pad(batch.target, (0, positions)))


# The loss.


@pytest.mark.parametrize("kind", ["transformer", "unbiased", "bahdanau", "luong", "fixed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_smoothed_cross_entropy_of_real_tokens(
    kind: str, smoothing: float, make_writer: MakeTranslator, make_text_batch: MakeTextBatch
) -> None:
    system, batch = make_writer(kind, objective=Likelihood(smoothing)).double(), make_text_batch()
    losses = []
    for i, scores in enumerate(log_probabilities(system, batch)):
        for position, token in enumerate(batch.target[i, 1 : batch.target_lengths[i]].tolist()):
            row = scores[position]
            losses.append(-(1 - smoothing) * row[token] - smoothing * row.mean())
    wanted = torch.stack(losses).mean()
    assert len(losses) == int((batch.target_lengths - 1).sum())
    torch.testing.assert_close(system.training_step(batch, 0), wanted, check_dtype=False)
    torch.testing.assert_close(system.training_step(widened(batch, 3), 0), wanted, check_dtype=False)
    gradients = torch.autograd.grad(wanted, list(system.parameters()))
    for found, gradient in zip(
        torch.autograd.grad(system.training_step(widened(batch, 2), 0), list(system.parameters())),
        gradients,
        strict=True,
    ):
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_out_of_range(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing .* got {smoothing}"):
        Likelihood(smoothing)


# Metrics.


def pairs(system: Seq2Seq, sentences: list[str]) -> tuple[list[str], list[str]]:
    """Sources, and references that have some words in common with the translations."""
    written = system.translate(sentences, BeamSearch(size=1))
    references = []
    for line in written:
        words = line.split()
        words[2::5] = ["the"] * len(words[2::5])
        references.append(" ".join(word.title() if i % 4 == 3 else word for i, word in enumerate(words)))
    return sentences, references


@pytest.mark.parametrize("size", [1, 2, 6])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_are_those_of_the_whole_set_whatever_the_batches(
    stage: str,
    size: int,
    sentences: list[str],
    make_writer: MakeTranslator,
    make_text_batch: MakeTextBatch,
    make_text_loader: MakeTextLoader,
    make_trainer: MakeTrainer,
) -> None:
    system = make_writer(objective=Likelihood(0.2), strategy=BeamSearch(size=3))
    sources, references = pairs(system, sentences)
    batches = [make_text_batch(sources[i : i + size], references[i : i + size]) for i in range(0, 6, size)]
    trainer = make_trainer()
    run = trainer.validate if stage == "val" else trainer.test
    [found] = run(system, make_text_loader(*batches), verbose=False)
    written = system.translate(sources, BeamSearch(size=1 if stage == "val" else 3))
    assert found.keys() == {f"{stage}/{name}" for name in NAMES}
    bleu = sacrebleu.corpus_bleu(written, [references])
    assert 5 < bleu.score < 95
    assert found[f"{stage}/bleu"] == pytest.approx(bleu.score, rel=1e-5)
    lower = sacrebleu.corpus_bleu(written, [references], lowercase=True).score
    assert lower != bleu.score
    assert found[f"{stage}/bleu_lower"] == pytest.approx(lower, rel=1e-5)
    assert found[f"{stage}/chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, [references]).score, rel=1e-5)
    same = [one == other for one, other in zip(written, references, strict=True)]
    assert found[f"{stage}/exact"] == pytest.approx(sum(same) / 6, rel=1e-5)
    batch = make_text_batch(sources, references)
    nll, right = [], []
    for i, scores in enumerate(log_probabilities(system, batch)):
        labels = batch.target[i, 1 : batch.target_lengths[i]]
        nll += (-scores[torch.arange(len(labels)), labels]).tolist()
        right += (scores.argmax(-1) == labels).tolist()
    assert found[f"{stage}/loss"] == pytest.approx(sum(nll) / len(nll), rel=1e-4)
    assert found[f"{stage}/perplexity"] == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-3)
    assert found[f"{stage}/token_accuracy"] == pytest.approx(sum(right) / len(right), rel=1e-5)


def test_a_second_loop_starts_at_zero(
    sentences: list[str],
    make_writer: MakeTranslator,
    make_text_batch: MakeTextBatch,
    make_text_loader: MakeTextLoader,
    make_trainer: MakeTrainer,
) -> None:
    system, trainer = make_writer(), make_trainer()
    sources, references = pairs(system, sentences)
    one = make_text_loader(make_text_batch(sources[:3], references[:3]))
    other = make_text_loader(make_text_batch(sources[3:], references[3:]))
    alone = trainer.validate(system, other, verbose=False)
    first = trainer.validate(system, one, verbose=False)
    assert trainer.validate(system, other, verbose=False) == alone != first


def test_signatures_are_logged_after_a_test(
    make_writer: MakeTranslator,
    make_text_loader: MakeTextLoader,
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr("lightning_modules.text.text_generator.rank_zero_info", said.append)
    make_trainer().test(make_writer(), make_text_loader(), verbose=False)
    bleu, lower, chrf = said
    assert bleu.startswith("test/bleu: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert lower.startswith("test/bleu_lower: nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:")
    assert chrf.startswith("test/chrf: nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_predictions_are_the_strategys(
    sentences: list[str],
    make_writer: MakeTranslator,
    make_text_batch: MakeTextBatch,
    make_text_loader: MakeTextLoader,
    make_trainer: MakeTrainer,
) -> None:
    system = make_writer(strategy=BeamSearch(size=4))
    batch = make_text_batch(sentences, [""] * 6)
    predicted = make_trainer().predict(system, make_text_loader(batch))
    assert predicted == [system.translate(sentences, BeamSearch(size=4))]
    best = system.write(batch, BeamSearch(size=4), n_best=3)
    assert [len(hypotheses) for hypotheses in best] == [3] * 6
    assert system.texts(best) == predicted[0]
    assert all(one.weights is None for hypotheses in best for one in hypotheses)


def test_a_beam_of_five_is_the_default(tokenizers: TextTokenizers) -> None:
    assert TransformerSeq2Seq(*tokenizers).strategy == BeamSearch(size=5)


# Two processes.

SCRIPT = """
import json, sys
from lightning import Trainer
from datamodules import TextDataModule, TextPair, Word
from lightning_modules import System

given = json.load(open("given.json"))

class Lines(TextDataModule):
    def load(self):
        pairs = [TextPair(source, target, line) for line, (source, target) in enumerate(given["pairs"], start=1)]
        return {"train": [TextPair(*given["words"], 1)], "val": pairs}

system = System.load_from_checkpoint("one.ckpt")
data = Lines(Word(), Word(), max_tokens=24)
assert data.source_tokenizer == system.source_tokenizer and data.target_tokenizer == system.target_tokenizer
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
[metrics] = trainer.validate(system, data, verbose=False)
json.dump({**metrics, "processes": trainer.world_size}, open("found.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch cannot run several processes")
def test_two_processes_log_the_scores_of_the_whole_set(
    tmp_path: Path,
    sentences: list[str],
    make_writer: MakeTranslator,
    make_text_batch: MakeTextBatch,
    make_trainer: MakeTrainer,
) -> None:
    system = make_writer()
    sources, references = pairs(system, sentences[:5])
    trainer = make_trainer()
    trainer.strategy.connect(system)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    tokenizers = (system.source_tokenizer, system.target_tokenizer)
    words = [" ".join(tokenizer.tokens(range(4, len(tokenizer)))) for tokenizer in tokenizers]
    given = {"pairs": list(zip(sources, references, strict=True)), "words": words}
    (tmp_path / "given.json").write_text(json.dumps(given))
    (tmp_path / "run.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["processes"] == 2
    written = system.translate(sources, BeamSearch(size=1))
    assert found["val/bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, [references]).score, rel=1e-5)
    assert found["val/chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, [references]).score, rel=1e-5)
    batch = make_text_batch(sources, references)
    nll = [
        -float(row[token])
        for i, rows in enumerate(log_probabilities(system, batch))
        for row, token in zip(rows, batch.target[i, 1 : batch.target_lengths[i]].tolist(), strict=True)
    ]
    assert found["val/loss"] == pytest.approx(sum(nll) / len(nll), rel=1e-4)


# Subclasses.


class Silent(TextGenerator):
    """A system without any of the methods."""

    def __init__(self, tokenizers: TextTokenizers, network: nn.Module) -> None:
        nn.Module.__init__(self)
        self.target_tokenizer, self.network = tokenizers.target, network


def test_a_system_names_the_methods_that_it_must_define(tokenizers: TextTokenizers) -> None:
    system = Silent(tokenizers, nn.ModuleDict())
    for method in (system.encode, system.target, system.references, system.length_limit):
        with pytest.raises(NotImplementedError, match=rf"Silent.*{method.__name__}\(batch\)"):
            method(None)


def test_the_decoder_must_be_one(tokenizers: TextTokenizers) -> None:
    network = nn.Module()
    network.decoder = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"decoder .*got Linear"):
        _ = Silent(tokenizers, network).decoder
