from __future__ import annotations

from torch import nn

from attention_blocks.evaluating import evaluating


def test_evaluating_restores_the_mode_of_each_submodule() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    module[1].eval()
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == [True, True, False, False]
