"""Networks that a checkpoint is going to fill do not look for trained weights."""

from __future__ import annotations

from threading import Thread

import pytest

from lightning_modules import TimmNetwork
from lightning_modules.backbones.pretrained import are_weights_to_come, weights_to_come


def test_weights_are_to_come_inside_the_context_only() -> None:
    assert not are_weights_to_come()
    with weights_to_come():
        with weights_to_come():
            assert are_weights_to_come()
        assert are_weights_to_come()
    assert not are_weights_to_come()


def test_the_context_ends_with_an_error_too() -> None:
    with pytest.raises(RuntimeError, match="broken"), weights_to_come():
        raise RuntimeError("broken")
    assert not are_weights_to_come()


def test_other_threads_are_not_affected() -> None:
    found: list[bool] = []
    with weights_to_come():
        thread = Thread(target=lambda: found.append(are_weights_to_come()))
        thread.start()
        thread.join()
    assert found == [False]


def test_a_network_does_not_ask_for_its_file_inside_the_context() -> None:
    with weights_to_come():
        assert TimmNetwork(3, (32, 32), name="resnet10t", pretrained="nowhere.safetensors").head.out_features == 3
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        TimmNetwork(3, (32, 32), name="resnet10t", pretrained="nowhere.safetensors")
