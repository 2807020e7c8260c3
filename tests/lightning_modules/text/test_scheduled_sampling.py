from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from datamodules import TextBatch
from lightning_modules import ScheduledSampling

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner, MakeTextLoader, MakeTrainer, MakeTranslator


class Fractions:
    """Records the fraction of sampled tokens of each training step."""

    def __init__(self, decoder: nn.Module) -> None:
        self.seen: list[float] = []
        decoder.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        if module.training:
            self.seen.append(kwargs["sampling"])
        else:
            assert not kwargs


@pytest.mark.parametrize("highest", [0.0, 0.6, 1.0])
def test_the_fraction_rises_linearly_with_the_step(
    highest: float, make_translator: MakeTranslator, make_trainer: MakeTrainer, make_text_loader: MakeTextLoader
) -> None:
    system = make_translator("luong", objective=ScheduledSampling(fraction=highest))
    fractions = Fractions(system.decoder)
    loader = make_text_loader()  # of four batches
    make_trainer(max_epochs=2).fit(system, loader, loader)
    assert fractions.seen == pytest.approx([highest * step / 7 for step in range(8)])


def test_it_changes_the_training(
    make_translator: MakeTranslator, make_trainer: MakeTrainer, make_text_loader: MakeTextLoader
) -> None:
    plain, sampling = (
        make_translator("luong", objective=objective) for objective in (None, ScheduledSampling(fraction=1.0))
    )
    sampling.load_state_dict(plain.state_dict())
    seen: list[list[float]] = [[], []]

    class Losses(Callback):
        def __init__(self, into: list[float]) -> None:
            self.into = into

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: TextBatch, batch_idx: int
        ) -> None:
            assert isinstance(outputs, Mapping)
            self.into.append(float(outputs["loss"]))

    for system, into in zip((plain, sampling), seen, strict=True):
        make_trainer(callbacks=[Losses(into)]).fit(system, make_text_loader())
    assert seen[0][0] == seen[1][0]  # nothing is sampled at the first step
    assert seen[0][-1] != seen[1][-1]


def test_it_needs_a_training_of_known_length(
    make_translator: MakeTranslator, make_trainer: MakeTrainer, make_text_loader: MakeTextLoader
) -> None:
    system = make_translator("luong", objective=ScheduledSampling())
    with pytest.raises(ValueError, match=r"ScheduledSampling.*max_epochs"):
        make_trainer(max_epochs=-1).fit(system, make_text_loader())


def test_it_trains_captioners_too(make_captioner: MakeCaptioner) -> None:
    assert make_captioner(objective=ScheduledSampling(fraction=0.5)).objective == ScheduledSampling(fraction=0.5)
    with pytest.raises(ValueError, match=r"objective=ScheduledSampling.*TransformerTextDecoder"):
        make_captioner("transformer", objective=ScheduledSampling())


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction .* got {fraction}"):
        ScheduledSampling(fraction=fraction)
