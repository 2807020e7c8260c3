from __future__ import annotations

import pytest
import torch

from lightning_modules.cli.devices import find_device, trainer_arguments


def test_a_gpu_is_the_default_if_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device(None).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device(None).type == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "abacus", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ValueError, match=f"device must be .*{name!r}"):
        find_device(name)


def test_the_trainers_own_number_of_devices_counts() -> None:
    assert trainer_arguments("cpu") == {"accelerator": "cpu", "devices": 1}
    assert trainer_arguments("cpu", 2) == {"accelerator": "cpu", "devices": 2}


def test_a_numbered_device_is_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.cli.devices.find_device", torch.device)
    assert trainer_arguments("cuda:1") == {"accelerator": "cuda", "devices": [1]}
    with pytest.raises(ValueError, match=r"device='cuda:1' .*trainer.devices=2"):
        trainer_arguments("cuda:1", 2)
