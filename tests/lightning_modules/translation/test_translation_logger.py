"""Translations of validation sentences in the logger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_modules import AttentionMapLogger, BeamSearch, TranslationLogger

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import (
        MakeClassifier,
        MakeLoader,
        MakeTextBatch,
        MakeTextLoader,
        MakeTrainer,
        MakeTranslator,
    )


def test_translations_are_logged_after_each_epoch(
    tmp_path: Path,
    make_translator: MakeTranslator,
    make_trainer: MakeTrainer,
    make_text_batch: MakeTextBatch,
    make_text_loader: MakeTextLoader,
) -> None:
    system, batch = make_translator("luong", strategy=BeamSearch(size=1)), make_text_batch()
    loader = make_text_loader(batch, batch)
    trainer = make_trainer(
        CSVLogger(tmp_path, "texts"),
        max_epochs=2,
        num_sanity_val_steps=1,
        callbacks=[TranslationLogger(num_sentences=2)],
    )
    trainer.fit(system, loader, loader)
    written = (tmp_path / "texts" / "version_0" / "translations.md").read_text(encoding="utf-8")
    first, second = written.split("## step ")[1:]
    assert (first[0], second[0]) == ("2", "4")
    lines = [line.removeprefix("- ") for line in second.splitlines()[1:] if line]
    expected = []
    for source, target, text in zip(
        batch.source_texts, batch.target_texts, system.translate(batch.source_texts), strict=True
    ):
        expected += [f"source: {source}", f"reference: {target}", f"translation: {text}"]
    assert lines == expected[:6]


def test_logging_does_not_change_the_training(
    tmp_path: Path, make_translator: MakeTranslator, make_trainer: MakeTrainer, make_text_loader: MakeTextLoader
) -> None:
    logged, plain, loader = make_translator(), make_translator(), make_text_loader()
    plain.load_state_dict(logged.state_dict())
    callbacks = [TranslationLogger(), AttentionMapLogger()]
    make_trainer(CSVLogger(tmp_path, "texts"), max_epochs=2, callbacks=callbacks).fit(logged, loader, loader)
    make_trainer(max_epochs=2).fit(plain, loader, loader)
    for name, value in logged.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_a_system_that_does_not_translate_is_refused(
    make_classifier: MakeClassifier, make_trainer: MakeTrainer, make_loader: MakeLoader
) -> None:
    trainer = make_trainer(callbacks=[TranslationLogger()], num_sanity_val_steps=0)
    with pytest.raises(ValueError, match=r"TranslationLogger .* got ViTClassifier"):
        trainer.fit(make_classifier(), make_loader(), make_loader())
    with pytest.raises(ValueError, match=r"num_sentences .* got 0"):
        TranslationLogger(num_sentences=0)
