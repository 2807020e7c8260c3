"""A backbone that is frozen for some epochs, or for the whole training."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attention_blocks import SqueezeExcite
from datamodules import ImageTransform
from lightning_modules import ConvClassifier, FreezeBackbone, SmallResNet

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeTrainer

TINY = partial(SmallResNet, widths=(8, 16), depth=1)
TRANSFORM = ImageTransform(12, channels=1)


def _loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(16, 1, 12, 12), torch.arange(16) % 3), batch_size=8)


class SqueezeExciteOfFour(SqueezeExcite):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, hidden_channels=4)


def test_a_frozen_backbone_does_not_change_before_its_epoch(make_trainer: MakeTrainer) -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour)
    trainer = make_trainer(max_epochs=1, callbacks=[FreezeBackbone(epochs=1)])

    def state() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in model.network.state_dict().items()}

    before = state()
    trainer.fit(model, _loader(), _loader())
    frozen = state()
    for name, value in frozen.items():
        new = name.startswith("head") or ".attention." in name
        assert torch.equal(value, before[name]) is not new, name
    trainer = make_trainer(max_epochs=2, callbacks=[FreezeBackbone(epochs=1)])
    trainer.fit(model, _loader(), _loader())
    assert all(not torch.equal(value, frozen[name]) for name, value in state().items())


def test_a_system_without_layers_has_no_backbone_to_freeze(make_trainer: MakeTrainer) -> None:
    class Headless(ConvClassifier):
        def layers(self) -> list[nn.Module]:
            return []

    with pytest.raises(ValueError, match=r"Headless .* layers\(\)"):
        make_trainer(max_epochs=1, callbacks=[FreezeBackbone(1)]).fit(Headless(3, TRANSFORM, TINY), _loader())
    with pytest.raises(ValueError, match=r"epochs .* got -2"):
        FreezeBackbone(-2)


def test_minus_one_freezes_for_the_whole_training_and_thaws_afterwards(make_trainer: MakeTrainer) -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    make_trainer(max_epochs=2, callbacks=[FreezeBackbone(epochs=-1)]).fit(model, _loader(), _loader())
    for name, value in model.network.state_dict().items():
        new = name.startswith("head") or ".attention." in name
        assert torch.equal(value, before[name]) is not new, name
    assert all(parameter.requires_grad for parameter in model.parameters())
