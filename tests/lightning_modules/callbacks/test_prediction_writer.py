from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from lightning_modules import PredictionWriter

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import (
        MakeClassifier,
        MakeLoader,
        MakeTextBatch,
        MakeTextLoader,
        MakeTrainer,
        MakeTranslator,
        RunCommand,
    )


def test_labels_and_probabilities_in_the_loaders_order(
    tmp_path: Path, make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    system, loader = make_classifier(), make_loader(count=20)
    writer = PredictionWriter(tmp_path / "deep" / "labels.jsonl")
    make_trainer(callbacks=[writer]).predict(system, loader, return_predictions=False)
    images = torch.cat([batch[0] for batch in loader])
    wanted = [guesses[0] for guesses in system.classify(images, top=1)]
    assert writer.path == tmp_path / "deep" / "labels.jsonl"
    found = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert [record["label"] for record in found] == [guess.label for guess in wanted]
    assert [record["probability"] for record in found] == pytest.approx([guess.probability for guess in wanted])


def test_batches_that_name_their_rows_are_put_in_order(
    tmp_path: Path,
    make_writer: MakeTranslator,
    make_text_batch: MakeTextBatch,
    make_text_loader: MakeTextLoader,
    make_trainer: MakeTrainer,
) -> None:
    system, batch = make_writer("bahdanau"), make_text_batch()
    later = batch._replace(indices=[5, 3, 4])
    sooner = batch._replace(indices=[1, 2, 0])
    writer = PredictionWriter(tmp_path / "translations.txt")
    make_trainer(callbacks=[writer]).predict(system, make_text_loader(later, sooner), return_predictions=False)
    texts = system.translate(batch.source_texts)
    assert len(set(texts)) == 3
    order = [2, 0, 1, 1, 2, 0]
    lines = (tmp_path / "translations.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [texts[row] for row in order]


def test_the_default_file_is_in_the_log_folder(
    tmp_path: Path, make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    writer = PredictionWriter()
    trainer = make_trainer(logger=True, callbacks=[writer])
    trainer.predict(make_classifier(), make_loader(), return_predictions=False)
    assert trainer.log_dir is not None
    assert writer.path == Path(trainer.log_dir) / "predictions.jsonl"
    assert len(writer.path.read_text().splitlines()) == 16


SMALL = {
    "vit_digits": (),
    "rnn_number_bases": (
        *("--data.limit", "1000", "--data.train_size", "500", "--data.val_size", "50", "--data.test_size", "101"),
        *("--data.max_tokens", "256", "--trainer.log_every_n_steps", "1"),
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch cannot run several processes")
@pytest.mark.parametrize("recipe", SMALL)
def test_two_processes_write_the_file_of_one(
    recipe: str, tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attention-blocks"])
    words = ("--config", recipe, *SMALL[recipe], "--device", "cpu")
    quick: tuple[str, ...] = (
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "2",
        "--trainer.limit_val_batches",
        "1",
    )
    assert run_command("fit", *words, *quick).cli is not None
    [checkpoint] = (tmp_path / "runs").rglob("checkpoints/[!l]*.ckpt")
    words += ("--ckpt_path", str(checkpoint))
    assert "1.jsonl" in run_command("predict", *words, "--out", "1.jsonl").out
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lightning_modules", "predict"),
            *words,
            *("--out", "2.jsonl", "--trainer.devices", "2"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("2.jsonl") == 1
    one, two = ([json.loads(line) for line in Path(file).read_text().splitlines()] for file in ("1.jsonl", "2.jsonl"))
    assert len(one) > 100
    if recipe == "vit_digits":  # probabilities in batches of other sizes differ by rounding
        probabilities = [[record.pop("probability") for record in records] for records in (one, two)]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
    assert one == two
